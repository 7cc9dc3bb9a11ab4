"""The steps that every machine has, in their order."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from outpost_agents.presets import PRESETS
from outpost_local.doctor import NOT_INSTALLED
from outpost_local.setup.runner import SetupRun, StepResult, ask

if TYPE_CHECKING:
    from outpost_core.types import Finding, Step

#: The oldest versions that workers run with.
GIT = "2.25"
TMUX = "3.0"
_NPM = ("npm", "install", "-g")


async def system(run: SetupRun) -> AsyncIterator[Step]:
    """What machine this is."""
    async for step in run.step("system", lambda: run.ask("system")):
        yield step


async def python(run: SetupRun, command: str) -> AsyncIterator[Step]:
    """Python 3.11 or newer, by the configured command or under the names that it usually has."""
    async for step in run.step("python", lambda: run.ask("python", command)):
        yield step


async def programs(run: SetupRun) -> AsyncIterator[Step]:
    """git and tmux."""
    for name, flag, wanted in (("git", "--version", GIT), ("tmux", "-V", TMUX)):
        work = (name, flag, wanted)
        async for step in run.step(
            name,
            lambda work=work: run.ask("program", *work),  # type: ignore[misc]
        ):
            yield step


async def account(
    run: SetupRun, agents: Sequence[str], *, lent_keys: bool = False
) -> AsyncIterator[Step]:
    """What belongs to the login: that workers survive its end, agents, and keys to push with.

    Args:
        run: the bootstrap.
        agents: names of presets.
        lent_keys: workers there can use the SSH agent of the caller.
    """
    async for step in run.step("logout", lambda: run.ask("linger")):
        yield step
    for name in dict.fromkeys(agents):
        async for step in run.step(f"agent {name}", lambda name=name: _agent(run, name)):  # type: ignore[misc]
            yield step
    lent = "yes" if lent_keys else "no"
    async for step in run.step("git push", lambda: ask(run.shell, "push", lent)):
        yield step


async def _agent(run: SetupRun, name: str) -> StepResult:
    preset = PRESETS.get(name)
    if preset is None:
        detail = "how this agent of a plugin is installed is not known here"
        return StepResult(state="skipped", detail=detail, hint="install it there by hand")
    words = tuple(shlex.split(preset.install))
    argv = preset.headless or preset.interactive or (name,)
    if words[: len(_NPM)] != _NPM or len(words) != len(_NPM) + 1:
        return StepResult(state="skipped", detail="is not installed by npm", hint=preset.install)
    return await run.ask("agent", argv[0], words[-1])


def verdict(findings: Sequence[Finding], agents: Sequence[str] = ()) -> StepResult:
    """Return the last step: what doctor still finds missing.

    Args:
        findings: the doctor's.
        agents: those that the bootstrap was to install: without them, no worker has what it needs.
    """
    wanted = {f"agent {name}" for name in agents}
    missing = [
        finding
        for finding in findings
        if finding.ok is False or (finding.check in wanted and finding.detail == NOT_INSTALLED)
    ]
    if not missing:
        return StepResult(state="ok", detail="a worker has what it needs")
    detail = "; ".join(f"{finding.check}: {finding.detail}" for finding in missing)
    return StepResult(state="failed", detail=detail, hint=missing[0].hint)
