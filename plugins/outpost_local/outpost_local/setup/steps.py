"""The steps that every machine has, in their order."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from outpost_local.doctor import NOT_INSTALLED
from outpost_local.setup.runner import Answer, Course, ask
from outpost_shared.presets import PRESETS

if TYPE_CHECKING:
    from outpost_core.types import Finding, Step

#: The oldest versions that workers run with.
GIT = "2.25"
TMUX = "3.0"
_NPM = ("npm", "install", "-g")


async def system(course: Course) -> AsyncIterator[Step]:
    """What machine this is."""
    async for step in course.step("system", lambda: course.ask("system")):
        yield step


async def python(course: Course, command: str) -> AsyncIterator[Step]:
    """Python 3.11 or newer, by the configured command or under the names that it usually has."""
    async for step in course.step("python", lambda: course.ask("python", command)):
        yield step


async def programs(course: Course) -> AsyncIterator[Step]:
    """git and tmux."""
    for name, flag, wanted in (("git", "--version", GIT), ("tmux", "-V", TMUX)):
        work = (name, flag, wanted)
        async for step in course.step(
            name,
            lambda work=work: course.ask("program", *work),  # type: ignore[misc]
        ):
            yield step


async def account(
    course: Course, agents: Sequence[str], *, lent_keys: bool = False
) -> AsyncIterator[Step]:
    """What belongs to the login: that workers survive its end, agents, and keys to push with.

    Args:
        course: the bootstrap.
        agents: names of presets.
        lent_keys: workers there can use the SSH agent of the caller.
    """
    async for step in course.step("logout", lambda: course.ask("linger")):
        yield step
    for name in dict.fromkeys(agents):
        async for step in course.step(f"agent {name}", lambda name=name: _agent(course, name)):  # type: ignore[misc]
            yield step
    lent = "yes" if lent_keys else "no"
    async for step in course.step("git push", lambda: ask(course.shell, "push", lent)):
        yield step


async def _agent(course: Course, name: str) -> Answer:
    preset = PRESETS.get(name)
    if preset is None:
        detail = "how this agent of a plugin is installed is not known here"
        return Answer(state="skipped", detail=detail, hint="install it there by hand")
    words = tuple(shlex.split(preset.install))
    argv = preset.headless or preset.interactive or (name,)
    if words[: len(_NPM)] != _NPM or len(words) != len(_NPM) + 1:
        return Answer(state="skipped", detail="is not installed by npm", hint=preset.install)
    return await course.ask("agent", argv[0], words[-1])


def verdict(findings: Sequence[Finding], agents: Sequence[str] = ()) -> Answer:
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
        return Answer(state="ok", detail="a worker has what it needs")
    detail = "; ".join(f"{finding.check}: {finding.detail}" for finding in missing)
    return Answer(state="failed", detail=detail, hint=missing[0].hint)
