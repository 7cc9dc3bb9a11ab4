"""The presets of the agents that come with Outpost.

**What an agent may do.** A headless worker has nobody to ask, so every headless preset lets its
agent run commands and edit files without a question. What keeps it to its work is the worker's
fence and account, not the agent: use an account, a machine or a container whose loss you can bear.

Prompts are handed over behind `--` or glued to their option, so that one that begins with a dash
is still a prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from outpost_agents.claude.preset import PRESET as CLAUDE
from outpost_agents.codex.preset import PRESET as CODEX
from outpost_agents.gemini.preset import PRESET as GEMINI
from outpost_agents.opencode.preset import PRESET as OPENCODE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_core.agents import AgentPreset

#: By name.
PRESETS: Final[Mapping[str, AgentPreset]] = {
    preset.name: preset for preset in (CLAUDE, CODEX, GEMINI, OPENCODE)
}
