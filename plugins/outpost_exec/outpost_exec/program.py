"""One running program: its streams, its last words, and its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from outpost_core.errors import UnreachableError
from outpost_shared import children
from outpost_shared.protocol import MAX_FRAME, clean

#: Bytes of its standard error that are kept.
KEPT: Final = 4096
#: Seconds that a program has to end by itself once its input has ended.
ENOUGH: Final = 3.0


class Program:
    """A program in a session of its own, so that a Ctrl-C here is not meant for it.

    Args:
        process: the process.
        what: its command, for messages.
    """

    def __init__(self, process: asyncio.subprocess.Process, what: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.stdin = process.stdin
        self.stdout = process.stdout
        self.what = what
        self._process = process
        self._said = b""
        self._listening = asyncio.create_task(self._listen(process.stderr))

    @classmethod
    async def start(
        cls, name: str, argv: Sequence[str], env: Mapping[str, str], cwd: Path
    ) -> Program:
        """Start it.

        Args:
            name: the outpost, for messages.
            argv: program and arguments.
            env: its whole environment.
            cwd: where it runs.

        Raises:
            UnreachableError: it cannot be executed; `sent` is False.
        """
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env=env,
                cwd=cwd,
                limit=MAX_FRAME,
                start_new_session=True,
            )
        except OSError as error:
            what = "its folder" if str(error.filename) == str(cwd) else "its program"
            raise UnreachableError(
                f"{name} cannot be started: {what} {clean(str(error.filename or argv[0]), 200)!r}:"
                f" {error.strerror}",
                hint=f"install it, or correct `{'cwd' if what == 'its folder' else 'command'}` of"
                f" {name} in outposts.yaml",
                sent=False,
            ) from error
        return cls(process, argv[0])

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        while said := await stderr.read(65536):
            self._said = (self._said + said)[-KEPT:]

    async def last_words(self) -> str:
        """Return how it ended and what it said last, for an error; "" when it lives in silence."""
        if await children.gone(self._process, 0.5):
            await asyncio.wait({self._listening}, timeout=0.2)
        code = self._process.returncode
        ended = ""
        if code is not None:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            ended = f"its program ended with {how}"
        said = clean(self._said.decode("utf-8", "replace"), KEPT)
        said = f"it said: {said}" if said else ""
        return "; ".join(part for part in (ended, said) if part)

    async def end(self) -> None:
        """End it: no more input, then TERM, then KILL; returns when it is gone."""
        try:
            with contextlib.suppress(Exception):
                self.stdin.close()
            await children.end(self._process, ENOUGH)
        finally:
            self._listening.cancel()
            await asyncio.wait({self._listening})
