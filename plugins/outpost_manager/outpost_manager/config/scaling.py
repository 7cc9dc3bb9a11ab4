"""`scaling` of an outpost: how many of its machines are up, and when."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from outpost_core.backend import option
from outpost_core.errors import UsageError
from outpost_core.options import option_fields
from outpost_manager.config.schedules import zone_mistake

if TYPE_CHECKING:
    from collections.abc import Iterable

    from outpost_manager.config.reading import Reading
    from outpost_manager.config.yamlnodes import Node

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])-([01]?[0-9]|2[0-4]):([0-5][0-9])")
_EXAMPLE: Final = "for example: Mon-Fri 08:00-18:30, or Sat,Sun, or 22:00-06:00"


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """The key `scaling` of an outpost that can be brought up and down."""

    min: int = option("so many units (machines, warm containers) are always up", default=0, min=0,
                      max=1000)  # fmt: skip
    max: int = option("at most so many are up", default=1, min=1, max=1000)
    idle: float = option(
        "how long an outpost has nothing to do until it is brought down",
        default=900.0, unit="duration", min=0,
    )  # fmt: skip
    cooldown: float = option(
        "how long nothing is changed again after a change, but for what must be up or down now",
        default=300.0, unit="duration", min=0,
    )  # fmt: skip
    patience: float = option(
        "how long bringing it up or down may take until that has failed",
        default=900.0, unit="duration", min=1,
    )  # fmt: skip
    hours: tuple[str, ...] = option(
        "when it may be up, such as Mon-Fri 08:00-18:00; at any time if none", default=()
    )
    keep_up: tuple[str, ...] = option(
        "when at least one unit is up whether there is work or not", default=()
    )
    timezone: str = option("the time zone of these times, such as Europe/Berlin", default="UTC")
    price: float | None = option(
        "USD an hour of one unit, where the outpost cannot say it", default=None, min=0,
        max=10_000,
    )  # fmt: skip

    def may(self, now: float) -> bool:
        """Whether it may be up at a moment."""
        return not self.hours or inside(self.hours, self.timezone, now)

    def must(self, now: float) -> bool:
        """Whether at least one unit is to be up at a moment, whatever there is to do."""
        return self.may(now) and (self.min > 0 or inside(self.keep_up, self.timezone, now))


def read_scaling(reading: Reading, what: str, node: Node | None) -> ScalingConfig | None:
    """Read the key of one outpost.

    Args:
        reading: the file.
        what: how the outpost is called in messages.
        node: the value; None when there is none.

    Raises:
        ConfigError: it has a mistake.
    """
    if node is None or node.kind == "null":
        return None
    what = f"{what}: scaling"
    values = reading.values(node, what, option_fields(ScalingConfig))
    made = ScalingConfig(**values)
    if made.min > made.max:
        raise reading.error(
            f"{what}: min is {made.min}, and max {made.max}", node.get("min") or node,
            hint="make min no more than max",
        )  # fmt: skip
    if (why := zone_mistake(made.timezone))[0]:
        raise reading.error(
            f"{what}: timezone: {why[0]}", node.get("timezone") or node, hint=why[1]
        )
    for key in ("hours", "keep_up"):
        for text in getattr(made, key):
            try:
                span(text)
            except UsageError as error:
                at = node.get(key) or node
                raise reading.error(
                    f"{what}: {key}: {error.message}", at, hint=error.hint
                ) from None
    return made


def span(text: str) -> tuple[frozenset[int], int, int]:
    """Return the days (0 is Monday) of a time, and the minutes of the day between which it is.

    The second one is the greater: what ends on the next day has more than 1,440.

    Raises:
        UsageError: it is none.
    """
    words = text.split()
    days, hours = frozenset(range(7)), (0, 1440)
    timed = bool(words) and ":" in words[-1]
    if not words or len(words) > 1 + timed:
        raise UsageError(f"{text[:60]!a} is no time of the week", hint=_EXAMPLE)
    if timed:
        found = _SPAN.fullmatch(words[-1])
        if found is None or (found[3] == "24" and found[4] != "00"):
            raise UsageError(f"{words[-1][:60]!a} is no time of the day", hint=_EXAMPLE)
        first, last = (int(h) * 60 + int(m) for h, m in ((found[1], found[2]), found.groups()[2:]))
        hours = (first, last if last > first else last + 1440)
    if len(words) - timed:
        days = frozenset(_days(words[0]))
    return days, *hours


def _days(text: str) -> Iterable[int]:
    for part in text.lower().split(","):
        first, dash, last = part.partition("-")
        if first not in _DAYS or (dash and last not in _DAYS):
            raise UsageError(f"{part[:40]!a} is no day of the week", hint=_EXAMPLE)
        begin = _DAYS.index(first)
        count = (_DAYS.index(last) - begin) % 7 if dash else 0
        yield from ((begin + day) % 7 for day in range(count + 1))


def inside(spans: Iterable[str], timezone: str, now: float) -> bool:
    """Whether a moment is within one of the times, by the clock on the wall there."""
    from zoneinfo import ZoneInfo

    at = datetime.fromtimestamp(now, ZoneInfo(timezone))
    minute = at.hour * 60 + at.minute
    today, yesterday = at.weekday(), (at - timedelta(days=1)).weekday()
    for text in spans:
        days, first, last = span(text)
        if (today in days and first <= minute < last) or (
            yesterday in days and first <= minute + 1440 < last
        ):
            return True
    return False
