"""Many orders at once: slots, money, and one that breaks off."""

from __future__ import annotations

import asyncio

import pytest
from managerkit import Make, order, run

from outpost_core.errors import OutpostError, PlacementError
from outpost_core.types import Event, Limits, Result, State, Usage
from outpost_manager.manager import Manager
from outpost_manager.placing.pending import Spawned
from outpost_testing import FakeOutpost
from outpost_testing.fake import FakeOptions


def test_many_at_once_fill_the_slots_in_order(make: Make) -> None:
    a, b = (
        FakeOutpost("a", FakeOptions(max_workers=3)),
        FakeOutpost("b", FakeOptions(max_workers=4)),
    )

    async def body(manager: Manager) -> None:
        answers = await manager.spawn_many([order(f"gt-{i}") for i in range(10)])
        places = [x.worker.outpost for x in answers if isinstance(x, Spawned)]
        assert (places.count("a"), places.count("b")) == (3, 4)
        refused = [x for x in answers if isinstance(x, OutpostError)]
        assert len(refused) == 3
        assert all("4 of 4" in str(x) for x in refused)

    run(make(a, b), body)


def test_a_slot_is_free_as_soon_as_its_worker_has_ended(make: Make) -> None:
    """Although nobody has looked since."""
    a = FakeOutpost("a", FakeOptions(max_workers=1))

    async def body(manager: Manager) -> None:
        await manager.spawn(order("gt-1"))
        with pytest.raises(PlacementError):
            await manager.spawn(order("gt-2"))
        a.finish("gt-1.1")
        assert (await manager.spawn(order("gt-2"))).worker.state is State.WORKING

    run(make(a), body)


def test_a_crowd_spreads_at_once(make: Make) -> None:
    fakes = [FakeOutpost(f"o{n}", FakeOptions(max_workers=2)) for n in range(5)]
    seen: list[Event] = []

    async def body(manager: Manager) -> None:
        answers = await manager.spawn_many(
            [order(f"gt-{n}") for n in range(11)], progress=seen.append
        )
        assert (await manager.ledger.active()) == {f"o{n}": 2 for n in range(5)}
        assert isinstance(answers[-1], PlacementError)
        assert "o4: full: 2 of 2 workers" in answers[-1].message

    run(make(*fakes), body)
    assert "refused" not in [event.kind for event in seen], "nobody was sent on from a full one"


def test_a_crowd_keeps_within_the_money(make: Make) -> None:
    options = FakeOptions(price=0.4, cost_cap_hourly=1.0)
    a, b = FakeOutpost("a", options), FakeOutpost("b", options)
    config = "".join(
        f"  - {{name: {n}, type: fake, price: 0.4, cost_cap_hourly: 1.0}}\n" for n in "ab"
    )

    async def body(manager: Manager) -> None:
        free = Limits(max_agent_cost_usd=0.0)
        answers = await manager.spawn_many([order(f"gt-{n}", limits=free) for n in range(5)])
        assert (await manager.ledger.active()) == {"a": 2, "b": 2}
        assert isinstance(answers[-1], PlacementError)

    run(make(a, b, config=f"outposts:\n{config}"), body)


def test_a_hundred_callers_keep_within_the_money_of_their_agents(make: Make) -> None:
    """Also when agents spend less than they may, more, or do not say what."""
    config = "outposts:\n  - {name: a, type: fake, cost_cap_hourly: 1.0}\n"
    a = FakeOutpost("a", FakeOptions(cost_cap_hourly=1.0))
    limits = Limits(max_agent_cost_usd=0.09)
    used = (Usage(cost_usd=0.02), Usage(), Usage(cost_usd=0.08, partial=True))

    async def body(manager: Manager) -> None:
        async def call(number: int) -> bool:
            try:
                await manager.spawn(order(f"gt-{number}", limits=limits))
            except PlacementError:
                return False
            assert (await manager.ledger.spent(0))["a"] <= 1.0
            result = Result(state=State.DONE, exit_code=0, usage=used[number % 3])
            if number % 4:
                a.finish(f"gt-{number}.1", result)
            return True

        placed = await asyncio.gather(*map(call, range(100)))
        await manager.refresh()
        (view,) = await manager.outposts()
        assert 0.5 < view.spent <= 1.0
        assert 11 <= sum(placed) < 100
        assert len(await manager.ledger.workers()) == sum(placed)

    run(make(a, config=config), body)


def test_a_spawn_that_breaks_off_leaves_none_of_its_siblings_running(make: Make) -> None:
    a = FakeOutpost("a")
    a.slow(0.2)

    def progress(event: Event) -> None:
        if event.kind == "starting" and event.worker == "gt-2.1":
            raise BrokenPipeError

    async def body(manager: Manager) -> None:
        with pytest.raises(BrokenPipeError):
            await manager.spawn_many([order("gt-1"), order("gt-2")], progress=progress)
        await asyncio.sleep(0.4)
        assert (await manager.ledger.worker("gt-1.1")).state is State.STARTING  # type: ignore[union-attr]
        assert a._world.statuses == {}, "what was let go of was not spawned behind our back"
        assert {w.id for w in (await manager.ledger.orphans())} == {"gt-1.1", "gt-2.1"}

    run(make(a), body)
