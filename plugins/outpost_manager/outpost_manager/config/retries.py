"""The section `retries`: what is tried again by itself, and how often at the most."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from outpost_core.backend import option
from outpost_core.options import OptionField, option_fields

if TYPE_CHECKING:
    from outpost_manager.config.reading import Reading
    from outpost_manager.config.yamlnodes import Node

#: What a reason's code looks like.
_REASON: Final = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
#: The most that any of the ceilings can be.
_MOST: Final = 1_000_000


class Park(StrEnum):
    """Whether an account whose provider takes no more is left alone until it does."""

    ON = "on"
    OFF = "off"


@dataclass(frozen=True, kw_only=True)
class RetryOptions:
    """The keys of the section `retries` but `reasons`."""

    park: Park = option(
        "whether a usage limit parks its account until it is over, instead of being tried again",
        default=Park.ON,
    )
    other_accounts: bool = option(
        "what ran into a usage limit goes on at once with another account of its agent that has"
        " room, instead of waiting for its own",
        default=True,
    )
    patience: float = option(
        "how long what goes on with its agent's session waits for the outpost that has the session,"
        " once an account takes it, before it goes on elsewhere from the rescued work",
        default=600.0,
        unit="duration",
        min=0,
        max=86_400 * 366,
    )
    per_order: int = option(
        "how often one order of the queue is tried again, whatever the reasons; pauses for a usage"
        " limit do not count",
        default=4,
        min=0,
        max=_MOST,
    )
    per_issue: int = option(
        "attempts at one issue after which nothing is tried again by itself",
        default=12,
        min=1,
        max=_MOST,
    )
    per_day: int = option(
        "how often anything is tried again in 24 hours, all issues together",
        default=200,
        min=0,
        max=_MOST,
    )
    longest_backoff: float = option(
        "how long a back-off may grow", default=3600.0, unit="duration", min=1, max=86_400 * 7
    )


@dataclass(frozen=True, kw_only=True)
class RetriesConfig(RetryOptions):
    """The section `retries`.

    Args:
        reasons: reason → how often it is tried again, in the place of what the table says.
    """

    reasons: Mapping[str, int] = field(default_factory=dict)


def read_retries(reading: Reading, node: Node | None) -> RetriesConfig:
    """Read the section.

    Raises:
        ConfigError: it has a mistake.
    """
    if node is None or node.kind == "null":
        return RetriesConfig()
    values = reading.values(node, "retries", option_fields(RetryOptions), known=("reasons",))
    reading.keep_origins("retries", node)
    reasons = node.get("reasons")
    times: dict[str, int] = {}
    if reasons is not None and reasons.kind != "null":
        if reasons.entries is None:
            raise reading.error(
                "reasons is a map of reasons, each with how often it is tried again",
                reasons,
                hint="write for example: reasons: {agent_failed: 1, idle_timeout: 0}",
            )
        for reason, (mark, _) in reasons.entries.items():
            if not _REASON.fullmatch(reason):
                raise reading.error(
                    f"{reason[:80]!a} is not a reason",
                    mark,
                    hint="the page «Reasons» lists them: agent_failed, timeout, …",
                )
        fields = [OptionField(name=name, type=int, min=0, max=1000) for name in reasons.entries]
        times = reading.values(reasons, "reasons", fields)
        reading.keep_origins("retries.reasons", reasons)
    return RetriesConfig(**values, reasons=times)
