"""How opencode is started so that it works alone.

It needs no flag: `run` does what its configuration allows, which by default is everything inside
the working tree, and denies what it would have to ask for.
"""

from __future__ import annotations

from typing import Final

from outpost_core.agents import AgentPreset

PRESET: Final = AgentPreset(
    name="opencode",
    headless=("opencode", "run", "--format", "json", "--", "{prompt}"),
    interactive=("opencode", "--prompt={prompt}"),
    output="opencode-json",
    env={"OPENCODE_DISABLE_AUTOUPDATE": "1"},
    secrets=("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "OPENCODE_API_KEY"),
    summary="opencode, for models of many providers",
    install="npm install -g opencode-ai",
    logins=("~/.local/share/opencode/auth.json",),
    login="opencode auth login",
    resume=("opencode", "run", "--format", "json", "--session={session}", "--", "{prompt}"),
    model_args=("--model", "{model}"),
)
