"""What a policy answers: where an order may go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Assignment:
    """A policy's choice of outposts for one order.

    Args:
        outposts: a name, or names, best first. Outposts that are not named do not get the order.
        reason: why, in a few words; `outpost explain` and `outpost show` say it.
    """

    outposts: str | Sequence[str]
    reason: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the outposts, best first."""
        return (self.outposts,) if isinstance(self.outposts, str) else tuple(self.outposts)
