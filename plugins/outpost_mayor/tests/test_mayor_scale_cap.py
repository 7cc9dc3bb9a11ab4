"""Caps and budgets hold for what is up of an outpost and its workers together."""

from __future__ import annotations

import asyncio
import time
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
from outpost_manager.ledger import Budget, Ledger, Outcome, Reservation
from outpost_manager.ledger.scaling import Phase
from outpost_manager.manager import Manager
from outpost_manager.placing.queueing import queue_items
from outpost_mayor.dispatch.dispatcher import Dispatcher
from outpost_mayor.scaling.hand import Hand
from outpost_mayor.scaling.scaler import Scaler

NOW = 1_800_000_000.0
UP: dict[str, Any] = {"now": NOW, "reason": "by hand", "decision": "hand", "more": True}


def budget(window: str, usd: float = 100.0, **more: tuple[str, ...]) -> Budget:
    return Budget(name="b", window=window, usd=usd, **more)


def take(
    ledger: Ledger, issue: str, outpost: str = "far", budgets: tuple[Budget, ...] = ()
) -> Outcome:
    """Reserve 0.30 USD of the 1 USD that an outpost may cost, or of budgets."""
    wanted = order(issue)
    item = Reservation(
        order=wanted, outpost=outpost, digest=wire.digest(wanted), cost=0.3, agent_cost=0.0,
        cost_cap_hourly=None if budgets else 1.0, budgets=budgets,
    )  # fmt: skip
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


def test_what_was_up_counts_in_budgets_while_their_window_holds_it(tmp_path: Path) -> None:
    ledger, now = Ledger(tmp_path / "state"), time.time()
    try:
        scaling = ledger.scaling
        day, hour = budget("day", outpost=("f*",)), budget("hour")
        others = (budget("day", outpost=("here",)), budget("day", rig=("r",)))
        scaling.seen("far", 1, now - 30 * 3600, always=False, price=1.0)
        scaling.seen("far", 0, now - 20 * 3600, always=False, price=0.0)

        def used(*some: Budget) -> list[float]:
            return [round(one.standing / 1e9, 2) for one in ledger.uses(some)]

        # of ten hours, four were in the last 24: it is as if only what the window holds was there
        assert used(day, hour, *others) == [4.0, 0.0, 0.0, 0.0]
        for at, price in (3 * 3600, 0.5), (2 * 3600, 0.2), (3600, 0.2):
            scaling.seen("far", 1, now - at, always=False, price=price)
        # 0.50 for an hour, 0.20 for two; in the hour to come, more leaves the day than is added
        assert used(day, hour, *others) == [4.9, 0.2, 0.0, 0.0]
        assert take(ledger, "a", budgets=(day,)) is Outcome.RESERVED
        small = (replace(day, usd=5.4),)
        assert take(ledger, "b", budgets=small) is Outcome.BUDGET
        (refused,) = [e for e in ledger.events_after(0) if e.kind == "refused"]
        assert "4.90 USD for machines that are or were up" in str(refused.data["reason"])
        assert take(ledger, "b", "here", budgets=small) is Outcome.RESERVED  # it counts `f*` alone
        # a machine finds no room beside them either
        up = UP | {"now": now}
        with pytest.raises(PlacementError, match=r"budget b: 5\.20 USD of 5\.40 USD"):
            scaling.begin("far", Phase.UP, 2, price=0.41, always=True, budgets=small, **up)
        assert scaling.all()["far"].desired == 1
        assert scaling.begin("far", Phase.UP, 2, price=0.39, always=True, budgets=small, **up)
    finally:
        ledger.close()


def test_a_machine_that_would_leave_no_money_for_its_work_is_not_started(tmp_path: Path) -> None:
    """What its machine costs is counted before the machine is there."""

    async def body(manager: Manager) -> None:
        assert (await manager.ledger.scaling.all())["far"].phase is Phase.DOWN

    scaled(tmp_path, 100.0, body, "budgets: [{name: b, window: day, usd: 2.2}]\n", worst=0.3)


@pytest.mark.parametrize("by", ["cap", "budget"])
def test_of_two_callers_at_once_neither_passes_the_cap(tmp_path: Path, by: str) -> None:
    """One starts a machine of 0.50 USD an hour, others take 0.30 USD each: 1 USD has to do."""
    ledgers = [Ledger(tmp_path / "state") for _ in range(3)]
    outposts = [f"far-{number}" for number in range(8)]
    try:
        for name in outposts:
            ledgers[0].scaling.seen(name, 0, NOW, always=True, price=0.0)
        for name in outposts:
            start = Barrier(3)
            some = (budget("hour", usd=1.0, outpost=(name,)),) if by == "budget" else ()
            most: dict[str, Any] = {"budgets": some} if some else {"cap": 1.0}

            def machine(
                name: str = name, start: Barrier = start, most: dict[str, Any] = most
            ) -> int:
                start.wait(60)
                try:
                    ledgers[0].scaling.begin(
                        name, Phase.UP, 1, price=0.5, always=True, **UP, **most
                    )
                except PlacementError:
                    return 0
                return 50

            def workers(
                ledger: Ledger,
                word: str,
                name: str,
                start: Barrier,
                some: tuple[Budget, ...] = some,
            ) -> int:
                start.wait(60)
                found = [take(ledger, f"{name}-{word}{each}", name, some) for each in range(2)]
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


def scaled(
    tmp_path: Path,
    cap: float,
    body: Callable[[Manager], Awaitable[None]],
    more: str = "",
    worst: float = 0.0,
) -> None:
    """Run a test over `far`, which is off and costs 2 USD an hour while it is up."""
    fleet = Fleet(tmp_path, {"far": 2})
    entry = "{name: far, type: fake, max_workers: 2"
    rule = f"{entry}, units: 0, cost_cap_hourly: {cap}, scaling: {{price: 2, cooldown: 0s}}"
    fleet.config.write_text(fleet.config.read_text().replace(entry, rule) + more)
    fleet.outposts["far"]._world.units = 0
    fleet.outposts["far"].cut("it is off")

    async def run() -> None:
        async with fleet.manager() as manager:
            free = replace(order("a"), limits=Limits(max_agent_cost_usd=worst))
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
