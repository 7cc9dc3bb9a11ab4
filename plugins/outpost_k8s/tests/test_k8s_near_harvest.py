"""What an ended pod leaves is brought here: its last word, its output, what it cost."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import k8snearkit as kit
import pytest

from outpost_core import wire
from outpost_core.backend import BuildContext
from outpost_core.errors import UnreachableError
from outpost_core.names import checkpoint_ref
from outpost_core.types import Agent, Delivery, Issue, Limits, Order, Result, State, WorkerStatus
from outpost_k8s.far import termination
from outpost_k8s.far.copying import Copy
from outpost_k8s.near.codes import Why
from outpost_k8s.near.desk import Desk
from outpost_k8s.near.harvest import Harvest
from outpost_k8s.near.kept import Keeping, Kept
from outpost_k8s.near.logs import Logs
from outpost_k8s.near.look import Seen
from outpost_k8s.near.reasons import explain
from outpost_k8s.near.said import said_by
from outpost_k8s.objects import told
from outpost_k8s.options import K8sOptions
from outpost_worker.record.kinds import LEASE, Claim, Found

ORDER = Order(
    issue=Issue(id="x"), agent=Agent(argv=("true",)), limits=Limits(timeout=60.0), owner="ab" * 8
)
DONE = Result(state=State.DONE, exit_code=0, started_at=10.0, finished_at=20.0)


def pod(message: str = "", runtime: str = "containerd", **more: Any) -> dict[str, Any]:
    done = {
        "exitCode": 0, "reason": "Completed", "message": message,
        "startedAt": "2026-11-28T18:00:10Z", "finishedAt": "2026-11-28T18:30:00Z", **more,
    }  # fmt: skip
    return {
        "metadata": {"name": "pod", "uid": "0a1b2c3d-0000-4000-8000-000000000000"},
        "status": {
            "phase": "Succeeded",
            "startTime": "2026-11-28T18:00:00Z",
            "containerStatuses": [
                {
                    "name": "worker", "containerID": f"{runtime}://1234",
                    "state": {"terminated": done},
                }
            ],
        },
    }  # fmt: skip


class Printed:
    """A cluster that has a container's log: one after the other for each time that it is asked."""

    def __init__(self, logs: Sequence[bytes]) -> None:
        self._logs = [*logs]

    async def log(self, pod: str, *, limit: int | None = None) -> AsyncIterator[bytes]:
        del pod, limit
        log = self._logs.pop(0) if len(self._logs) > 1 else self._logs[0]
        for at in range(0, len(log), 7):
            yield log[at : at + 7]


class Near:
    """The near side of an outpost whose cluster is `Printed`."""

    def __init__(self, state: Path, *logs: bytes, **options: Any) -> None:
        said = K8sOptions(image="localhost/none:1", **options)
        self.desk = Desk("kube", said, BuildContext(state_dir=state))
        printed = Printed(logs or [b""])
        self.desk.cluster = lambda: printed  # type: ignore[method-assign,assignment,return-value]
        self.harvest = Harvest(self.desk)
        kept = self.kept()
        kept.accept(
            digest=wire.digest(ORDER), uid="1", server="s n", hosted=False,
            order=json.loads(told.told(ORDER)),
        )  # fmt: skip

    def kept(self) -> Kept:
        return Keeping(self.desk.context.state_dir).of("x.1")

    def bring(self, one: Seen) -> Kept:
        async def work() -> None:
            kept = self.kept()
            await self.harvest.end(kept, one, explain(one.job, one.pod))
            await self.harvest.log(kept, one)

        asyncio.run(work())
        return self.kept()

    def read(self, offset: int = 0) -> bytes:
        async def work() -> bytes:
            logs = Logs(self.desk, None, None, self.harvest)  # type: ignore[arg-type]
            return b"".join([piece async for piece in logs.read("x.1", offset, follow=True)])

        return asyncio.run(work())


def ended(log: bytes, *, copied: int | None = None) -> str:
    newline = bool(log) and not log.endswith(b"\n")
    printed = len(log) if copied is None else copied
    return termination.ended(DONE, len(log), printed, newline=newline, claim="ab" * 16).decode()


def runtime(name: str, log: bytes, folder: Path) -> bytes:
    """Return what a container runtime has of a log that the pod's program copies."""
    path, out = folder / "source.log", folder / "printed"
    path.write_bytes(log)
    fd = os.open(out, os.O_RDWR | os.O_CREAT)
    copy = Copy(path, fd)
    copy.start()
    assert copy.finish(10.0)
    assert copy.copied == len(log)
    os.close(fd)
    printed = out.read_bytes()
    if name != "containerd":
        return printed
    lines = printed.split(b"\n")
    return b"\n".join([line.removesuffix(b"\r") for line in lines[:-1]] + lines[-1:])


