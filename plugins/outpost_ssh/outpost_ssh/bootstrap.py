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
from outpost_local.setup.runner import SetupRun, StepResult, ask
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
    run = SetupRun(shell=FarShell(outpost.host()), dry_run=dry_run)
    far = _Far(outpost, run, agents)
    async for step in run.step("connect", far.connect):
        yield step
    if run.states["connect"] == "failed":
        return
    async for step in steps.system(run):
        yield step
    if run.states["system"] == "failed":
        return
    for group in (
        steps.python(run, outpost.options.python),
        steps.programs(run),
        run.step("package", far.package, needs=("python",)),
        steps.account(run, agents, lent_keys=outpost.options.forward_agent),
        far.town(),
    ):
        async for step in group:
            yield step
    if not dry_run:
        async for step in run.step("doctor", far.doctor, needs=("python", "package")):
            yield step


class _Far:
    """The steps that only a far machine has."""

    def __init__(self, outpost: Reach, run: SetupRun, agents: Sequence[str]) -> None:
        self._outpost = outpost
        self._run = run
        self._agents = agents

    async def connect(self) -> StepResult:
        host = self._outpost.host()
        await host.connection()
        return StepResult(state="ok", detail=f"logged in to {host.peer}")

    async def package(self) -> StepResult:
        from outpost_ssh.package import package

        address = (await asyncio.to_thread(package)).address
        looked = await ask(self._run.shell, "package", address)
        if self._run.dry_run or looked.state == "failed":
            return looked
        await self._outpost.call("ping")
        if looked.state == "ok":
            return looked
        return StepResult(state="done", detail=f"version {address}")

    async def town(self) -> AsyncIterator[Step]:
        options = self._outpost.options
        if options.town_path is None:
            return
        path = options.town_path
        cwd = here(os.environ)
        context = self._outpost.context
        near = near_town(context.config_dir, os.environ, cwd, context.trusts)

        async def clone() -> StepResult:
            source = await town.find_source(options.town_url, near)
            answer = await town.clone(self._run, path, source)
            found = None if source else passed_over(cwd, context.trusts)
            if answer.state != "skipped" or found is None:
                return answer
            detail = f"{answer.detail}; {found} was found here, and you have not trusted it"
            return replace(answer, detail=detail, hint=f"outpost trust {quote(str(found))}")

        async for step in self._run.step("town", clone, needs=("git",)):
            yield step
        if near is None:
            return
        async for step in self._run.step(
            "town config", lambda: town.config(self._run, path, near), needs=("town",)
        ):
            yield step

    async def doctor(self) -> StepResult:
        return steps.verdict(await self._outpost.outpost_doctor(rig=None), self._agents)
