"""Starting and stopping the machine of an SSH host, by commands of the user on this machine.

The commands are argv, run without a shell, with the user's own environment and without a terminal.
What they answer is not believed: the host is up once it answers over SSH, and down once it does
not, or once `state_command` says so.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from outpost_core.errors import SpawnRefusedError, UnreachableError
from outpost_core.types import Scale
from outpost_core.units import format_duration
from outpost_shared import children
from outpost_shared.backoff import Backoff
from outpost_shared.harmless import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outpost_ssh.connection.host import RemoteHost
    from outpost_ssh.options import SshOptions

#: First words of what a state command prints of a machine that is up, in any case.
UP_WORDS: Final = frozenset({"running", "up", "on", "active", "started", "true", "1"})
#: Bytes of a command's output that are kept, the last ones, to be quoted.
_KEPT: Final = 2000


class Machine:
    """The machine of a host.

    Args:
        name: the outpost.
        options: its options, with the commands.
        host: the way to the host.
    """

    def __init__(self, name: str, options: SshOptions, host: RemoteHost) -> None:
        self._name = name
        self._options = options
        self._host = host

    async def scale(self, to: int | None) -> Scale:
        """Have the machine be up or down; None: only look.

        Raises:
            SpawnRefusedError: a command could not be run, or has failed.
            UnreachableError: it was run, and what was to come of it did not within `boot_patience`.
        """
        if to is None:
            return self._scale(up=await self._is_up())
        if to > 0:
            await self._run("start_command", self._options.start_command)
            await self._until(up=True)
        else:
            await self._run("stop_command", self._options.stop_command)
            self._host.drop("the machine was stopped")
            await self._until(up=False)
        return self._scale(up=to > 0)

    def _scale(self, *, up: bool) -> Scale:
        return Scale(running=int(up), target=int(up), limit=1)

    async def _is_up(self) -> bool:
        if self._options.state_command:
            said = await self._run("state_command", self._options.state_command)
            return (said.split() or [""])[0].lower() in UP_WORDS
        return await self._answers()

    async def _answers(self) -> bool:
        try:
            await self._host.script("true", timeout=self._options.patience)
        except UnreachableError:
            return False
        return True

    async def _until(self, *, up: bool) -> None:
        """Wait until the host answers, or until the machine is down."""
        patience = self._options.boot_patience
        again = Backoff(0.1, 5.0, growth=1.5, within=patience)
        while True:
            is_up = await self._answers() if up else await self._is_up()
            if is_up is up:
                return
            if again.over:
                break
            await again.wait()
        word, took = "start_command" if up else "stop_command", format_duration(patience)
        what = "does not answer over SSH" if up else "is still up"
        raise UnreachableError(
            f"{self._name} {what} {took} after its {word} had ended well",
            hint=f"see whether the machine runs, and what it costs; boot_patience of {self._name}"
            " is how long it is waited for",
        )

    async def _run(self, word: str, argv: Sequence[str]) -> str:
        """Run a command of the user to its end; return what it printed."""
        patience = self._options.boot_patience
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                env={k: v for k, v in os.environ.items() if k != "OUTPOST_FAULT"},
            )
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise SpawnRefusedError(
                f"the {word} of {self._name} cannot be run: {argv[0]}: {why}",
                hint=f"correct {word} in outposts.yaml",
            ) from None
        assert process.stdout is not None
        reading = asyncio.create_task(_last(process.stdout))
        try:
            # what a child of it does with its output keeps nobody waiting
            if not await children.gone(process, patience):
                took = format_duration(patience)
                raise UnreachableError(
                    f"the {word} of {self._name} did not end within {took}, and was ended",
                    hint=f"try it by hand: {clean(' '.join(argv))[:200]}",
                )
            await asyncio.wait({reading}, timeout=1.0)
        finally:
            await children.end(process)
            reading.cancel()
        kept = reading.result() if _is_done(reading) else b""
        said = clean(" ".join(kept.decode("utf-8", "replace").split()))
        if process.returncode:
            raise SpawnRefusedError(
                f"the {word} of {self._name} failed (exit code {process.returncode}):"
                f" {said[-300:] or 'it said nothing'}",
                hint=f"try it by hand: {clean(' '.join(argv))[:200]}",
            )
        return said


def _is_done(task: asyncio.Task[bytes]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def _last(stream: asyncio.StreamReader) -> bytes:
    kept = b""
    while data := await stream.read(65536):
        kept = (kept + data)[-_KEPT:]
    return kept
