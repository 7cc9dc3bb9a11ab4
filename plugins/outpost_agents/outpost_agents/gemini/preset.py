"""How Gemini CLI is started so that it works alone.

It gets `--approval-mode yolo` and is told to trust the worker's folder.
"""

from __future__ import annotations

from typing import Final

from outpost_core.agents import AgentPreset

PRESET: Final = AgentPreset(
    name="gemini",
    headless=(
        *("gemini", "--approval-mode", "yolo", "--output-format", "stream-json"),
        "--prompt={prompt}",
    ),
    interactive=("gemini", "--approval-mode", "yolo", "--prompt-interactive={prompt}"),
    output="gemini-json",
    # A worker's folder is new each time; without this Gemini CLI refuses to work there.
    env={"GEMINI_CLI_TRUST_WORKSPACE": "true"},
    secrets=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    forward=("GOOGLE_GEMINI_BASE_URL", "GEMINI_MODEL"),
    summary="Gemini CLI by Google",
    install="npm install -g @google/gemini-cli",
    logins=("~/.gemini/oauth_creds.json",),
    login="gemini, then /auth",
    model_args=("--model", "{model}"),
)
