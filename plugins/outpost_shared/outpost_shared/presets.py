"""Agent presets: how each agent is started so that it works alone, and how its output is read.

**What an agent may do.** A headless worker has nobody to ask, so every headless preset lets its
agent run commands and edit files without a question. The fence is the worker's account, not the
agent: use an account, a machine or a container whose loss you can bear.

- *Claude Code* gets `--permission-mode acceptEdits` and a list of `--allowedTools`. This works
  for root and for ordinary users alike, where `--dangerously-skip-permissions` is refused for
  root unless `IS_SANDBOX=1` claims a sandbox that may not be there. A tool that is
  not on the list (those of MCP servers, say) is denied, and the deny rules of the repository's
  and the user's settings keep their force.
- *Codex* gets `--dangerously-bypass-approvals-and-sandbox`: its own sandbox needs kernel
  features that many containers lack, forbids the network (no `pip install`) and a commit.
  Where it fits, order it by hand: `-- codex exec --json --sandbox workspace-write {prompt}`.
- *Gemini CLI* gets `--approval-mode yolo` and is told to trust the worker's folder.
- *opencode* needs no flag: `run` does what its configuration allows, which by default is
  everything inside the working tree, and denies what it would have to ask for.

Prompts are handed over behind `--` or glued to their option, so that one that begins with a dash
is still a prompt. What each output means is read by `worker.agentout`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from outpost_core.agents import AgentPreset
from outpost_core.errors import UnsupportedError, UsageError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Agent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: What can be the name of a model or of a session: it never looks like a flag.
_VALUE: Final = re.compile(r"[A-Za-z0-9][\w.:/@\[\]+-]{0,199}", re.ASCII)


_CLAUDE_TOOLS = "Bash,Edit,NotebookEdit,Skill,Task,WebFetch,WebSearch,Write"
_CLAUDE_RIGHTS = ("--permission-mode", "acceptEdits", "--allowedTools", _CLAUDE_TOOLS)

_PRESETS = (
    AgentPreset(
        name="claude",
        headless=(
            *("claude", "-p", "--output-format", "stream-json", "--verbose"),
            *(*_CLAUDE_RIGHTS, "--", "{prompt}"),
        ),
        interactive=("claude", *_CLAUDE_RIGHTS, "--", "{prompt}"),
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
            *("--verbose", *_CLAUDE_RIGHTS, "--", "{prompt}"),
        ),
        model_args=("--model", "{model}"),
        budget_args=("--max-budget-usd", "{budget}"),
    ),
    AgentPreset(
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
    ),
    AgentPreset(
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
    ),
    AgentPreset(
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
    ),
)

#: The presets that come with Outpost, by name.
PRESETS: Mapping[str, AgentPreset] = {preset.name: preset for preset in _PRESETS}


def resolve(
    name: str,
    presets: Mapping[str, AgentPreset],
    *,
    interactive: bool,
    environ: Mapping[str, str] | None = None,
    session: str | None = None,
    model: str | None = None,
    budget: float | None = None,
    extra: Sequence[str] = (),
) -> Agent:
    """Turn a preset's name into the agent of an order.

    Args:
        name: what the user wrote.
        presets: all that the plugins offer.
        interactive: for a terminal.
        environ: the caller's environment; variables named in the preset's `forward` are taken.
        session: the agent's own session to go on with.
        model: the model that it is to use.
        budget: USD that the agent itself is to keep within, where it can.
        extra: further arguments, before its prompt.

    Raises:
        UsageError: there is no such preset (names the nearest), or a value is none.
        UnsupportedError: the preset cannot run that way.
    """
    preset = presets.get(name)
    if preset is None:
        raise UsageError(f"there is no agent named {name!r}", hint=_nearest(name, presets))
    more: list[str] = []
    if model is not None:
        more += _filled(preset, "model", preset.model_args, model)
    if budget is not None and not interactive:
        more += [word.replace("{budget}", format(budget, "f")) for word in preset.budget_args]
    argv = _argv(preset, interactive, session)
    forwarded = {key: environ[key] for key in preset.forward if environ and environ.get(key)}
    return Agent(
        name=name,
        argv=_with(argv, [*more, *extra]),
        interactive=interactive,
        output="plain" if interactive else preset.output,
        env={**forwarded, **preset.env},
    )


def _argv(preset: AgentPreset, interactive: bool, session: str | None) -> Sequence[str]:
    if session is not None:
        if interactive or preset.resume is None:
            raise UnsupportedError(
                f"the agent {preset.name} cannot go on with a session"
                + (" on a terminal" if interactive and preset.resume else ""),
                hint="start a new session; the work of before is in the branch",
            )
        return _filled(preset, "session", preset.resume, session)
    argv = preset.interactive if interactive else preset.headless
    if argv is None:
        way, other = ("interactively", "headless") if interactive else ("headless", "interactively")
        raise UnsupportedError(
            f"the agent {preset.name} cannot run {way}",
            hint=f"run it {other}, or give the command after --",
        )
    return argv


def _filled(preset: AgentPreset, what: str, template: Sequence[str], value: str) -> list[str]:
    """Put a model or a session into its arguments."""
    if not template:
        raise UnsupportedError(
            f"how the agent {preset.name} is given a {what} is not known",
            hint="give its own arguments with --agent-arg",
        )
    if not _VALUE.fullmatch(value):
        raise UsageError(
            f"{value[:80]!a} is not the name of a {what}",
            hint="letters, digits and ._:/@[]+- after a letter or digit",
        )
    return [word.replace("{" + what + "}", value) for word in template]


def _with(argv: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    """Add arguments: where `{args}` stands, else before a lone `--`, else at the end."""
    for mark in ("{args}", "--"):
        if mark in argv:
            at = argv.index(mark)
            return (*argv[:at], *more, *argv[at + (mark == "{args}") :])
    return (*argv, *more)


def _nearest(name: str, presets: Mapping[str, AgentPreset]) -> str:
    import difflib

    known = ", ".join(sorted(presets))
    near = difflib.get_close_matches(name, presets, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}known: {known}; any other command goes after --"


class BuiltinAgents:
    """The plugin that offers `PRESETS`."""

    @hookimpl
    def outpost_agents(self) -> Mapping[str, AgentPreset]:
        """Return the presets that come with Outpost."""
        return PRESETS
