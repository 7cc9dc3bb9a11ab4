"""`cost_cap_hourly` holds for what is up of an outpost and its workers together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from mayorkit import Clock, Fleet, order

from outpost_core import wire
from outpost_core.errors import PlacementError
from outpost_core.types import Limits
from outpost_manager.ledger import Ledger, Outcome, Reservation
from outpost_manager.ledger.scaling import Phase
from outpost_manager.manager import Manager
from outpost_manager.placing.queueing import queue_items
from outpost_mayor.dispatch.dispatcher import Dispatcher
from outpost_mayor.scaling.hand import Hand
from outpost_mayor.scaling.scaler import Scaler

NOW = 1_800_000_000.0
UP: dict[str, Any] = {"now": NOW, "reason": "by hand", "decision": "hand", "more": True}


def take(ledger: Ledger, issue: str, outpost: str = "far") -> Outcome:
    """Reserve 0.30 USD of the 1 USD that an outpost may cost."""
    wanted = order(issue)
    item = Reservation(
        order=wanted, outpost=outpost, digest=wire.digest(wanted), cost=0.3, cost_cap_hourly=1.0
    )
    return ledger.reserve([item])[0].outcome


def test_what_is_up_counts_until_it_is_down(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "state")
    try:
        scaling = ledger.scaling
        scaling.seen("far", 1, NOW, always=False, price=0.5)
        assert [take(ledger, one) for one in "ab"] == [Outcome.RESERVED, Outcome.CAPPED]
        assert scaling.begin("far", Phase.UP, 0, price=0.0, **{**UP, "more": False})
        assert scaling.all()["far"].price == 0.5  # it costs as before until it is down
        scaling.refused("far", Phase.UP, "it stays up", NOW)
        assert take(ledger, "b") is Outcome.CAPPED
        scaling.seen("far", 1, NOW, always=False, price=0.1)  # somebody has changed the price
        assert [take(ledger, one) for one in "bc"] == [Outcome.RESERVED] * 2
        # and a machine finds no room beside what its workers hold
        with pytest.raises(PlacementError, match="cost_cap_hourly"):
            scaling.begin("far", Phase.UP, 2, price=0.2, always=True, cap=1.0, **UP)
        assert scaling.all()["far"].desired == 0
        assert scaling.begin("far", Phase.UP, 2, price=0.1, always=True, cap=1.0, **UP)
    finally:
        ledger.close()


def test_of_two_callers_at_once_neither_passes_the_cap(tmp_path: Path) -> None:
    """One starts a machine of 0.50 USD an hour, others take 0.30 USD each: 1 USD has to do."""
    ledgers = [Ledger(tmp_path / "state") for _ in range(3)]
    outposts = [f"far-{number}" for number in range(8)]
    try:
        for name in outposts:
            ledgers[0].scaling.seen(name, 0, NOW, always=True, price=0.0)
        for name in outposts:
            start = Barrier(3)

            def machine(name: str = name, start: Barrier = start) -> int:
                start.wait(60)
                try:
                    ledgers[0].scaling.begin(
                        name, Phase.UP, 1, price=0.5, always=True, cap=1.0, **UP
                    )
                except PlacementError:
                    return 0
                return 50

            def workers(ledger: Ledger, word: str, name: str, start: Barrier) -> int:
                start.wait(60)
                found = [take(ledger, f"{name}-{word}{each}", name) for each in range(2)]
                return 30 * found.count(Outcome.RESERVED)

            with ThreadPoolExecutor(3) as pool:
                asked = [
                    pool.submit(machine),
                    pool.submit(workers, ledgers[1], "a", name, start),
                    pool.submit(workers, ledgers[2], "b", name, start),
                ]
                cost = [one.result(60) for one in asked]
            assert 60 <= sum(cost) <= 100, cost
    finally:
        for ledger in ledgers:
            ledger.close()


def scaled(tmp_path: Path, cap: float, body: Callable[[Manager], Awaitable[None]]) -> None:
    """Run a test over `far`, which is off and costs 2 USD an hour while it is up."""
    fleet = Fleet(tmp_path, {"far": 2})
    entry = "{name: far, type: fake, max_workers: 2"
    rule = f"{entry}, units: 0, cost_cap_hourly: {cap}, scaling: {{price: 2, cooldown: 0s}}"
    fleet.config.write_text(fleet.config.read_text().replace(entry, rule))
    fleet.outposts["far"]._world.units = 0
    fleet.outposts["far"].cut("it is off")

    async def run() -> None:
        async with fleet.manager() as manager:
            free = replace(order("a"), limits=Limits(max_agent_cost_usd=0.0))
            items = queue_items(manager.config, [free], on=None, batch="")
            await manager.ledger.queue.add(items)
            scaler = Scaler(manager, Clock())
            await scaler.step()
            await Dispatcher(manager).step()
            await scaler.step()
            await scaler.finish()
            await body(manager)

    asyncio.run(run())


def test_a_machine_that_costs_more_than_the_cap_is_not_started(tmp_path: Path) -> None:
    async def body(manager: Manager) -> None:
        row = (await manager.ledger.scaling.all())["far"]
        assert row.phase is Phase.DOWN
        hand = Hand(manager, "far")
        plan = await hand.plan(1)
        assert plan is not None
        with pytest.raises(PlacementError, match="would cost 2"):
            await hand.begin(plan)
        assert (await hand.row()).phase is Phase.DOWN

    scaled(tmp_path, 1.5, body)


def test_one_that_fits_is_started_and_is_seen_to_cost(tmp_path: Path) -> None:
    async def body(manager: Manager) -> None:
        (view,) = await manager.outposts()
        assert view.scaled is not None
        assert view.scaled.phase is Phase.UP
        assert (view.spent, view.standing) == (2.0, 2.0)

    scaled(tmp_path, 2.5, body)
