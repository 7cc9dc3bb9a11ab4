"""How Claude Code is started so that it works alone.

It gets `--permission-mode acceptEdits` and a list of `--allowedTools`. This works for root and
for ordinary users alike, where `--dangerously-skip-permissions` is refused for root unless
`IS_SANDBOX=1` claims a sandbox that may not be there. A tool that is not on the list (those of
MCP servers, say) is denied, and the deny rules of the repository's and the user's settings keep
their force.
"""

from __future__ import annotations

from typing import Final

from outpost_core.agents import AgentPreset

_TOOLS = "Bash,Edit,NotebookEdit,Skill,Task,WebFetch,WebSearch,Write"
_RIGHTS = ("--permission-mode", "acceptEdits", "--allowedTools", _TOOLS)

PRESET: Final = AgentPreset(
    name="claude",
    headless=(
        *("claude", "-p", "--output-format", "stream-json", "--verbose"),
        *(*_RIGHTS, "--", "{prompt}"),
    ),
    interactive=("claude", *_RIGHTS, "--", "{prompt}"),
    output="claude-stream-json",
    # Many workers at once must not replace the program under each other.
    env={"DISABLE_AUTOUPDATER": "1"},
    secrets=("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"),
    forward=("ANTHROPIC_BASE_URL", "ANTHROPIC_MODEL"),
    summary="Claude Code by Anthropic",
    install="npm install -g @anthropic-ai/claude-code",
    logins=("~/.claude/.credentials.json",),
    login="claude /login",
    resume=(
        *("claude", "-p", "--resume", "{session}", "--output-format", "stream-json"),
        *("--verbose", *_RIGHTS, "--", "{prompt}"),
    ),
    model_args=("--model", "{model}"),
    budget_args=("--max-budget-usd", "{budget}"),
)
