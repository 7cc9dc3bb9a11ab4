"""The entry point of the package: offers the presets of our agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_core.agents import AgentPreset

OUTPOST_API = 1


@hookimpl(trylast=True)
def outpost_agents() -> Mapping[str, AgentPreset]:
    """Return our presets; another package's preset of the same name goes before them."""
    from outpost_agents.presets import PRESETS

    return PRESETS
