"""The same order is the same worker, also where an answer was lost."""

from __future__ import annotations

import asyncio

import pytest
from managerkit import Make, Riddle, dead_reservation, order, run

from outpost_core.errors import ConflictError, SpawnRefusedError, UnreachableError, UnsupportedError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Limits, Order, Result, State, WorkerStatus
from outpost_core.wire import digest
from outpost_manager.manager import Manager
from outpost_manager.orders.making import OrderRequest
from outpost_testing import FakeOutpost


def test_the_same_order_is_the_same_worker_and_another_is_a_conflict(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        again = await manager.spawn(order())
        assert again.adopted
        with pytest.raises(ConflictError, match="another order"):
            await manager.spawn(order(prompt="something else"))
        assert [hook for hook, _ in a.calls].count("outpost_spawn") == 1

    run(make(a), body)


def test_the_same_order_ten_times_at_once_is_one_worker(make: Make) -> None:
    a = FakeOutpost("a")
    a.slow(0.05)

    async def body(manager: Manager) -> None:
        answers = await asyncio.gather(*(manager.spawn(order()) for _ in range(10)))
        assert len({x.worker.id for x in answers}) == 1
        assert [x.adopted for x in answers].count(False) == 1
        assert [hook for hook, _ in a.calls].count("outpost_spawn") == 1

    run(make(a), body)


def test_the_digest_survives_the_ledger(make: Make) -> None:
    wanted = order(limits=Limits(timeout=60, cpu=2, grace=1))
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        dead_reservation(manager, wanted, "a")
        await manager.refresh()
        assert (await manager.spawn(wanted)).adopted

    run(make(a), body)


def test_again_is_the_next_attempt_and_goes_on_from_the_checkpoint(make: Make) -> None:
    a = FakeOutpost("a")
    request = OrderRequest(issue="gt-1", command=("true",), no_rig=True)

    async def body(manager: Manager) -> None:
        first = await manager.order(request)
        await manager.spawn(first)
        with pytest.raises(ConflictError, match="still runs"):
            await manager.order(
                OrderRequest(issue="gt-1", command=("true",), no_rig=True, again=True)
            )
        kept = "refs/outpost/gt-1.1"
        a.finish("gt-1.1", Result(state=State.FAILED, reason="timeout", checkpoint=kept))
        await manager.refresh()
        assert (await manager.order(request)) == first, "asking twice is the same worker"
        again = await manager.order(
            OrderRequest(
                issue="gt-1", command=("true",), again=True, rig="https://example.com/x.git"
            )
        )
        assert (again.attempt, again.resume) == (2, kept)

    run(make(a), body)


def test_a_lost_answer_is_settled_by_asking(make: Make) -> None:
    a, b = Riddle("a"), FakeOutpost("b")

    async def body(manager: Manager) -> None:
        assert (await manager.spawn(order())).worker.outpost == "a"
        assert b.calls == []

    run(make(a, b), body)


def test_a_backend_that_raises_something_of_its_own_proves_nothing(make: Make) -> None:
    a, b = Riddle("a"), FakeOutpost("b")
    a.error, a.starts = RuntimeError("a defect"), False

    async def body(manager: Manager) -> None:
        with pytest.raises(UnreachableError, match="a defect"):
            await manager.spawn(order())
        assert b.calls == []

    run(make(a, b), body)


def test_a_spawn_that_may_have_started_goes_nowhere_else_and_is_finished_later(make: Make) -> None:
    a, b = Riddle("a"), FakeOutpost("b")
    a.starts = False

    async def body(manager: Manager) -> None:
        with pytest.raises(UnreachableError, match="not known"):
            await manager.spawn(order())
        assert b.calls == []
        assert (await manager.ledger.active()) == {"a": 1}
        a.starts, a.error = True, None  # the line is back
        await manager.refresh()
        assert (await manager.worker("gt-1")).state is State.WORKING
        assert b.calls == [("outpost_list", "")]

    run(make(a, b), body)


def test_in_doubt_a_second_try_does_not_go_elsewhere(make: Make) -> None:
    a, b = Riddle("a"), FakeOutpost("b")
    a.starts = False

    async def body(manager: Manager) -> None:
        with pytest.raises(UnreachableError):
            await manager.spawn(order())
        a.cut("down")
        a.error = UnreachableError("no route", sent=False)
        with pytest.raises(UnreachableError, match="not known"):
            await manager.spawn(order())
        assert b.calls == []
        a.restore()
        a.error = SpawnRefusedError("full")
        assert (await manager.spawn(order())).worker.outpost == "b"

    run(make(a, b), body)


@pytest.mark.parametrize("there", [True, False])
def test_a_refused_request_proves_nothing_of_an_earlier_one(make: Make, there: bool) -> None:
    class Upgraded(FakeOutpost):
        """Has started the order, and has learnt since that it cannot."""

        @hookimpl
        async def outpost_spawn(self, order: Order) -> WorkerStatus:
            raise UnsupportedError("not any more")

    a, b = Upgraded("a"), FakeOutpost("b")
    if there:
        a.put(WorkerStatus(id="gt-1.1", state=State.WORKING, digest=digest(order())))

    async def body(manager: Manager) -> None:
        dead_reservation(manager, order(), "a")
        if there:
            assert (await manager.spawn(order())).worker.outpost == "a"
        else:
            with pytest.raises(UnsupportedError):
                await manager.spawn(order())
            assert (await manager.ledger.worker("gt-1.1")) is None
        assert b.calls == []

    run(make(a, b), body)


def test_a_worker_that_is_only_queued_is_spawned_again_not_believed(make: Make) -> None:
    class Publishes(FakeOutpost):
        broken = True

        @hookimpl
        async def outpost_spawn(self, order: Order) -> WorkerStatus:
            if self.broken:
                self.put(WorkerStatus(id=order.worker, state=State.QUEUED, digest=digest(order)))
                raise UnreachableError("died between the two steps")
            self._world.statuses.clear()
            return await super().outpost_spawn(order)

    a = Publishes("a")

    async def body(manager: Manager) -> None:
        with pytest.raises(UnreachableError, match="not known"):
            await manager.spawn(order())
        a.broken = False
        await manager.refresh()
        assert (await manager.ledger.worker("gt-1.1")).state is State.WORKING  # type: ignore[union-attr]

    run(make(a), body)
