"""When a schedule fires: pure, by the calendar of its time zone.

Cron expressions are CronSim's, which keeps to Debian's cron: a time that a change of the clocks
leaves out fires right after it, one that comes twice fires once, and what is every so many minutes
goes on through either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import datetime
from itertools import islice, takewhile
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from outpost_core.errors import UsageError
from outpost_manager.config.schedules import SHORT, CatchUp, ScheduleConfig

#: Seconds that a firing may be late and still be on time: a mayor that is just restarted.
GRACE: Final = 60.0
_DAY: Final = 86400.0


def following(schedule: ScheduleConfig, after: float) -> Iterator[float]:
    """Yield the moments at which a schedule fires after one, for ever or until there is none."""
    for moment in _cron(schedule, after):
        yield moment.timestamp()


def due(schedule: ScheduleConfig, last: float, now: float) -> list[float]:
    """Return the firings that are to be made now, oldest first.

    Args:
        schedule: which.
        last: the moment of the firing before.
        now: seconds since the epoch.
    """
    most = schedule.catch_up_limit if schedule.catch_up is CatchUp.ALL else 1
    begin = max(last, now - GRACE) if schedule.catch_up is CatchUp.NONE else last
    begin = max(begin, _some_before(schedule, now, most) - _DAY)
    found = takewhile(lambda at: at <= now, following(schedule, begin))
    return [*deque(found, maxlen=most)]


def _some_before(schedule: ScheduleConfig, now: float, count: int) -> float:
    """Return about when a schedule fired so many times before.

    From there on firings are looked for, so that a year without a mayor costs no more than a day.
    """
    for moment in islice(_cron(schedule, now, reverse=True), count - 1, count):
        return moment.timestamp()
    return -_DAY


def issue_of(schedule: ScheduleConfig, at: float) -> str:
    """Return the issue that a firing makes: the schedule's name, and the moment in UTC."""
    return f"{schedule.name}-{datetime.fromtimestamp(at, ZoneInfo('UTC')):%Y%m%dT%H%M%SZ}"


def next_times(schedule: ScheduleConfig, now: float, count: int) -> list[float]:
    """Return the next moments at which a schedule fires."""
    return [*islice(following(schedule, now), count)]


def _cron(schedule: ScheduleConfig, at: float, *, reverse: bool = False) -> Iterator[datetime]:
    expression = SHORT.get(schedule.cron.strip().lower(), schedule.cron)
    start = datetime.fromtimestamp(at, ZoneInfo(schedule.timezone))
    try:
        return iter(CronSim(expression, start, reverse=reverse))
    except CronSimError as error:
        raise UsageError(
            f"the schedule {schedule.name!r}: {schedule.cron[:80]!a} never fires: {error}",
            hint="outpost schedule list shows the next times of each",
        ) from None
