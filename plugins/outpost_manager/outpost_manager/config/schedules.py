"""The section `schedules`: orders that are put into the queue at times of the calendar."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from outpost_core.backend import option
from outpost_core.errors import OutpostError
from outpost_core.nearest import suggest
from outpost_core.options import option_fields
from outpost_core.types import check_issue_id

if TYPE_CHECKING:
    from outpost_core.types import Json
    from outpost_manager.config.reading import Reading
    from outpost_manager.config.yamlnodes import Node

#: The fields of an order that a schedule may say: those of a line of `--from-file`, without the
#: issue, which the firing makes, and without what is about earlier attempts.
FIELDS: Final = (
    "title", "text", "body", "kind", "priority", "estimate", "labels", "prompt", "prompt_file",
    "rig", "no_rig", "base", "branch", "depth", "agent", "command", "model", "agent_args", "env",
    "secrets", "context", "timeout", "idle_timeout", "grace", "checkpoint_every", "final_grace",
    "cpu", "memory", "max_agent_cost", "pr", "pr_command",
)  # fmt: skip


class CatchUp(StrEnum):
    """What of the firings that were missed is made up for."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """An entry of the section `schedules`."""

    name: str = option("how it is called; the issues that it makes begin with it")
    cron: str = option(
        "when: minute, hour, day of month, month, day of week, as crontab has them; @daily and the"
        " like, too"
    )
    timezone: str = option("the time zone that the times are in, such as Europe/Berlin",
                           default="UTC")  # fmt: skip
    catch_up: CatchUp = option(
        "which firings are made up for that were missed while no mayor ran: none, the last, or all",
        default=CatchUp.LAST,
    )
    catch_up_limit: int = option(
        "at most so many of them, the newest ones, with catch_up: all", default=10, min=1, max=1000
    )
    on: str | None = option("the outpost that the work goes to; the policy's choice if none",
                            default=None)  # fmt: skip
    batch: str = option("the batch that its entries belong to", default="")
    enabled: bool = option("whether it fires", default=True)
    order: object = option(
        "what to do: the fields of a line of --from-file (title, prompt, rig, agent, …)"
    )

    @property
    def request(self) -> Mapping[str, Json]:
        """What `order` says."""
        assert isinstance(self.order, dict)
        return self.order

    @property
    def key(self) -> str:
        """Which firings are its own: another time makes it another schedule."""
        return f"{self.name}\n{self.cron}\n{self.timezone}"


_ENTRY: Final = "schedules is a list, one '- name: …' a schedule"
#: A name, a dash and a stamp of 16 characters make an issue's id.
_LONGEST_NAME: Final = 63
#: What stands for five fields, as crontab(5) has it.
SHORT: Final = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}  # fmt: skip
_DAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV",
                  "DEC")  # fmt: skip
#: name, least, most and words of each field.
_CRON: Final = (
    ("minute", 0, 59, ()), ("hour", 0, 23, ()), ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS), ("day of week", 0, 7, _DAYS),
)  # fmt: skip


def read_schedules(
    reading: Reading, node: Node | None, outposts: tuple[str, ...]
) -> tuple[ScheduleConfig, ...]:
    """Read the section.

    Args:
        reading: the file.
        node: the section.
        outposts: the names of the outposts.

    Raises:
        ConfigError: it has a mistake.
    """
    found: dict[str, ScheduleConfig] = {}
    for item in reading.entries(node, _ENTRY):
        name = reading.name_of(item, "a schedule", found)
        what = f"the schedule {name!r}"
        values = reading.values(item, what, option_fields(ScheduleConfig))
        for key, check in (("cron", cron_mistake), ("timezone", zone_mistake)):
            if key in values and (why := check(values[key]))[0]:
                raise reading.error(f"{what}: {key}: {why[0]}", item.get(key) or item, hint=why[1])
        if (on := values.get("on")) is not None and on not in outposts:
            raise reading.error(
                f"{what}: {on[:80]!a} is not the name of an outpost", item.get("on") or item,
                hint=suggest(on, outposts),
            )  # fmt: skip
        try:
            check_issue_id(f"{name}-20261128T020000Z")
        except OutpostError:
            raise reading.error(
                f"{what}: the name is too long: issues are called by it", item.get("name") or item,
                hint=f"use {_LONGEST_NAME} characters at most",
            ) from None  # fmt: skip
        _check_order(reading, what, item.get("order") or item, values["order"])
        reading.keep_origins(f"schedules.{name}", item)
        found[name] = ScheduleConfig(**values)
    return tuple(found.values())


def _check_order(reading: Reading, what: str, node: Node, said: Any) -> None:
    if not isinstance(said, dict) or node.entries is None:
        raise reading.error(f"{what}: order is a map, with prompt or title at least", node)
    for key, (mark, _) in node.entries.items():
        if key not in FIELDS:
            raise reading.error(
                f"{what}: order has no field {key[:80]!a}", mark, hint=suggest(key, FIELDS)
            )


def cron_mistake(text: str) -> tuple[str, str]:
    """Return what is wrong with a cron expression, and a hint; ("", "") for nothing."""
    example = "for example: cron: '0 2 * * *', at two every night"
    parts = (SHORT.get(text.strip().lower()) or text).upper().split()
    if len(parts) != len(_CRON):
        return f"{text[:80]!a} has {len(parts)} fields, and not five", example
    for part, (field, least, most, words) in zip(parts, _CRON, strict=True):
        for term in part.split(","):
            if not _is_term(term, field, least, most, words):
                return f"{term[:40]!a} is no {field}", f"{least} to {most}, or *, 1-5, */15"
    return "", ""


def _is_term(term: str, field: str, least: int, most: int, words: tuple[str, ...]) -> bool:
    found = re.fullmatch(r"(\*|\w+(?:-\w+)?)(?:/([0-9]{1,4}))?", term, re.ASCII)
    if field == "day of month" and term in ("L", "LW"):
        return True
    if field == "day of week" and (nth := re.fullmatch(r"(\w+)(?:#([1-5])|L)", term, re.ASCII)):
        day = nth[1]
        return day in words or (day.isdigit() and int(day) <= most)
    if found is None or found[2] == "0" or (found[2] and not int(found[2])):
        return False
    if found[1] == "*":
        return True
    ends = []
    for word in found[1].split("-"):
        if word in words:
            ends.append(words.index(word) + (field == "month"))
        elif word.isdigit() and least <= int(word) <= most:
            ends.append(int(word))
        else:
            return False
    return ends == sorted(ends)


def zone_mistake(name: str) -> tuple[str, str]:
    """Return what is wrong with the name of a time zone, and a hint; ("", "") for nothing."""
    from zoneinfo import ZoneInfo, available_timezones

    try:
        ZoneInfo(name)
        return "", ""
    except (KeyError, ValueError, OSError):  # the first: there is none of that name
        near = suggest(name, available_timezones())
    return f"{name[:80]!a} is no time zone that this machine knows", near or "install tzdata"
