"""What is seen of outposts and workers, and how long one waits for it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from managerkit import Make, order, run

from outpost_core.errors import NotFoundError, OutpostError, UnreachableError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Result, State
from outpost_manager.manager import Manager
from outpost_testing import FakeOutpost
from outpost_testing.fake import Script


def test_a_hanging_outpost_delays_nobody_beyond_its_timeout(make: Make, tmp_path: Path) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")
    a.slow(3600)
    config = (
        "outposts:\n  - {name: a, type: fake}\n  - {name: b, type: fake}\n"
        "defaults: {answer_timeout: 0.2, spawn_timeout: 0.2}\n"
    )

    async def body(manager: Manager) -> None:
        begun = time.monotonic()
        answers = await manager.ping()
        assert time.monotonic() - begun < 60
        assert isinstance(answers["a"], UnreachableError)
        assert not isinstance(answers["b"], OutpostError)
        views = {v.name: v.state for v in await manager.refresh()}
        assert views == {"a": "unreachable", "b": "ready"}

    run(make(a, b, config=config), body)


def test_unreachable_is_not_dead(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        a.cut("gone fishing")
        (worker,) = await manager.workers()
        assert worker.state is State.WORKING
        assert worker.unreachable_since is not None
        with pytest.raises(UnreachableError, match="gone fishing"):
            await manager.stop("gt-1")
        a.restore()
        (worker,) = await manager.workers()
        assert worker.unreachable_since is None

    run(make(a), body)


def test_a_worker_that_its_outpost_forgot_is_lost_and_its_slot_free(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        a._world.statuses.clear()
        a._world.listed = None
        assert (await manager.worker("gt-1")).state is State.WORKING, "one look may be wrong"
        worker = await manager.worker("gt-1")
        assert worker.state is State.LOST
        assert worker.result is not None
        assert "no longer knows" in worker.result.message
        assert (await manager.ledger.active()) == {}

    run(make(a), body)


def test_workers_that_others_started_are_taken_in(make: Make) -> None:
    a = FakeOutpost.holding("a", 3)

    async def body(manager: Manager) -> None:
        assert len(await manager.workers()) == 3
        assert (await manager.outposts())[0].active == 3

    run(make(a), body)


def test_names_to_refresh_may_come_once(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        views = await manager.refresh(name for name in ["a"])
        assert views[0].state == "ready"

    run(make(a), body)


def test_waiting_tells_each_change_and_ends(make: Make) -> None:
    a = FakeOutpost("a")
    a.script("gt-1.1", Script(after=0.1, result=Result(state=State.FAILED, reason="timeout")))
    seen: list[State] = []

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        (worker,) = await manager.wait(["gt-1"], on_change=lambda w: seen.append(w.state))
        assert worker.result is not None
        assert worker.result.reason == "timeout"
        (still,) = await manager.wait(["gt-1"], timeout=0)
        assert still.state is State.FAILED

    run(make(a), body)
    assert seen == [State.WORKING, State.FAILED]


def test_waiting_where_nobody_can_tell_ends_with_a_word(make: Make) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def start(manager: Manager) -> None:
        await manager.spawn(order(), on="b")

    async def body(manager: Manager) -> None:
        with pytest.raises(NotFoundError, match="not configured"):
            await manager.wait(["gt-1"])
        assert (await manager.forget("gt-1")).state is State.LOST

    run(make(a, b), start)
    run(make(a), body)


def test_waiting_for_what_cannot_be_built_ends_with_a_word(make: Make) -> None:
    class Unfit(FakeOutpost):
        @hookimpl
        async def outpost_stop(self, worker: str, patience: float) -> None: ...  # type: ignore[override]

    async def start(manager: Manager) -> None:
        await manager.spawn(order())

    async def body(manager: Manager) -> None:
        async with asyncio.timeout(30):
            with pytest.raises(NotFoundError, match="cannot be built"):
                await manager.wait(["gt-1"])

    run(make(FakeOutpost("a")), start)
    run(make(Unfit("a")), body)


def test_a_deadline_holds_although_outposts_hang(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        await manager.spawn_many([order(f"gt-{i}") for i in range(5)])
        a.slow(3600)
        begun = time.monotonic()
        found = await manager.wait([f"gt-{i}" for i in range(5)], timeout=0.3)
        assert time.monotonic() - begun < 8
        assert len(found) == 5

    run(make(a), body)
