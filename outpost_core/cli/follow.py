"""Following a worker's output, across lines that drop."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from outpost_core.cli.terminal import TerminalFilter
from outpost_core.errors import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from outpost_core.cli.progress import Progress
    from outpost_core.manager import Manager

#: seconds before a dropped line is tried again.
RETRY = 2.0


async def follow(
    manager: Manager, worker: str, *, offset: int = 0, progress: Progress, to_stderr: bool = False
) -> None:
    """Print a worker's output until it has ended.

    Args:
        manager: an open manager.
        worker: its id.
        offset: byte to begin with.
        progress: falls silent once there is output; is told when the line drops.
        to_stderr: print to standard error, where standard output belongs to an answer.
    """
    write = writer(to_stderr=to_stderr)
    while True:
        try:
            async for chunk in manager.logs(worker, offset, follow=True):
                progress.hush()
                offset += len(chunk)
                write(chunk, False)
        except UnreachableError as error:
            progress.line(f"{worker}: {error.message}; it goes on, trying again")
            import asyncio

            await asyncio.sleep(RETRY)
        else:
            write(b"", True)
            return


def writer(*, to_stderr: bool = False, raw: bool = False) -> Callable[[bytes, bool], None]:
    """Return a function that prints `(chunk, final)`: exact bytes, on a terminal made harmless.

    Args:
        to_stderr: print there.
        raw: exact bytes on a terminal, too.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    if raw or not stream.isatty():
        binary = stream.buffer

        def exact(chunk: bytes, _final: bool) -> None:
            rest = memoryview(chunk)
            while rest:  # PYTHONUNBUFFERED makes it a raw file, which may write less
                rest = rest[binary.write(rest) :]
            binary.flush()

        return exact
    filtered = TerminalFilter()

    def harmless(chunk: bytes, final: bool) -> None:
        click.echo(filtered.feed(chunk, final=final), nl=False, err=to_stderr)

    return harmless
