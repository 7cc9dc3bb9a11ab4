"""What each plugin provides: outpost types, agents, commands, a policy, and the like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from outpost_core.discovery import PluginReport, Plugins

#: What a plugin is that implements a hook, in a word; types, agents and commands have names.
ROLES: Final[Mapping[str, str]] = {
    "outpost_assign": "policy",
    "outpost_issue": "issues",
    "outpost_event": "observer",
    "outpost_order": "orders",
    "outpost_services": "services",
}


@dataclass(frozen=True, kw_only=True)
class Provided:
    """What one plugin provides.

    Args:
        types: outpost types.
        agents: names of agents.
        commands: names of commands.
        roles: what else it does: `policy`, `issues`, `observer`, …
    """

    types: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All of it in one line, or "-"."""
        named = (("type", self.types), ("agent", self.agents), ("command", self.commands))
        parts = [
            f"{word}{'s' if len(names) > 1 else ''} {', '.join(names)}"
            for word, names in named
            if names
        ]
        return "; ".join([*parts, *self.roles]) or "-"


def provided(
    plugins: Plugins, commands: Mapping[str, PluginReport]
) -> dict[PluginReport, Provided]:
    """Return what each plugin provides; asks them for agents.

    Args:
        plugins: all that is installed.
        commands: of plugins, with the package of each.
    """
    agents: dict[str, list[str]] = {}
    for plugin, answer in plugins.answers("outpost_agents"):
        if isinstance(answer, Mapping):
            agents.setdefault(plugin, []).extend(map(str, answer))
    found = {}
    for report in plugins.reports:
        found[report] = Provided(
            types=report.types,
            agents=tuple(agents.get(f"package:{report.entry_point}", ())),
            commands=tuple(name for name, owner in commands.items() if owner is report),
            roles=tuple(word for hook, word in ROLES.items() if hook in report.hooks),
        )
    return found
