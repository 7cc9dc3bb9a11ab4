"""A clock that jumps changes no bill, and no time that a worker has left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from farkit import order

from outpost_cloudrun import price
from outpost_cloudrun.keeper import overdue, steady
from outpost_cloudrun.keeper.far import Far
from outpost_cloudrun.keeper.records import Records
from outpost_cloudrun.keeper.runs import Runs
from outpost_cloudrun.keeper.stream import Stream
from outpost_cloudrun.keeper.terms import Terms
from outpost_cloudrun.keeper.workerrecord import WorkerRecord
from outpost_cloudrun.options import CloudRunOptions
from outpost_core.types import State

OPTIONS = CloudRunOptions(project="my-project-1", region="us-central1", service="worker")
DAYS = 3 * 86_400.0


@pytest.fixture(params=[DAYS, -DAYS])
def jump(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Sets the clock of this process forward, or back."""
    real = time.time

    def set_clock() -> None:
        monkeypatch.setattr(time, "time", lambda: real() + request.param)

    return set_clock


def record_of(folder: Path, issue: str = "gt-1") -> WorkerRecord:
    return Records(folder).create(order(issue, "true", timeout=600.0))


def asked(runs: Runs, record: WorkerRecord, begun: float) -> None:
    runs.asked(record, "one", begun, begun)


def test_a_clock_that_jumps_while_a_worker_runs_is_not_paid_for(
    tmp_path: Path, jump: Callable[[], None]
) -> None:
    record, runs = record_of(tmp_path), Runs(OPTIONS, tmp_path)
    asked(runs, record, steady.now())
    jump()
    cost = runs.cost(record)
    second = price.hour(OPTIONS).busy / 3600
    assert cost is not None
    assert 0 < cost < 10 * second


@pytest.mark.parametrize("away", [DAYS, -DAYS])
def test_a_beginning_by_another_clock_is_paid_for_as_what_it_can_be(
    tmp_path: Path, away: float
) -> None:
    """A keeper of before may have had another clock."""
    record, runs = record_of(tmp_path), Runs(OPTIONS, tmp_path)
    asked(runs, record, steady.now() + away)
    cost = runs.cost(record)
    assert cost is not None
    assert 0 <= cost <= price.worst_case(OPTIONS, record.order)


def stream_of(record: WorkerRecord, root: Path) -> Stream:
    async def credentials(_: WorkerRecord) -> str:
        return ""

    async def reach() -> Far:
        raise AssertionError("nobody is asked")

    terms = Terms(
        name="burst", request_timeout=None, resume=True, credentials=credentials,
        runs=Runs(OPTIONS, root),
    )  # fmt: skip
    return Stream(record, terms, reach)


def test_the_time_that_is_left_is_not_that_of_the_clock(
    tmp_path: Path, jump: Callable[[], None]
) -> None:
    record = record_of(tmp_path)
    record.accept()
    record.tell(State.WORKING, started_at=steady.now() - 100)
    stream = stream_of(record, tmp_path)
    jump()
    assert stream._left() == pytest.approx(500, abs=5)


@pytest.mark.parametrize(("away", "left"), [(DAYS, 600.0), (-DAYS, 0.0)])
def test_the_time_that_is_left_is_never_more_than_there_was_or_less_than_none(
    tmp_path: Path, away: float, left: float
) -> None:
    record = record_of(tmp_path)
    record.accept()
    record._status = record.status.__class__(  # as another clock has written it down
        id=record.worker, state=State.WORKING, started_at=steady.now() + away
    )
    assert stream_of(record, tmp_path)._left() == left


@pytest.mark.parametrize("away", [DAYS, -2000.0])
def test_who_is_over_his_time_is_ended_though_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: float
) -> None:
    monkeypatch.setattr(overdue, "LET_GO", 0.2)
    monkeypatch.setattr(price, "AROUND", 0.0)
    record = Records(tmp_path).create(order("gt-1", "true", timeout=1.0, grace=0.0))
    said: list[str] = []

    async def stop(_: WorkerRecord, grace: float) -> None:
        said.append(f"stop {grace:g}")

    async def let_go() -> None:
        said.append("let go")

    begun = steady.now() + away
    work = overdue.end_overdue(record, OPTIONS, begun, stop, let_go)
    asyncio.run(asyncio.wait_for(work, 30))
    assert said == ["stop 0", "let go"]
