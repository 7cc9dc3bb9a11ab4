"""The entry point of the package: brings `outpost conformance`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTPOST_API = 1


@hookimpl
def outpost_commands() -> Sequence[object]:
    """Return the command that runs the kit against a configured outpost."""
    from outpost_testing.command import conformance

    return [conformance]
