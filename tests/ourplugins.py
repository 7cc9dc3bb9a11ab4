"""The plugins that come with the near side, for tests that choose what is installed."""

from __future__ import annotations

import outpost_agents.plugin
import outpost_manager.plugin
from outpost_core.discovery import PluginReport, Plugins


def ours() -> Plugins:
    """Return plugins as they are where no backend is installed."""
    plugins = Plugins.load([])
    for name, plugin in (("agents", outpost_agents.plugin), ("manager", outpost_manager.plugin)):
        plugins.add(plugin, PluginReport(entry_point=name, package=f"outpost-{name}"))
    return plugins
