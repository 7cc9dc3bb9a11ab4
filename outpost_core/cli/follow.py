"""Following a worker's output, across lines that drop."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeAlias

import click

from outpost_core.cli.terminal import TerminalFilter
from outpost_core.errors import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from outpost_core.cli.progress import Progress
    from outpost_core.cli.readable import Readable
    from outpost_core.manager import Manager

#: seconds before a dropped line is tried again.
RETRY = 2.0


#: prints `(chunk, final)`.
Write: TypeAlias = "Callable[[bytes, bool], None]"


async def follow(
    manager: Manager, worker: str, write: Write, progress: Progress, *, offset: int = 0
) -> None:
    """Print a worker's output until it has ended.

    Args:
        manager: an open manager.
        worker: its id.
        write: prints it.
        progress: falls silent once there is output; is told when the line drops.
        offset: byte to begin with.
    """
    import asyncio

    while True:
        try:
            async for chunk in manager.logs(worker, offset, follow=True):
                progress.hush()
                offset += len(chunk)
                write(chunk, False)
        except UnreachableError as error:
            progress.line(f"{worker}: {error.message}; it goes on, trying again")
            await asyncio.sleep(RETRY)
        else:
            write(b"", True)
            return


def writer(*, kind: str = "", to_stderr: bool = False, readable: bool | None = None) -> Write:
    """Return a function that prints a log: exact bytes, and on a terminal text for people.

    Args:
        kind: `Agent.output` of the order; JSON lines of an agent that Outpost knows become
            text, any other output is only made harmless.
        to_stderr: print there.
        readable: text, or exact bytes, whatever the stream is.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    if not (stream.isatty() if readable is None else readable):
        binary = stream.buffer

        def exact(chunk: bytes, _final: bool) -> None:
            rest = memoryview(chunk)
            while rest:  # PYTHONUNBUFFERED makes it a raw file, which may write less
                rest = rest[binary.write(rest) :]
            binary.flush()

        return exact
    filtered, last = _filter(kind), "\n"

    def harmless(chunk: bytes, final: bool) -> None:
        nonlocal last
        text = filtered.feed(chunk, final=final)
        last = text[-1:] or last
        if final:  # whatever comes next has its own line and colour
            text += "\x1b[0m" if last == "\n" else "\x1b[0m\n"
        click.echo(text, nl=False, err=to_stderr)

    return harmless


def _filter(kind: str) -> TerminalFilter | Readable:
    if kind in ("", "plain"):
        return TerminalFilter()
    from outpost_core.cli.readable import Readable
    from outpost_core.cli.tellers import KINDS

    return Readable(kind) if kind in KINDS else TerminalFilter()
