"""The schedules as they are shown: when each fired last and fires next; and one more firing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from outpost_core.errors import NotFoundError, OutpostError
from outpost_core.nearest import suggest
from outpost_manager.jsonviews import moment

if TYPE_CHECKING:
    from outpost_manager.config.schedules import ScheduleConfig
    from outpost_manager.manager import Manager
    from outpost_manager.remote.fields import Fields


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A schedule as people see it.

    Args:
        name: its name.
        cron: its expression.
        timezone: the zone that this is meant in.
        enabled: whether it fires.
        catch_up: what is made up for.
        last: when it fired last; None for never.
        next: when it fires next.
        error: why it cannot; None where it can.
    """

    name: str
    cron: str
    timezone: str
    enabled: bool
    catch_up: str
    last: float | None
    next: tuple[float, ...]
    error: str | None


async def view(manager: Manager, count: int) -> list[Shown]:
    """Return the schedules, each with its next times.

    Args:
        manager: an open one.
        count: so many next times of each.
    """
    last = await manager.ledger.firings.last()
    return [await _shown(manager, one, last, count) for one in manager.config.schedules]


async def _shown(
    manager: Manager, one: ScheduleConfig, last: dict[str, float], count: int
) -> Shown:
    from outpost_mayor.schedules.scheduler import order_of
    from outpost_mayor.schedules.times import issue_of, next_times

    now, error, times = time.time(), None, list[float]()
    try:
        times = next_times(one, now, count)
        await order_of(manager, one, issue_of(one, now))
    except OutpostError as wrong:
        error = wrong.message
    return Shown(
        name=one.name, cron=one.cron, timezone=one.timezone, enabled=one.enabled,
        catch_up=one.catch_up.value, last=last.get(one.key), next=tuple(times), error=error,
    )  # fmt: skip


async def fire(manager: Manager, name: str) -> str:
    """Put what a schedule orders into the queue now, besides its own firings; return the issue.

    Raises:
        NotFoundError: there is no such schedule.
        OutpostError: what it orders cannot be made.
    """
    from outpost_mayor.schedules.scheduler import items_of
    from outpost_mayor.schedules.times import issue_of

    for one in manager.config.schedules:
        if one.name == name:
            issue = issue_of(one, time.time())
            await manager.ledger.queue.add(await items_of(manager, one, issue))
            return issue
    known = [one.name for one in manager.config.schedules]
    raise NotFoundError(f"there is no schedule {name[:80]!a}", hint=suggest(name, known))


def shape(one: Shown) -> dict[str, Any]:
    """Return the document of a schedule."""
    return {
        "name": one.name, "cron": one.cron, "timezone": one.timezone, "enabled": one.enabled,
        "catch_up": one.catch_up, "last": moment(one.last),
        "next": [moment(at) for at in one.next], "error": one.error,
    }  # fmt: skip


def read(said: Fields) -> Shown:
    """Return a schedule by its document.

    Raises:
        NotBelievedError: it is none.
    """
    return Shown(
        name=said.text("name"), cron=said.text("cron"), timezone=said.text("timezone"),
        enabled=said.flag("enabled"), catch_up=said.text("catch_up"), last=said.moment_or("last"),
        next=said.moments("next"), error=said.text_or("error"),
    )  # fmt: skip
