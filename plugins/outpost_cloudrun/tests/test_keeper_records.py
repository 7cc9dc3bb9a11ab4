"""What is written down of a worker: whole, private, at exact offsets, and once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from outpost_cloudrun.keeper.output import HoleError
from outpost_cloudrun.keeper.records import Records
from outpost_cloudrun.keeper.workerrecord import WorkerRecord
from outpost_core.errors import ConflictError, NotFoundError
from outpost_core.types import Agent, Issue, Limits, Order, Result, Secrets, State, Usage


def order(issue: str = "gt-1", **more: object) -> Order:
    values = {"issue": Issue(id=issue), "agent": Agent(argv=("true",)), **more}
    return Order(**values)  # type: ignore[arg-type]


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "burst")


@pytest.fixture
def record(records: Records) -> WorkerRecord:
    return records.create(order())


def test_an_order_is_there_once(records: Records, record: WorkerRecord) -> None:
    assert record.status.state is State.QUEUED, "whoever ordered it repeats the spawn"
    assert records.create(order()).digest == record.digest
    with pytest.raises(ConflictError):
        records.create(order(prompt="something else"))
    assert [one.worker for one in records.all()] == ["gt-1.1"]
    with pytest.raises(NotFoundError):
        records.open("../gt-1.1")


def test_nobody_else_can_read_any_of_it(records: Records) -> None:
    before = os.umask(0)
    try:
        record = records.create(order(secrets=Secrets({"KEY": "canary"})))
        record.keep_secrets({"KEY": "canary"})
        record.put_log(0, b"hello")
        record.accept()
        record.tell(State.WORKING, "agent")
        record.ask_stop(3)
    finally:
        os.umask(before)
    for path in (records.root, *records.root.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert b"canary" not in b"".join(
        path.read_bytes() for path in record.folder.iterdir() if path.name != "secrets.json"
    )


def test_values_of_secrets_are_gone_with_the_result(records: Records) -> None:
    record = records.create(order(secrets=Secrets({"KEY": "canary"})))
    assert record.kept_secrets() is None
    record.keep_secrets({"KEY": "canary"})
    assert records.open(record.worker).kept_secrets() == {"KEY": "canary"}
    record.finish(Result(state=State.DONE))
    assert records.open(record.worker).kept_secrets() is None
    record.keep_secrets({"KEY": "canary"})
    assert not (record.folder / "secrets.json").exists()


def test_the_log_is_exact_whatever_is_repeated(record: WorkerRecord) -> None:
    whole = random.Random(1).randbytes(20_000)
    chance = random.Random(2)
    while record.log_size < len(whole):
        begin = chance.randint(0, record.log_size)
        record.put_log(begin, whole[begin : begin + chance.randint(0, 900)])
    assert record.read_log(0) == whole
    record.put_log(500, b"x" * 100)
    assert record.read_log(0) == whole, "what is here is not written again"


def test_a_piece_with_a_hole_before_it_is_refused(record: WorkerRecord) -> None:
    record.put_log(0, b"abc")
    for offset in (4, -1):
        with pytest.raises(HoleError):
            record.put_log(offset, b"abcdef")
    assert record.read_log(0) == b"abc"


def test_a_log_without_an_end_is_cut_at_the_cap(records: Records) -> None:
    record = records.create(order(limits=Limits(log_bytes=1000)))
    offset = 0
    for _ in range(100):
        record.put_log(offset, b"y" * 4096)
        offset += 4096
    assert record.log_size == 1000 + 64 * 1024
    assert record.log_wanted == offset, "what was dropped is not asked for again"
    record.put_log(record.log_wanted - 10, b"z" * 20)
    assert record.log_size == 1000 + 64 * 1024
    result = record.finish(Result(state=State.DONE, log_bytes=10**9))
    assert result.log_truncated
    assert result.log_bytes == record.log_size


def test_a_result_is_written_once(records: Records, record: WorkerRecord) -> None:
    record.accept()
    record.tell(State.WORKING, "agent", started_at=5.0, usage=Usage(turns=3))
    first = record.finish(Result(state=State.DONE, branch="b", commit="a" * 40))
    again = record.finish(Result(state=State.FAILED, reason="agent_failed"))
    assert again == first
    record.tell(State.WORKING, "later")
    assert record.status.state is State.DONE
    known = records.open(record.worker)
    assert known.result == first
    assert known.status == record.status
    assert known.status.started_at == 5.0


def test_a_result_that_cannot_be_is_broken(records: Records) -> None:
    good = Result(state=State.DONE)
    for number, bad in enumerate(
        [
            replace(good, commit="no commit"),
            replace(good, branch="--upload-pack=evil"),
            replace(good, finished_at=1e300),
            replace(good, state=State.WORKING),
            replace(good, reason="no such \x1b[2J reason"),
        ]
    ):
        result = records.create(order(f"gt-{number}")).finish(bad)
        assert (result.state, result.reason) == (State.LOST, "broken")
    shown = records.create(order("gt-9")).finish(replace(good, message="a\x1b[2Jb"))
    assert "\x1b" not in shown.message


def test_what_is_told_survives_the_keeper(records: Records, record: WorkerRecord) -> None:
    record.accept()
    record.tell(State.WORKING, "agent \x07" + "x" * 900, started_at=1e300)
    known = records.open(record.worker)
    assert known.accepted
    assert known.status == record.status
    assert known.status.state is State.WORKING
    assert known.status.started_at is None
    assert len(known.status.detail) <= 500
    assert known.status.detail.isprintable()
    before = record.status
    record.tell(State.DONE)
    assert record.status is before, "an end has a result"


def test_a_course_remembers(records: Records, record: WorkerRecord) -> None:
    record.remember(leg=2, claim="x")
    record.remember(claim=None)
    assert records.open(record.worker).course == {"leg": 2}


def test_a_stop_is_durable_and_only_gets_shorter(records: Records, record: WorkerRecord) -> None:
    record.ask_stop(30)
    record.ask_stop(60)
    assert records.open(record.worker).stop_grace == 30
    record.ask_stop(0)
    assert records.open(record.worker).stop_grace == 0


def test_readers_are_told_that_there_is_more(record: WorkerRecord) -> None:
    async def work() -> bytes:
        news = record.news
        record.put_log(0, b"more")
        await asyncio.wait_for(news.wait(), 10)
        news = record.news
        await asyncio.to_thread(record.finish, Result(state=State.DONE))
        await asyncio.wait_for(news.wait(), 10)
        return record.read_log(0)

    assert asyncio.run(work()) == b"more"


def test_who_reads_its_log_or_wants_its_end_waits_for_it(
    record: WorkerRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outpost_cloudrun.keeper.workerrecord._READ", 0.0)
    with record.read():
        assert record.waited_for
        assert record.hurry.is_set()
    assert not record.waited_for
    monkeypatch.setattr("outpost_cloudrun.keeper.workerrecord._READ", 600.0)
    assert record.waited_for  # who has read will come again
    record.hurry.clear()
    with record.read():
        assert not record.hurry.is_set()
    monkeypatch.setattr("outpost_cloudrun.keeper.workerrecord._READ", 0.0)
    record.ask_stop(1.0)
    assert record.waited_for


def test_removing_forgets_it(records: Records, record: WorkerRecord) -> None:
    record.put_log(0, b"x")
    records.remove(record)
    assert list(records.all()) == []
    assert not [path for path in records.root.rglob("*") if path.is_file()]


_STEPS = """
import sys
from pathlib import Path
from outpost_cloudrun.keeper.records import Records
from outpost_core.types import *
order = Order(issue=Issue(id="gt-1"), agent=Agent(argv=("true",)))
record = Records(Path(sys.argv[1])).create(order)
record.accept()
record.put_log(record.log_wanted, b"0123456789"[record.log_wanted:])
record.ask_stop(5)
record.finish(Result(state=State.STOPPED, reason="stopped"))
Records(Path(sys.argv[1])).remove(record)
"""


@pytest.mark.parametrize(
    "point",
    [
        *("keeper.recorded", "keeper.accepted", "keeper.logged", "keeper.stop_noted"),
        *("keeper.finished", "keeper.discarded"),
    ],
)
def test_killed_at_a_write_it_goes_on_where_it_was(tmp_path: Path, point: str) -> None:
    root = tmp_path / "burst"

    def run(fault: str) -> int:
        env = {**os.environ, "OUTPOST_FAULT": fault}
        return subprocess.run(
            [sys.executable, "-c", _STEPS, str(root)], env=env, check=False, timeout=60
        ).returncode

    assert run(point) == -signal.SIGKILL
    records = Records(root)
    if point == "keeper.discarded":
        assert list(records.all()) == []
        records.tidy()
    else:
        (record,) = records.all()
        assert record.order.worker == "gt-1.1"
        assert b"0123456789".startswith(record.read_log(0))
        assert run("") == 0
    assert list(records.all()) == []
    assert not [path for path in root.rglob("*") if path.is_file()]
