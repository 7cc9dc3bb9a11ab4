"""The section `queue`: in which order what waits is placed, and how many run at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from outpost_core.backend import option

if TYPE_CHECKING:
    from outpost_core.types import Order

#: Seconds by which a step of priority puts an order back: a P4 waits at most four times as long
#: as this behind whatever comes later.
AGING: Final = 6 * 3600.0
#: By what the queue can be shared.
SHARES: Final = ("rig", "label", "none")
#: The word that stands for whatever is not named.
_OTHERS: Final = "*"
_HEAVIEST: Final = 1_000_000
#: Seconds that a step of priority weighs where nothing ages: more than anybody waits.
_NEVER: Final = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueRules:
    """By which rules the next entry is found.

    Args:
        aging: seconds that a step of priority weighs.
        weights: share → its weight; 1 where it is not named.
        per_rig: rig → the most workers that run on it at once; "" for every other rig.
        per_account: agent → the same; "" for every other agent. An account has `max_workers`.
    """

    aging: float = AGING
    weights: Mapping[str, float] = field(default_factory=dict)
    per_rig: Mapping[str, int] = field(default_factory=dict)
    per_account: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class QueueConfig:
    """The section `queue`."""

    aging: float = option(
        "how long an order waits until it counts as one priority higher, so that a P4 is passed"
        " only by a P0 that comes within four times as long; 0 for never",
        default=AGING,
        unit="duration",
        min=0,
    )
    share: str = option(
        "whose turn it is within a priority: rig, label or none; whoever has the fewest running for"
        " its weight is next",
        default="rig",
    )
    weights: object = option("rig or label to its weight; 1 where it is not named", default={})
    per_rig: object = option(
        "rig to the most workers of the queue on it at once; * for every other", default={}
    )
    per_account: object = option(
        "agent to the most workers of the queue at once; * for every other", default={}
    )

    @property
    def step(self) -> float:
        """Seconds that a step of priority weighs."""
        return self.aging or _NEVER

    def rules(self) -> QueueRules:
        """Return what the ledger goes by."""
        return QueueRules(
            aging=self.step,
            weights=_numbers(self.weights) or {},
            per_rig=_most(self.per_rig),
            per_account=_most(self.per_account),
        )

    def share_of(self, order: Order) -> str:
        """Return what an order counts as."""
        if self.share == "rig":
            return order.rig or ""
        if self.share == "label":
            labels = order.issue.labels
            named = [label for label in labels if label in (_numbers(self.weights) or {})]
            return (named or [*labels, ""])[0]
        return ""


def mistake(config: QueueConfig) -> tuple[str, str] | None:
    """Return the key that says what cannot be, and why; None when there is none."""
    if config.share not in SHARES:
        return "share", f"share is one of {', '.join(SHARES)}"
    for key in ("weights", "per_rig", "per_account"):
        found = _numbers(getattr(config, key))
        if found is None:
            return key, f"{key} is a map of names, each with a number"
        for number in found.values():
            if key == "weights" and not 0 < number <= _HEAVIEST:
                return key, f"a weight is more than 0, and at most {_HEAVIEST}"
            if key != "weights" and (number < 0 or number != int(number)):
                return key, f"{key}: a number of workers is whole, and at least 0"
    return None


def _numbers(said: object) -> dict[str, float] | None:
    """Return a map of names to numbers; None when it is none."""
    if not isinstance(said, dict):
        return None
    numbers = {
        str(name): float(number)
        for name, number in said.items()
        if isinstance(number, int | float) and not isinstance(number, bool)
    }
    finite = all(math.isfinite(number) for number in numbers.values())
    return numbers if finite and len(numbers) == len(said) else None


def _most(said: object) -> dict[str, int]:
    found = _numbers(said) or {}
    return {"" if name == _OTHERS else name: int(number) for name, number in found.items()}
