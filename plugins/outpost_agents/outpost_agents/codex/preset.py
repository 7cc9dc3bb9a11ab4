"""How Codex is started so that it works alone.

It gets `--dangerously-bypass-approvals-and-sandbox`: its own sandbox needs kernel features that
many containers lack, forbids the network (no `pip install`) and a commit. Where it fits, order it
by hand: `-- codex exec --json --sandbox workspace-write {prompt}`.
"""

from __future__ import annotations

from typing import Final

from outpost_core.agents import AgentPreset

PRESET: Final = AgentPreset(
    name="codex",
    headless=(
        *("codex", "exec", "--json", "--skip-git-repo-check"),
        *("--dangerously-bypass-approvals-and-sandbox", "--", "{prompt}"),
    ),
    # A worker's folder is new each time: the question whether it is trusted is answered.
    interactive=(
        *("codex", "-c", 'projects."{work}".trust_level="trusted"'),
        *("--dangerously-bypass-approvals-and-sandbox", "--", "{prompt}"),
    ),
    output="codex-json",
    secrets=("OPENAI_API_KEY", "CODEX_API_KEY"),
    forward=("OPENAI_BASE_URL",),
    summary="Codex CLI by OpenAI",
    install="npm install -g @openai/codex",
    logins=("~/.codex/auth.json",),
    login="codex login",
    resume=(
        *("codex", "exec", "resume", "--json", "--skip-git-repo-check"),
        *("--dangerously-bypass-approvals-and-sandbox", "--", "{session}", "{prompt}"),
    ),
    model_args=("--model", "{model}"),
)
