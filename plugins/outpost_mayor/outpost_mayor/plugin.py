"""The entry point of the package: brings the commands of the queue and `outpost serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTPOST_API = 1


@hookimpl
def outpost_commands() -> Sequence[object]:
    """Return the commands of this package."""
    return []
