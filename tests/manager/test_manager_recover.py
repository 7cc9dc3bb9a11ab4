"""A spawn that broke off: another process finds what is left, and finishes it or says why not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from managerkit import Make, Riddle, dead_reservation, order, run

from outpost_core.errors import LedgerError, UnreachableError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Candidate, Event, Order, Secrets, State, WorkerStatus
from outpost_core.wire import digest
from outpost_manager.ledger import Ledger, Reservation
from outpost_manager.manager import Manager
from outpost_shared.identity import me
from outpost_testing import FakeOutpost


def test_a_spawn_whose_process_died_is_finished_by_whoever_asks(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order(), "a")
        await manager.refresh()
        assert (await manager.worker("gt-1")).state is State.WORKING
        assert a.order("gt-1.1") == order()

    run(make(a), body)


def test_a_dead_spawn_is_finished_by_the_same_order_too(make: Make) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")
    a.refuse("no more")

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order(), "a")
        spawned = await manager.spawn(order())
        assert (spawned.worker.outpost, spawned.adopted) == ("b", False)

    run(make(a, b), body)


def test_secrets_of_a_dead_spawn_come_from_the_environment_or_it_waits(make: Make) -> None:
    a = FakeOutpost("a")
    wanted = order(secrets=Secrets({"KEY": "s3cret"}))

    async def leave(manager: Manager) -> None:
        dead_reservation(manager, wanted, "a")
        await manager.refresh()
        assert a.calls == [("outpost_list", "")], "without the value it waits"

    async def finish(manager: Manager) -> None:
        await manager.refresh()
        assert a.order("gt-1.1").secrets["KEY"] == "s3cret"

    run(make(a), leave)
    run(make(a, environ={"KEY": "s3cret"}), finish)


def test_a_secret_that_is_lacking_is_said_by_name(make: Make) -> None:
    wanted = order(secrets=Secrets({"KEY": "hunter22"}))

    async def body(manager: Manager) -> None:
        dead_reservation(manager, wanted, "a")
        await manager.refresh()
        (event,) = [e for e in (await manager.ledger.events("gt-1.1")) if e.kind == "unfinished"]
        assert "KEY" in str(event.data["reason"])

    run(make(FakeOutpost("a")), body)


def test_a_living_spawn_of_another_process_is_left_alone(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        await manager.ledger.reserve(
            [Reservation(order=order(), outpost="a", digest=digest(order()), owner=f"{me()}/other")]
        )
        await manager.refresh()
        assert a.calls == [("outpost_list", "")]

    run(make(a), body)


def test_an_interrupted_spawn_that_nobody_takes_ends_and_says_why(make: Make) -> None:
    a = FakeOutpost("a")
    a.refuse("no memory")

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order(), "a")
        worker = await manager.worker("gt-1")
        assert worker.state is State.FAILED
        assert worker.result is not None
        assert worker.result.reason == "never_started"
        assert "no memory" in worker.result.message

    run(make(a), body)


def test_a_spawn_that_cannot_be_finished_is_not_tried_at_every_look(make: Make) -> None:
    a = Riddle("a")
    a.starts = False

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order(), "a")
        for _ in range(20):
            await manager.refresh()
        kinds = [event.kind for event in (await manager.ledger.events("gt-1.1"))]
        assert kinds.count("unfinished") == 1

    run(make(a), body)


def test_a_slow_spawn_is_finished_behind_whoever_looks(make: Make) -> None:
    class Slow(FakeOutpost):
        go: asyncio.Event

        @hookimpl
        async def outpost_spawn(self, order: Order) -> WorkerStatus:
            await self.go.wait()
            return await super().outpost_spawn(order)

    a = Slow("a")
    config = "outposts:\n  - {name: a, type: fake}\ndefaults: {answer_timeout: 0.1}\n"

    async def body(manager: Manager) -> None:
        a.go = asyncio.Event()
        dead_reservation(manager, order(), "a")
        for _ in range(3):
            await manager.refresh()
        (worker,) = await manager.wait(["gt-1"], timeout=0.05)
        assert worker.state is State.STARTING
        a.go.set()
        async with asyncio.timeout(30):
            while (await manager.ledger.worker("gt-1.1")).state is not State.WORKING:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
        assert [hook for hook, _ in a.calls].count("outpost_spawn") == 1

    async def leave(manager: Manager) -> None:
        a.go = asyncio.Event()
        dead_reservation(manager, order("gt-2"), "a")
        await manager.refresh()

    run(make(a, config=config), body)
    left = make(a, config=config)
    run(left, leave)
    assert {w.id for w in left.ledger.direct.orphans()} == {"gt-2.1"}, "broken off, and nobody's"
    left.close()


def test_an_outpost_that_the_user_named_is_kept_by_a_recovery(make: Make) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(manager: Manager) -> None:
        (sheets,) = await manager.overview.sheets([order()], time.time())
        why = manager.placement.assign(order(), sheets, "a").explain()
        (await manager.ledger.reserve(
            [
                Reservation(
                    order=order(), outpost="a", digest=digest(order()), owner="x:1:1/x",
                    explanation=why,
                )
            ]
        ))  # fmt: skip
        a.refuse("full")
        assert (await manager.worker("gt-1")).state is State.FAILED
        assert b.calls == []

    run(make(a, b), body)


def test_a_broken_policy_does_not_keep_a_spawn_from_being_finished(make: Make) -> None:
    class Broken:
        @hookimpl
        def outpost_assign(self, order: Order, candidates: Sequence[Candidate]) -> list[str]:
            raise RuntimeError("no idea")

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order(), "a")
        assert (await manager.worker("gt-1")).state is State.WORKING

    run(make(FakeOutpost("a"), plugin=Broken()), body)


def test_a_cancelled_spawn_leaves_its_row_to_whoever_comes(make: Make) -> None:
    a = FakeOutpost("a")
    a.slow(60)

    async def body(manager: Manager) -> None:
        task = asyncio.ensure_future(manager.spawn_many([order("gt-1"), order("gt-2")]))
        async with asyncio.timeout(30):
            while [hook for hook, _ in a.calls].count("outpost_spawn") < 2:
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        a.slow(0)
        await manager.refresh()
        assert {w.id for w in await manager.workers()} == {"gt-1.1", "gt-2.1"}
        assert all(w.state is State.WORKING for w in (await manager.ledger.workers()))

    run(make(a), body)


def test_a_progress_that_raises_leaves_no_row_behind_in_our_name(make: Make) -> None:
    a = FakeOutpost("a")

    def progress(event: Event) -> None:
        if event.kind == "reserved":
            raise BrokenPipeError

    async def body(manager: Manager) -> None:
        with pytest.raises(BrokenPipeError):
            await manager.spawn(order(), progress=progress)
        assert (await manager.stop("gt-1")).state is State.STOPPED

    run(make(a), body)


def test_a_row_that_could_not_be_let_go_of_is_let_go_of_later(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = Riddle("a")
    a.starts = False

    async def body(manager: Manager) -> None:
        def locked(*_: object) -> None:
            raise LedgerError("locked")

        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "disown", locked)
            with pytest.raises(UnreachableError):
                await manager.spawn(order())
        assert (await manager.ledger.orphans()) == [], "it is still in this process's name"
        a.starts, a.error = True, None
        await manager.refresh()
        assert (await manager.ledger.worker("gt-1.1")).state is State.WORKING  # type: ignore[union-attr]

    run(make(a), body)


def test_a_row_that_moved_before_it_was_claimed_is_finished_where_it_is(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order(), "a")
        claim = manager.ledger.claim

        def late(worker: str, owner: str) -> Any:
            manager.ledger.direct.move(
                worker,
                Reservation(
                    order=order(), outpost="b", digest=digest(order()), owner="other-boot:1:1/x"
                ),
            )
            return claim(worker, owner)

        monkeypatch.setattr(manager.ledger, "claim", late)
        await manager.refresh()
        assert [hook for hook, _ in a.calls] == ["outpost_list"]
        assert b._world.statuses["gt-1.1"].state is State.WORKING

    run(make(a, b), body)