LOGS = {
    "empty": b"",
    "lines": b"one\ntwo\n",
    "no newline": b"one\ntwo",
    "carriage returns": b"one\r\ntwo\r\n\r\n\r\r\nthree\rfour\r",
    "every byte": bytes(range(256)) + bytes(reversed(range(256))) + b"\r\n",
    "across chunks": b"x" * ((64 << 10) - 1) + b"\r\n" + b"\r\n" * 40_000,
    "only the end of a line": b"\r\n",
}


@pytest.mark.parametrize("name", ["containerd", "cri-o"])
@pytest.mark.parametrize("log", LOGS.values(), ids=LOGS.keys())
def test_the_log_is_exact_whatever_the_runtime_does_to_lines(
    tmp_path: Path, log: bytes, name: str
) -> None:
    near = Near(tmp_path / "state", runtime(name, log, tmp_path))
    kept = near.bring(Seen("x.1", None, pod(ended(log), name)))
    assert kept.result is not None
    assert kept.result.state is State.DONE
    assert near.read() == log
    assert near.read(3) == log[3:]
    assert near.read(len(log) + 5) == b""


@pytest.mark.parametrize("name", ["containerd", "cri-o"])
def test_after_a_rotation_offsets_are_exact_and_the_gap_is_told(tmp_path: Path, name: str) -> None:
    log = b"".join(b"line %d\r\n" % number for number in range(1000))
    printed = runtime(name, log, tmp_path)
    left = printed[printed.index(b"line 900") :]
    near = Near(tmp_path / "state", left)
    near.bring(Seen("x.1", None, pod(ended(log), name)))
    start = log.index(b"line 900")
    said = near.read()
    notice, _, rest = said.partition(b"\n")
    assert b"%d bytes of output before this are not kept" % start in notice
    assert rest == log[start:]
    assert near.read(start) == log[start:]
    assert near.read(start + 100) == log[start + 100 :]


def test_what_the_runtime_writes_down_late_is_waited_for(tmp_path: Path) -> None:
    """A container has ended before its runtime has kept the last that it printed."""
    log = b"".join(b"line %d\n" % number for number in range(1000))
    near = Near(tmp_path, b"", log[:4096], log[:8192], log)
    near.bring(Seen("x.1", None, pod(ended(log))))
    assert near.read() == log


def test_a_copy_has_ended_once_somebody_took_all_of_it(tmp_path: Path) -> None:
    """What is in the pipe yet when the program of a container ends, no runtime keeps."""
    (tmp_path / "log").write_bytes(b"one\ntwo\n")
    reader, writer = os.pipe()
    copy = Copy(tmp_path / "log", writer)
    copy.start()
    assert not copy.finish(0.5), "nobody has taken it"
    assert copy.copied == 8
    assert os.read(reader, 100) == b"one\ntwo\n"
    assert copy.finish(30.0)
    os.close(reader)
    os.close(writer)


def test_what_was_not_printed_is_told_of(tmp_path: Path) -> None:
    log = b"one\ntwo\nthree\n"
    near = Near(tmp_path, log[:8])
    near.bring(Seen("x.1", None, pod(ended(log, copied=8))))
    assert near.read().startswith(b"one\ntwo\n\n[outpost: 6 bytes of output after this")


def test_a_log_that_the_kubelet_has_no_more_is_not_taken_for_one(tmp_path: Path) -> None:
    near = Near(tmp_path, b"unable to retrieve container logs for containerd://1234")
    near.bring(Seen("x.1", None, pod(ended(b"one\ntwo\n"))))
    assert b"8 bytes of output before this are not kept" in near.read()


def test_what_it_cost_is_the_time_of_its_pod_by_the_cluster_s_clocks(tmp_path: Path) -> None:
    near = Near(tmp_path, price_per_hour=2.0)
    kept = near.bring(Seen("x.1", None, pod(ended(b""))))
    assert kept.result is not None
    assert kept.result.cost_usd == pytest.approx(1.0)


