"""Bootstrap of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_core.errors import UnreachableError
from outpost_local.setup import steps
from outpost_local.setup.runner import Ran, SetupRun, StepResult

if TYPE_CHECKING:
    from outpost_core.types import Finding, Step

#: Seconds that a script gets to end by itself once it is not waited for.
_GRACE: Final = 5.0


class HereShell:
    """Runs scripts on this machine, each in a session of its own: nothing can ask for a password.

    Args:
        environ: their environment.
        shell: the program that runs them.
    """

    def __init__(
        self, environ: dict[str, str] | None = None, shell: Sequence[str] = ("/bin/sh",)
    ) -> None:
        self._environ = environ
        self._shell = [*shell]

    async def run(self, text: str, args: Sequence[str], timeout: float) -> Ran:
        """Run a script; its whole process group is ended when it takes too long.

        Raises:
            UnreachableError: it did not end in time.
        """
        process = await asyncio.create_subprocess_exec(
            *self._shell,
            "-s",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environ,
            start_new_session=True,
        )
        parameters = " ".join(shlex.quote(arg) for arg in args)
        try:
            out, err = await asyncio.wait_for(
                process.communicate(f"set -- {parameters}\n{text}".encode()), timeout
            )
        except TimeoutError:
            raise UnreachableError(
                f"it did not end within {timeout:g} s and was stopped", hint="run this again"
            ) from None
        finally:
            await _end(process)
        assert process.returncode is not None, "communicate waits for its end"
        return Ran(
            code=process.returncode,
            out=out.decode("utf-8", "replace"),
            err=err.decode("utf-8", "replace"),
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    """End what is left of a script: a package manager first gets the time to put things right."""
    for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), patience)


async def bootstrap(
    shell: HereShell,
    agents: Sequence[str],
    dry_run: bool,
    *,
    town: Path | None,
    doctor: Callable[[], Awaitable[Sequence[Finding]]],
) -> AsyncIterator[Step]:
    """Yield the steps of this machine's bootstrap.

    Args:
        shell: where the scripts run.
        agents: names of presets.
        dry_run: change nothing.
        town: where the Gas Town workspace should be.
        doctor: looks at everything at the end.
    """
    run = SetupRun(shell=shell, dry_run=dry_run)
    async for step in steps.system(run):
        yield step
    if run.states["system"] == "failed":
        return
    for group in (steps.programs(run), steps.account(run, agents)):
        async for step in group:
            yield step
    if town is not None:
        async for step in run.step("town", lambda: run.ask("town", str(town), "")):
            yield step

    async def look() -> StepResult:
        return steps.verdict(await doctor(), agents)

    if not dry_run:
        async for step in run.step("doctor", look):
            yield step
