"""Bringing an outpost up or down by hand, whether a mayor runs or not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from outpost_core.errors import NotFoundError, PlacementError, UsageError
from outpost_manager.ledger.scaling import Phase, Scaled
from outpost_mayor.scaling.actor import Actor, cap_of, price_of
from outpost_mayor.scaling.decide import Decision, Place
from outpost_mayor.scaling.facts import places
from outpost_shared import faults
from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    from outpost_core.types import Scale
    from outpost_manager.manager import Manager

#: Seconds between two looks at what drains, or at what somebody else does.
_FIRST: Final = 0.1
_LATER: Final = 2.0


class Hand:
    """One outpost that a person brings up or down.

    Args:
        manager: an open one.
        name: of the outpost.
    """

    def __init__(self, manager: Manager, name: str) -> None:
        self._manager = manager
        self._name = name
        self._actor = Actor(manager)
        self._told: Scale | None = None

    async def plan(self, to: int) -> Decision | None:
        """Say what would be done; None when nothing has to be. Changes only what is known.

        Args:
            to: units that are to be up.

        Raises:
            NotFoundError: there is no such outpost.
            UnsupportedError: it cannot be brought up and down.
            UsageError: it cannot have so many.
        """
        await self._learn()
        place = await self.place()
        if to > place.limit:
            raise UsageError(
                f"{self._name} has {place.limit} at most",
                hint=f"outpost scale {self._name} --to {place.limit}",
            )
        row = place.row
        if row.phase in (Phase.UP, Phase.DOWN) and row.running == to == row.desired:
            return None
        more = to > row.running or (row.phase is Phase.DRAINING and to >= row.running)
        return Decision(outpost=self._name, to=to, more=more, why="by hand", price=place.cost(to))

    async def begin(self, decision: Decision) -> None:
        """Write down what is to be done; whoever comes first does it.

        Raises:
            UsageError: something else is under way there.
            PlacementError: it would cost more than `cost_cap_hourly`, or pass a budget.
        """
        row = await self.row()
        if row.phase in (Phase.STARTING, Phase.STOPPING):
            raise UsageError(
                f"{self._name} is {row.phase.value}", hint="wait until that is done: outpost scale"
            )
        always = self._told is not None and self._told.always
        begun = await self._manager.ledger.scaling.begin(
            self._name, row.phase, decision.to, now=time.time(), reason=decision.why,
            price=decision.price, decision="hand", more=decision.more, always=always,
            cap=cap_of(self._manager, self._name), budgets=self._manager.purse.budgets(),
        )  # fmt: skip
        if not begun:
            raise UsageError(f"somebody else was faster with {self._name}", hint="outpost scale")
        faults.point("scale.begun")

    async def finish(self) -> Scaled:
        """Do it, and wait until it is done.

        Raises:
            PlacementError: it could not be done, and why.
        """
        again = Backoff(_FIRST, _LATER, growth=1.5)
        while True:
            await self._actor.act(self._name)
            row = await self.row()
            if row.phase in (Phase.UP, Phase.DOWN) and (row.error or row.running == row.desired):
                if row.error:
                    raise PlacementError(row.error, hint=f"outpost doctor {self._name}")
                return row
            if row.phase is Phase.DRAINING:
                await self._manager.watch.refresh([self._name])
            await again.wait()

    async def row(self) -> Scaled:
        """Return how it stands.

        Raises:
            NotFoundError: nothing is known of it.
        """
        found = (await self._manager.ledger.scaling.all()).get(self._name)
        if found is None:
            raise NotFoundError(f"{self._name} is not scaled", hint="outpost scale lists them")
        return found

    async def place(self) -> Place:
        """Return how it stands, as far as it is known."""
        manager, name = self._manager, self._name
        told = {} if self._told is None else {name: self._told}
        rows = {name: await self.row()}
        (place,) = places(manager, rows, await manager.ledger.active(), told)
        return place

    async def _learn(self) -> None:
        manager, name = self._manager, self._name
        manager.fleet.configured(name)
        manager.fleet.require(name, "scale")
        self._told = told = await self._actor.look(name)
        units = told.target if told.always else told.running
        price = price_of(manager, name, told, units)
        await manager.ledger.scaling.seen(name, units, time.time(), always=told.always, price=price)