def test_one_of_which_nothing_is_left_is_never_free_without_a_word(tmp_path: Path) -> None:
    kept = Near(tmp_path / "priced", price_per_hour=2.0).bring(Seen("x.1"))
    assert kept.result is not None
    assert (kept.result.reason, kept.result.cost_usd) == ("k8s_deleted", None)
    assert kept.result.message.endswith("its worst case counts"), "the ledger settles None so"
    kept = Near(tmp_path / "free").bring(Seen("x.1"))
    assert kept.result is not None
    assert "worst case" not in kept.result.message


def test_a_pod_that_left_no_word_is_told_by_the_cluster(tmp_path: Path) -> None:
    near = Near(tmp_path, b"partial")
    dead = pod("", exitCode=137, reason="OOMKilled")
    dead["status"]["phase"] = "Failed"
    kept = near.bring(Seen("x.1", None, dead))
    assert kept.result is not None
    assert (kept.result.state, kept.result.reason) == (State.FAILED, "k8s_oom_killed")
    assert near.read() == b"partial"


def test_a_checkpoint_that_is_not_the_worker_s_own_is_not_believed(tmp_path: Path) -> None:
    for number, (checkpoint, kept_as, words) in enumerate(
        (
            (f"refs/outpost/{ORDER.owner}/x.1", f"refs/outpost/{ORDER.owner}/x.1", ""),
            (f"refs/outpost/{ORDER.owner}/y.1", None, "not its own"),
            ("/outpost/disk/state/workers/x.1/kept.bundle", None, "gone with it"),
        )
    ):
        said = termination.ended(
            Result(state=State.STOPPED, reason="stopped", checkpoint=checkpoint),
            0, 0, newline=False, claim="",
        )  # fmt: skip
        kept = Near(tmp_path / str(number)).bring(Seen("x.1", None, pod(said.decode())))
        assert kept.result is not None
        assert kept.result.checkpoint == kept_as
        assert words in kept.result.message


@pytest.mark.parametrize(
    "message",
    [
        "", "{", "[]", "{}", '{"v": 2}', '{"v": 1}', '{"v": 1, "result": 7}',
        '{"v": 1, "result": {"state": "flying"}}', "x" * 5000, '{"v":1,"result":' + "[" * 3000,
    ],
)  # fmt: skip
def test_a_last_word_that_is_none_is_none(message: str) -> None:
    assert said_by(pod(message)) is None


@pytest.mark.parametrize(
    "more",
    [{"state": "working"}, {"finished_at": 1e300}, {"branch": "--force"}, {"cost_usd": -1.0}],
)
def test_a_last_word_that_cannot_be_is_told_as_broken(more: dict[str, Any]) -> None:
    word = said_by(pod(json.dumps({"v": 1, "result": {"state": "done", **more}})))
    assert word is not None
    assert word.result is not None
    assert (word.result.state, word.result.reason) == (State.LOST, "broken")


def test_a_result_that_was_changed_here_is_told_as_broken(tmp_path: Path) -> None:
    near = Near(tmp_path)
    kept = near.bring(Seen("x.1", None, pod(ended(b""))))
    (kept.folder / "result.json").write_text('{"state": "done", "branch": "--force"}')
    result = near.kept().result
    assert result is not None
    assert (result.state, result.reason) == (State.LOST, "broken")


def test_what_another_program_ends_or_cleans_is_seen_at_once(tmp_path: Path) -> None:
    Near(tmp_path)
    mine, theirs = Keeping(tmp_path), Keeping(tmp_path)
    assert mine.of("x.1").exists
    assert mine.of("x.1").result is None
    theirs.of("x.1").finish(DONE)
    known = mine.of("x.1").result
    assert known == DONE
    assert mine.of("x.1").result is known, "the same while nothing changes"
    theirs.forget(theirs.of("x.1"))
    assert not mine.of("x.1").exists
    assert mine.of("x.1").result is None
    assert [*mine.all()] == []


# --- by its record --------------------------------------------------------------------------------

RIG = "https://git.example/rig"
RIGGED = replace(ORDER, rig=RIG, delivery=Delivery(branch="outpost/x", message="work"))
MINE = "0a1b2c3d000040008000000000000000"


class Records:
    """A record that says what a test wants, and what was said into it."""

    def __init__(self, instance: str = "", result: Result | None = None, trouble: str = "") -> None:
        self.settled: Result | None = None
        self.seen = "1"
        self._trouble = trouble
        claim = Claim(
            worker="x.1", digest=wire.digest(RIGGED), owner=RIGGED.owner, instance=instance
        )
        self._found = Found(claim=claim, seen="1", result=result, tail=b"the end\n")
        self._none = not instance and result is None

    async def found(self, order: Order) -> Found | None:
        del order
        if self._trouble:
            raise UnreachableError(self._trouble)
        return None if self._none else replace(self._found, seen=self.seen)

    async def checkpoint(self, order: Order) -> str | None:
        return checkpoint_ref(order.worker, order.owner)

    async def settle(self, order: Order, digest: str, result: Result) -> Found:
        del order, digest
        self.settled = result
        return replace(self._found, result=result)


