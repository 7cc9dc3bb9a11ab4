"""`outpost bootstrap` of a far machine: shell scripts first, since Python may be missing there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING

from outpost_core.types import Step
from outpost_local.setup import steps, town
from outpost_local.setup.runner import Answer, Course, ask
from outpost_shared.paths import here
from outpost_ssh.neartown import near_town, passed_over
from outpost_ssh.scripts import FarShell

if TYPE_CHECKING:
    from outpost_ssh.reach import Reach


async def bootstrap(outpost: Reach, agents: Sequence[str], dry_run: bool) -> AsyncIterator[Step]:
    """Yield the steps: what is there is left alone, so it can be killed and run again.

    Args:
        outpost: where.
        agents: names of presets.
        dry_run: change nothing there.
    """
    course = Course(shell=FarShell(outpost.link()), dry_run=dry_run)
    far = _Far(outpost, course, agents)
    async for step in course.step("connect", far.connect):
        yield step
    if course.states["connect"] == "failed":
        return
    async for step in steps.system(course):
        yield step
    if course.states["system"] == "failed":
        return
    for group in (
        steps.python(course, outpost.options.python),
        steps.programs(course),
        course.step("package", far.package, needs=("python",)),
        steps.account(course, agents, lent_keys=outpost.options.forward_agent),
        far.town(),
    ):
        async for step in group:
            yield step
    if not dry_run:
        async for step in course.step("doctor", far.doctor, needs=("python", "package")):
            yield step


class _Far:
    """The steps that only a far machine has."""

    def __init__(self, outpost: Reach, course: Course, agents: Sequence[str]) -> None:
        self._outpost = outpost
        self._course = course
        self._agents = agents

    async def connect(self) -> Answer:
        link = self._outpost.link()
        await link.connection()
        return Answer(state="ok", detail=f"logged in to {link.peer}")

    async def package(self) -> Answer:
        from outpost_ssh.package import package

        address = (await asyncio.to_thread(package)).address
        looked = await ask(self._course.shell, "package", address)
        if self._course.dry_run or looked.state == "failed":
            return looked
        await self._outpost.call("ping")
        if looked.state == "ok":
            return looked
        return Answer(state="done", detail=f"version {address}")

    async def town(self) -> AsyncIterator[Step]:
        options = self._outpost.options
        if options.town_path is None:
            return
        path = options.town_path
        cwd = here(os.environ)
        context = self._outpost.context
        near = near_town(context.config_dir, os.environ, cwd, context.trusts)

        async def clone() -> Answer:
            source = await town.find_source(options.town_url, near)
            answer = await town.clone(self._course, path, source)
            found = None if source else passed_over(cwd, context.trusts)
            if answer.state != "skipped" or found is None:
                return answer
            detail = f"{answer.detail}; {found} was found here, and you have not trusted it"
            return replace(answer, detail=detail, hint=f"outpost trust {quote(str(found))}")

        async for step in self._course.step("town", clone, needs=("git",)):
            yield step
        if near is None:
            return
        async for step in self._course.step(
            "town config", lambda: town.config(self._course, path, near), needs=("town",)
        ):
            yield step

    async def doctor(self) -> Answer:
        return steps.verdict(await self._outpost.outpost_doctor(rig=None), self._agents)
