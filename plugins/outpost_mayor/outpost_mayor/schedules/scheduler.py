"""The service `schedules`: puts into the queue what the calendar says, each firing once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from outpost_core.errors import ConflictError, OutpostError
from outpost_manager.orders.fields import request_of
from outpost_manager.placing.queueing import queue_items
from outpost_mayor.schedules.times import due, issue_of
from outpost_shared.backoff import every
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_manager.config.schedules import ScheduleConfig
    from outpost_manager.ledger import QueueItem
    from outpost_manager.manager import Manager

_log = Logger("schedules")
#: Seconds between two looks at the clock, which may jump.
LOOK: Final = 1.0
#: Seconds by which a firing lies ahead of the clock at most; beyond it the clock was wrong once.
_AHEAD: Final = 86400.0
#: Seconds between two warnings of one schedule.
_QUIET: Final = 300.0


class Scheduler:
    """Fires the schedules of the configuration.

    Args:
        manager: an open one.
        clock: seconds since the epoch.
    """

    def __init__(self, manager: Manager, clock: Callable[[], float] = time.time) -> None:
        self._manager = manager
        self._clock = clock
        self._said: dict[str, float] = {}
        self._idle = False

    async def run(self) -> None:
        """Fire for ever."""
        looks = every(LOOK)
        while True:
            await self.step()
            await looks.wait()

    async def step(self) -> list[str]:
        """Fire what is due; return the issues that are new in the queue."""
        schedules = {one.key: one for one in self._manager.config.schedules if one.enabled}
        if not schedules and self._idle:  # it costs nothing where nobody uses it
            return []
        self._idle = not schedules
        firings = self._manager.ledger.firings
        now = self._clock()
        known = await firings.last()
        if known.keys() != schedules.keys():
            await firings.begin([*schedules], now)
            known = await firings.last()
        made: list[str] = []
        for key, schedule in schedules.items():
            last = known.get(key, now)
            if last > now + _AHEAD:
                _log.warning("%s has fired in %d days: the clock was wrong then or is now",
                             schedule.name, (last - now) // 86400)  # fmt: skip
                await firings.fire(key, last, now, [])
                continue
            try:
                for at in due(schedule, last, now):
                    made += await self._fire(schedule, last, at)
                    last = at
            except OutpostError as error:  # it is tried again: a secret or the disk may be back
                self._warn(schedule, error)
        return made

    async def _fire(self, schedule: ScheduleConfig, last: float, at: float) -> list[str]:
        firings = self._manager.ledger.firings
        items = await items_of(self._manager, schedule, issue_of(schedule, at))
        try:
            made = await firings.fire(schedule.key, last, at, items)
        except ConflictError as error:  # somebody has ordered that very issue by hand
            self._warn(schedule, error)
            made = await firings.fire(schedule.key, last, at, [])
        if made:
            _log.info("%s fired: %s", schedule.name, ", ".join(made))
        self._said.pop(schedule.name, None)
        return made or []

    def _warn(self, schedule: ScheduleConfig, error: OutpostError) -> None:
        now = time.monotonic()
        if now >= self._said.get(schedule.name, now):
            _log.warning("the schedule %s does not fire: %s", schedule.name, error.message)
            self._said[schedule.name] = now + _QUIET


async def order_of(manager: Manager, schedule: ScheduleConfig, issue: str) -> Order:
    """Return what a schedule orders, as an issue of its own.

    Raises:
        UsageError: something in it is wrong.
    """
    where = f"the schedule {schedule.name!r}: "
    fields = {"title": schedule.name, **schedule.request, "issue": issue}
    return await manager.order(request_of(fields, where))


async def items_of(manager: Manager, schedule: ScheduleConfig, issue: str) -> list[QueueItem]:
    """Return what a firing puts into the queue.

    Raises:
        UsageError: something in its order is wrong.
    """
    order = await order_of(manager, schedule, issue)
    return queue_items(manager.config, [order], on=schedule.on, batch=schedule.batch)
