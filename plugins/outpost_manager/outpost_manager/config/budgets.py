"""The section `budgets`: USD that any hour, day, week or month may hold."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from outpost_core.backend import option
from outpost_core.options import option_fields

if TYPE_CHECKING:
    from outpost_manager.config.reading import Reading
    from outpost_manager.config.yamlnodes import Node


class Window(StrEnum):
    """How long a window is; it ends now, and moves on with the clock."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """An entry of the section `budgets`: what it does not name counts whatever it is."""

    name: str = option("how messages and `outpost cost` call it")
    window: Window = option(
        "its length: 3,600 seconds, 24 hours, 7 days or 30 days, and always the last ones"
    )
    usd: float = option(
        "USD that any window of that length may hold, reserved and spent",
        min=0.000001,
        max=1_000_000_000,
    )
    outpost: tuple[str, ...] = option(
        "count only workers at these outposts; * and ? stand for any text and any character",
        default=(),
    )
    rig: tuple[str, ...] = option(
        "count only workers on these repositories, by URL, path or last name (app), likewise",
        default=(),
    )
    label: tuple[str, ...] = option(
        "count only workers whose issue has one of these labels, likewise", default=()
    )
    account: tuple[str, ...] = option(
        "count only workers of these accounts, likewise; an agent without accounts is its own",
        default=(),
    )


_ENTRY: Final = "budgets is a list, one '- name: …' a budget"


def read_budgets(reading: Reading, node: Node | None) -> tuple[BudgetConfig, ...]:
    """Read the section.

    Raises:
        ConfigError: it has a mistake.
    """
    found: dict[str, BudgetConfig] = {}
    for item in reading.entries(node, _ENTRY):
        name = reading.name_of(item, "a budget", found)
        values = reading.values(item, f"the budget {name!r}", option_fields(BudgetConfig))
        for key in ("outpost", "rig", "label", "account"):
            if any(not word.strip() for word in values.get(key, ())):
                raise reading.error(f"the budget {name!r}: {key} is empty", item.get(key) or item)
        reading.keep_origins(f"budgets.{name}", item)
        found[name] = BudgetConfig(**values)
    return tuple(found.values())
