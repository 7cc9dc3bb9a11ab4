"""The schedules as they are shown: when each fired last, and will fire next."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from outpost_core.errors import OutpostError
from outpost_manager.jsonviews import moment

if TYPE_CHECKING:
    from outpost_manager.config.schedules import ScheduleConfig
    from outpost_manager.manager import Manager


async def view(manager: Manager, count: int) -> list[dict[str, Any]]:
    """Return the schedules, each with its next times.

    Args:
        manager: an open one.
        count: so many next times of each.
    """
    last = await manager.ledger.firings.last()
    return [await _shown(manager, one, last, count) for one in manager.config.schedules]


async def _shown(
    manager: Manager, one: ScheduleConfig, last: dict[str, float], count: int
) -> dict[str, Any]:
    from outpost_mayor.schedules.scheduler import order_of
    from outpost_mayor.schedules.times import issue_of, next_times

    now, error, times = time.time(), None, list[float]()
    try:
        times = next_times(one, now, count)
        await order_of(manager, one, issue_of(one, now))
    except OutpostError as wrong:
        error = wrong.message
    return {"schedule": one, "last": last.get(one.key), "next": times, "error": error}


def shape(found: dict[str, Any]) -> dict[str, Any]:
    """Return the document of a schedule."""
    one = found["schedule"]
    return {
        "name": one.name, "cron": one.cron, "timezone": one.timezone, "enabled": one.enabled,
        "catch_up": one.catch_up.value, "last": moment(found["last"]),
        "next": [moment(at) for at in found["next"]], "error": found["error"],
    }  # fmt: skip