def on_record(state: Path, records: Records, one: Seen) -> Result | str:
    near = Near(state)
    near.desk.witness = records  # type: ignore[assignment]
    kept = near.kept()
    kept.accept(
        digest=wire.digest(RIGGED), uid="1", server="s n", hosted=False,
        order=json.loads(told.told(RIGGED)),
    )  # fmt: skip
    return asyncio.run(near.harvest.end(kept, one, explain(one.job, one.pod)))


def dead(message: str = "") -> dict[str, Any]:
    made = pod(message, exitCode=137, reason="OOMKilled")
    made["status"]["phase"] = "Failed"
    return made


def test_what_stands_on_the_record_is_how_it_ended(tmp_path: Path) -> None:
    records = Records(MINE, Result(state=State.DONE, branch="outpost/x"))
    end = on_record(tmp_path, records, Seen("x.1", None, None))
    assert isinstance(end, Result)
    assert (end.state, end.branch) == (State.DONE, "outpost/x")
    assert records.settled is None


@pytest.mark.parametrize("gone", [False, True])
def test_a_pod_that_left_no_word_is_told_on_its_record_with_the_checkpoint_there(
    tmp_path: Path, gone: bool
) -> None:
    records = Records(MINE)
    end = on_record(tmp_path, records, Seen("x.1", None, None if gone else dead()))
    assert isinstance(end, Result)
    assert end.reason == ("k8s_deleted" if gone else "k8s_oom_killed")
    assert end.checkpoint == checkpoint_ref("x.1", RIGGED.owner)
    assert records.settled is not None, "so that it stands for everybody"


def test_a_record_that_cannot_be_asked_is_no_end(tmp_path: Path) -> None:
    end = on_record(tmp_path, Records(trouble="git.example is away"), Seen("x.1", None, dead()))
    assert end == "it has ended, and its record cannot be asked: git.example is away"


@pytest.mark.parametrize("word", ["", '{"v": 1, "elsewhere": "ff00ff00ff00ff00"}'])
def test_another_pod_that_has_it_is_waited_for_until_it_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    records = Records("ff00ff00ff00ff00")
    one = Seen("x.1", None, dead(word))
    assert on_record(tmp_path, records, one) == "another pod has it (ff00ff00…)"
    records.seen = "2"
    now = time.time()
    monkeypatch.setattr("outpost_k8s.near.harvest.time.time", lambda: now + LEASE + 1)
    assert on_record(tmp_path, records, one) == "another pod has it (ff00ff00…)", "it has beaten"
    monkeypatch.setattr("outpost_k8s.near.harvest.time.time", lambda: now + 2 * LEASE + 3)
    end = on_record(tmp_path, records, one)
    assert isinstance(end, Result)
    assert end.reason == ("k8s_elsewhere" if word else "k8s_oom_killed")
    assert records.settled is not None


def test_workers_that_are_removed_at_once_are_all_gone(tmp_path: Path) -> None:
    workers = [f"n{number}.1" for number in range(400)]
    keeping = Keeping(tmp_path)
    for worker in workers:
        folder = tmp_path / "harvest" / worker
        folder.mkdir(parents=True, mode=0o700)
        (folder / "about.json").write_text("{}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda worker: keeping.forget(keeping.of(worker)), workers))
    assert list((tmp_path / "harvest").iterdir()) == []
    assert list((tmp_path / "trash").iterdir()) == []


def test_a_pod_that_runs_never_waits_again(tmp_path: Path) -> None:
    """Its program may say that it waits, which the cluster has shown as starting before."""

    async def told() -> WorkerStatus:
        mine = kit.outpost(K8sOptions(image="i"), tmp_path)
        answer = WorkerStatus(id="a.1", state=State.QUEUED, digest="d", detail="begins")
        kept, why = mine.desk.keeping.of("a.1"), Why(state=State.WORKING)
        return await mine._listing._of_answer(kept, Seen("a.1"), why, answer)

    status = asyncio.run(told())
    assert (status.state, status.detail) == (State.STARTING, "begins")
