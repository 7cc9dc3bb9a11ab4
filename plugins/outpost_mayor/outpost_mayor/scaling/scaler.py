"""The service `scale`: brings outposts up when work waits, and down when there is nothing to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from outpost_core.errors import LedgerError, NotFoundError, OutpostError, PlacementError
from outpost_manager.ledger.scaling import Phase
from outpost_mayor.scaling.actor import Actor, cap_of, price_of, rule_of
from outpost_mayor.scaling.decide import Found, Place, decide
from outpost_mayor.scaling.facts import demands, places
from outpost_shared import faults
from outpost_shared.backoff import every
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_core.types import Scale
    from outpost_manager.ledger.scaling import Scaled
    from outpost_manager.manager import Manager

_log = Logger("scale")
#: Seconds between two looks at what waits and what is idle.
LOOK: Final = 1.0
#: Seconds between two questions whether an outpost is up: somebody else may start and stop it.
ASK: Final = 60.0
#: Seconds between two notes that an outpost is busy, at least; its `idle` may want it more often.
_NOTE: Final = 30.0
_UNDER_WAY: Final = (Phase.STARTING, Phase.DRAINING, Phase.STOPPING)


class Scaler:
    """Scales the outposts of the configuration.

    Args:
        manager: an open one.
        clock: seconds since the epoch.
    """

    def __init__(self, manager: Manager, clock: Callable[[], float] = time.time) -> None:
        self._manager = manager
        self._clock = clock
        self._actor = Actor(manager, clock)
        self._told: dict[str, Scale] = {}
        self._asked: dict[str, float] = {}
        self._acting: dict[str, asyncio.Task[bool]] = {}

    async def run(self) -> None:
        """Scale for ever."""
        looks = every(LOOK)
        try:
            while True:
                try:
                    await self.step()
                except LedgerError as error:
                    _log.warning("nothing is brought up or down just now: %s", error.message)
                await looks.wait()
        finally:
            for task in self._acting.values():
                task.cancel()
            await asyncio.gather(*self._acting.values(), return_exceptions=True)

    async def step(self) -> Found:
        """Look once, and begin what is to be done; what takes long goes on beside it."""
        self._reap()
        scaling = self._manager.ledger.scaling
        rows = await scaling.all()
        names = [entry.name for entry in self._manager.config.outposts if entry.scaling]
        there = {entry.name for entry in self._manager.config.outposts}
        for name in rows.keys() - {*names}:
            gone = name not in there  # nobody can do anything with it any more
            if (gone or rows[name].decision != "hand") and await scaling.forget(name, gone=gone):
                _log.info("%s is not scaled any more", name)
                del rows[name]
        if not names and not rows:
            return Found(decisions=(), busy=frozenset())
        await self._look(names, rows)
        found = await self.decisions()
        rows = await scaling.all()
        now = self._clock()
        for name, row in rows.items():
            idle = now - row.busy_at
            often = (
                min(_NOTE, rule_of(self._manager, name).idle / 4) if name in found.busy else idle
            )
            if not 0 <= idle <= often:  # or the clock was set back, and it would never be idle
                await scaling.busy(name, now)
        for one in found.decisions:
            if one.outpost in self._acting or one.outpost not in names:
                continue
            always = one.outpost in self._told and self._told[one.outpost].always
            phase = rows[one.outpost].phase
            try:
                begun = await scaling.begin(
                    one.outpost, phase, one.to, now=now, reason=one.why, price=one.price,
                    decision="mayor", more=one.more, always=always,
                    cap=cap_of(self._manager, one.outpost),
                    budgets=self._manager.purse.budgets(),
                )  # fmt: skip
            except PlacementError as error:
                await scaling.refused(one.outpost, phase, error.message, now)
                continue
            if begun:
                _log.info("%s: %d because %s", one.outpost, one.to, one.why)
        faults.point("scale.begun")
        await self._act(await scaling.all())
        return found

    async def decisions(self) -> Found:
        """Return what is to be done now; changes nothing."""
        rows = await self._manager.ledger.scaling.all()
        found = await self.places()
        waiting, free = await demands(self._manager, rows, {one.name: one.price for one in found})
        return decide(self._clock(), found, waiting, free)

    async def places(self) -> list[Place]:
        """Return how the outposts stand that are scaled."""
        rows = await self._manager.ledger.scaling.all()
        return places(self._manager, rows, await self._manager.ledger.active(), self._told)

    async def finish(self) -> None:
        """Wait until what is under way is done, as far as it can be done now."""
        await asyncio.gather(*self._acting.values(), return_exceptions=True)
        self._reap()

    async def learn(self, names: list[str]) -> dict[str, OutpostError]:
        """Ask outposts how much of them is up, and take that over; return what went wrong."""
        answers = await asyncio.gather(*map(self._learn, names))
        return {name: error for name, error in zip(names, answers, strict=True) if error}

    # --- pieces ---------------------------------------------------------------------------------

    async def _look(self, names: list[str], rows: dict[str, Scaled]) -> None:
        """Ask those that were not asked for a while."""
        now = time.monotonic()
        due = [
            name
            for name in {*names, *rows}
            if now >= self._asked.get(name, now) and name not in self._acting
        ]
        for name in due:
            self._asked[name] = now + ASK
        for name, error in (await self.learn(due)).items():
            _log.warning("%s does not say how much of it is up: %s", name, error.message)

    async def _learn(self, name: str) -> OutpostError | None:
        try:
            self._manager.fleet.require(name, "scale")
            told = await self._actor.look(name)
        except NotFoundError:
            return None
        except OutpostError as error:
            return error
        self._told[name] = told
        scaling = self._manager.ledger.scaling
        units = told.target if told.always else told.running
        price = price_of(self._manager, name, told, units)
        if await scaling.seen(name, units, self._clock(), always=told.always, price=price):
            _log.info("%s: %d up", name, told.running)
        return None

    async def _act(self, rows: dict[str, Scaled]) -> None:
        """Go on with what is under way, each outpost in a task of its own."""
        now = self._clock()
        for name, row in rows.items():
            changing = row.phase is Phase.UP and row.desired != row.running and not row.waits(now)
            if name in self._acting or not (row.phase in _UNDER_WAY or changing):
                continue
            self._acting[name] = asyncio.create_task(self._actor.act(name), name=f"scale {name}")

    def _reap(self) -> None:
        for name in [name for name, task in self._acting.items() if task.done()]:
            task = self._acting.pop(name)
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.warning("%s could not be scaled: %s", name, error)
