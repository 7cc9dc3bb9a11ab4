"""What the waiting orders will cost, at worst and usually, and whether the budgets have room."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError
from outpost_manager.ledger import money

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_manager.fleet.overview import Overview
    from outpost_manager.ledger import AsyncLedger, Budget, Ledger
    from outpost_manager.ledger.budgets import Use
    from outpost_manager.ledger.forecast import Past, Waiting
    from outpost_manager.placing.placement import Placement
    from outpost_manager.placing.purse import Purse

#: Kinds of orders whose place and price are asked for; what is of other kinds counts without.
_MOST_KINDS: Final = 200


@dataclass(kw_only=True, slots=True)
class Sum:
    """What some waiting orders will cost.

    Args:
        waiting: how many.
        worst: nano-dollars at worst, of those of which it is known.
        usual: nano-dollars by what such work has cost lately, of those of which it is known.
        unlimited: how many have no worst case; no budget takes them.
        unknown: how many are like nothing that has ended yet.
    """

    waiting: int = 0
    worst: int = 0
    usual: int = 0
    unlimited: int = 0
    unknown: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What becomes of a budget.

    Args:
        budget: which one.
        use: what its window holds now.
        sum: what the orders will cost that count in it.
        fit_at_worst: so many of them, in the order of their turns, fit into what is left at worst.
        fit_usually: so many fit by what such work has cost.
        used_up_at: when it will be used up, as quickly as it was used lately; None when all that
            waits fits, or nothing was spent lately.
    """

    budget: Budget
    use: Use
    sum: Sum
    fit_at_worst: int
    fit_usually: int
    used_up_at: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What the waiting orders will cost.

    Args:
        sum: all of them.
        outlooks: one for each budget.
    """

    sum: Sum
    outlooks: Sequence[Outlook] = ()


@dataclass(kw_only=True, eq=False)
class Forecaster:
    """Makes forecasts; asks no outpost.

    Args:
        ledger: what waits, and what was spent.
        overview: what the policy is shown.
        placement: asks the policy where orders would go.
        purse: the budgets.
    """

    ledger: AsyncLedger
    overview: Overview
    placement: Placement
    purse: Purse
    #: kind → outpost where its orders would go, and nano-dollars that it charges at worst
    _places: dict[str, tuple[str, int]] = field(default_factory=dict, init=False)

    async def forecast(self) -> Forecast:
        """Return what all that waits will cost, and what becomes of each budget."""
        waiting, past = await self.ledger.read(_figures)
        await self._place(waiting)
        budgets = self.purse.budgets()
        uses = await self.ledger.uses(budgets)
        outlooks = []
        for budget, use in zip(budgets, uses, strict=True):
            pace = await self.ledger.pace(budget)
            mine = [one for one in waiting if self._counts(budget, one)]
            outlooks.append(self._outlook(budget, use, mine, past, pace))
        return Forecast(sum=self._sum(waiting, past), outlooks=outlooks)

    async def _place(self, waiting: Sequence[Waiting]) -> None:
        """Ask the policy where one order of each kind would go, and what that charges."""
        samples: dict[str, Waiting] = {}
        for one in waiting:
            if len(samples) < _MOST_KINDS:
                samples.setdefault(one.kind, one)
        orders = [
            (one, order)
            for one in samples.values()
            if (order := await self._order(one.issue)) is not None
        ]
        sheets = await self.overview.sheets([order for _, order in orders], time.time())
        for (one, order), candidates in zip(orders, sheets, strict=True):
            try:
                ranking = self.placement.assign(order, candidates, one.place)
            except OutpostError:
                continue
            # the first by its place in the order of preference, also when it is full now
            name = one.place or ranking.first or (candidates[0].name if candidates else "")
            sheet = next((sheet for sheet in candidates if sheet.name == name), None)
            charged = max(0.0, sheet.cost - sheet.agent_cost) if sheet is not None else 0.0
            self._places[one.kind] = (name, money.counted(charged) or 0)

    async def _order(self, issue: str) -> Order | None:
        return await self.ledger.read(lambda ledger: ledger.queue.order(issue))

    def _counts(self, budget: Budget, one: Waiting) -> bool:
        outpost = one.place or self._places.get(one.kind, ("", 0))[0]
        accounts = self.purse.accounts(one.agent)
        account = one.account or (accounts[0].name if accounts else one.agent)
        return budget.counts(outpost, one.rig, one.labels, account)

    def _worst(self, one: Waiting) -> int | None:
        charged = self._places.get(one.kind, ("", 0))[1]
        return None if one.worst is None else one.worst + charged

    def _sum(self, waiting: Sequence[Waiting], past: Past) -> Sum:
        found = Sum(waiting=len(waiting))
        for one in waiting:
            worst, usual = self._worst(one), past.usual(one.agent, one.rig)
            found.worst += worst or 0
            found.unlimited += worst is None
            found.usual += round(usual or 0.0)
            found.unknown += usual is None
        return found

    def _outlook(
        self, budget: Budget, use: Use, waiting: Sequence[Waiting], past: Past, pace: float
    ) -> Outlook:
        found = self._sum(waiting, past)
        worst = [self._worst(one) for one in waiting]
        usual = [past.usual(one.agent, one.rig) for one in waiting]
        enough = not found.unlimited and not found.unknown and found.usual <= use.left
        used_up_at = None
        if use.left == 0:
            used_up_at = time.time()
        elif waiting and not enough and pace > 0:
            used_up_at = time.time() + use.left / pace
        return Outlook(
            budget=budget,
            use=use,
            sum=found,
            fit_at_worst=_fit(worst, use.left),
            fit_usually=_fit(usual, use.left),
            used_up_at=used_up_at,
        )


def _figures(ledger: Ledger) -> tuple[list[Waiting], Past]:
    return ledger.waiting(), ledger.past()


def _fit(costs: Sequence[float | None], left: int) -> int:
    """Return how many fit, one after the other; those of which nothing is known are passed over."""
    number, taken = 0, 0.0
    for cost in costs:
        if cost is None:
            continue
        taken += cost
        if taken > left:
            break
        number += 1
    return number
