"""An agent preset: how a command is started as an agent, and how its output is read."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class AgentPreset:
    """A named agent command.

    Args:
        name: what `--agent` takes.
        headless: program and arguments for work without a person; None when it cannot.
            `{prompt}`, `{prompt_file}`, `{issue}` and `{work}` (its tree) are replaced there.
            Further arguments go where `{args}` stands, else before a lone `--`, else to the end.
        interactive: the same for a terminal; None when it cannot.
        output: the name of the reader of its headless output (see `types.Agent`).
        env: variables that it always gets.
        secrets: names of variables that hold its credentials: those that the caller has go
            along as secrets.
        forward: ordinary variables (its model, its server) that go along likewise, so that a key
            reaches no other server than the caller's own agent would use.
        summary: one line for lists.
        install: the command that installs it.
        resume: program and arguments that continue with a session of before, headless; `{session}`
            is replaced by its id. None when it cannot.
        model_args: arguments that choose a model; `{model}` is replaced. Empty when it cannot.
        budget_args: arguments that let the agent itself keep within `{budget}` USD. Empty when
            it cannot.
        logins: files (`~`: home folder) of which one is there once it is logged in; or nothing.
        login: the command that logs it in.
        max_agent_cost_usd: USD that it may spend, where the order does not say; None: `defaults`.
    """

    name: str
    headless: tuple[str, ...] | None
    interactive: tuple[str, ...] | None
    output: str = "plain"
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    forward: tuple[str, ...] = ()
    summary: str = ""
    install: str = ""
    resume: tuple[str, ...] | None = None
    model_args: tuple[str, ...] = ()
    budget_args: tuple[str, ...] = ()
    logins: tuple[str, ...] = ()
    login: str = ""
    max_agent_cost_usd: float | None = None


def logged_in(preset: AgentPreset, environ: Mapping[str, str]) -> bool | None:
    """Return whether a login of an agent can be seen on this machine; None when nobody can say.

    Args:
        preset: the agent.
        environ: where its keys and the home folder would be.
    """
    if not preset.logins:
        return None
    if any(environ.get(name) for name in preset.secrets):
        return True
    home = environ.get("HOME") or "/"
    return any(os.path.exists(file.replace("~", home, 1)) for file in preset.logins)  # noqa: PTH110
