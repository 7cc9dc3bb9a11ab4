"""The exec outpost: a program that is started when something is asked, and spoken to."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from collections.abc import Sequence
from typing import Final

from outpost_core.backend import BuildContext
from outpost_core.errors import OutpostError, UnreachableError, UsageError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Finding
from outpost_exec.options import CAPABILITIES, ExecOptions
from outpost_exec.program import Program
from outpost_exec.stdio.client import Client
from outpost_exec.stdio.remote import StdioOutpost
from outpost_shared import access, border, private, viewer
from outpost_shared.paths import here

#: Tells the program a private folder for what it keeps.
STATE: str = "OUTPOST_STATE_DIR"
#: What tests ask for: a crash, once.
_FAULT: str = "OUTPOST_FAULT"
#: A word that a program may add to a viewer's command: no flag, and nothing that a viewer such as
#: tmux takes for a command of its own.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./=][A-Za-z0-9_./:@=+,%-]*", re.ASCII)


class ExecOutpost(StdioOutpost):
    """An outpost behind a program's standard input and output.

    Args:
        name: the configured name.
        options: its options.
        context: its state folder is handed to the program.
    """

    type = "exec"
    options: ExecOptions

    def __init__(self, name: str, options: ExecOptions, context: BuildContext) -> None:
        super().__init__(name, options, context)
        self.capabilities = frozenset({*options.capabilities, "doctor"})
        self._program: Program | None = None
        self._starts = 0
        self._ending: set[asyncio.Task[None]] = set()

    async def connect(self) -> Client:
        """Start the program and greet it.

        Raises:
            UnreachableError: it cannot be executed, or does not answer as it should.
            OutpostError: its own reason not to serve.
        """
        options = self.options
        home = self.context.config_dir or here(os.environ)
        folder = self.context.state_dir.absolute()
        try:
            private.claim(str(folder))
        except OSError as error:
            why = error.why if isinstance(error, access.NotPrivateError) else error.strerror
            raise UnreachableError(
                f"the state folder {folder} is refused: {error.filename}: {why}",
                hint=error.hint if isinstance(error, access.NotPrivateError) else "",
                sent=False,
            ) from error
        env = {**os.environ, **options.env, STATE: str(folder)}
        if self._starts:  # a crash that was asked for happened in the first one
            env.pop(_FAULT, None)
        self._starts += 1
        cwd = home / options.cwd.expanduser() if options.cwd else home
        program = await Program.start(self.name, options.command, env, cwd)
        try:
            client = await Client.start(
                self.name,
                program.stdout,
                program.stdin,
                name=self.name,
                options={**options.options},
                timeout=options.start_timeout,
            )
        except BaseException as error:
            if isinstance(error, OutpostError):
                await _add_last_words(error, program)
            self._end_later(program, None)
            raise
        self._program = program
        self._end_later(program, client)
        return client

    def _end_later(self, program: Program, client: Client | None) -> None:
        """End the program once nobody can speak to it any more."""

        async def end() -> None:
            if client is not None:
                await client.closed.wait()
            await program.end()

        task = asyncio.create_task(end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def explain(self, error: OutpostError) -> None:
        """Add what the program said last."""
        if self._program is not None:
            await _add_last_words(error, self._program)

    @hookimpl
    async def outpost_attach(self, worker: str) -> int:
        """Run the viewer that the program names on the caller's terminal, where that is allowed.

        Raises:
            UsageError: the caller has no terminal, or the configuration does not allow it.
            OutpostError: what the program answered.
        """
        viewer.check_terminal(worker)
        return await viewer.attach(worker, self._allowed(await self.viewer(worker)))

    def _allowed(self, argv: list[str]) -> list[str]:
        """Return a viewer's argv when the user has allowed that it runs here.

        The program may be a far host's (`command: [ssh, …]`), which must not choose what runs on
        this machine.
        """
        begin = [*self.options.viewer]
        more = argv[len(begin) :]
        if begin and argv[: len(begin)] == begin and all(map(_PLAIN.fullmatch, more)):
            return argv
        shown = border.line(shlex.join(argv), 300)
        hint = "add `viewer:` with the beginning of that command to it in outposts.yaml, if you"
        if begin:
            hint = f"`viewer:` in outposts.yaml allows only {shlex.join(begin)} and plain words; if"
        raise UsageError(
            f"{self.name} wants to run on this machine: {shown}",
            hint=f"{hint} trust it; outpost peek and outpost logs -f show the worker as well",
        )

    @hookimpl
    async def outpost_doctor(self, rig: str | None) -> Sequence[Finding]:
        """Compare what the program offers with what is configured, and ask it for its own view."""
        findings = list(await super().outpost_doctor(rig))
        offered = self.offered(await self.client()) & CAPABILITIES - self.capabilities
        if offered:
            all_of_them = ", ".join(sorted(offered | {*self.options.capabilities}))
            findings.append(
                Finding(
                    check="capabilities",
                    ok=None,
                    detail=f"the program offers, and the configuration does not say:"
                    f" {', '.join(sorted(offered))}",
                    hint=f"capabilities: [{all_of_them}] for {self.name} in outposts.yaml",
                )
            )
        return findings

    @hookimpl
    async def outpost_close(self) -> None:
        """End the program; its workers keep running."""
        await super().outpost_close()
        while self._ending:
            await asyncio.wait(self._ending)


async def _add_last_words(error: OutpostError, program: Program) -> None:
    if words := await program.last_words():
        error.message = f"{error.message}; {words}"
        error.args = (error.message,)
