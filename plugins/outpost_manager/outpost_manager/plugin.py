"""The entry point of the package: what the near side itself offers, by the hooks of all plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from outpost_core.types import Issue

OUTPOST_API = 1


@hookimpl(trylast=True)
def outpost_issue(issue_id: str, rig: str | None) -> Issue | None:
    """Look an issue up in beads; any other source of issues goes before it.

    Raises:
        OutpostError: beads is there and failed.
    """
    from outpost_manager.orders import beads

    return beads.find(issue_id, rig)
