"""Following a worker's output, across lines that drop."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, TypeAlias

from outpost_agents.registry import PLAIN, usable
from outpost_core.errors import OutpostError, UnreachableError
from outpost_manager.cli import output
from outpost_manager.cli.terminal import TerminalFilter
from outpost_manager.placing import references
from outpost_shared.backoff import Backoff, reaching_again

if TYPE_CHECKING:
    from collections.abc import Callable

    from outpost_manager.cli.progress import Progress
    from outpost_manager.cli.readable import Readable
    from outpost_manager.managing import Managing

#: seconds without output before the outpost is asked whether it is there, and at most between
#: two questions.
ASK_FIRST = 3.0
ASK_AGAIN = 15.0

#: prints `(chunk, final)`.
Write: TypeAlias = "Callable[[bytes, bool], None]"


async def follow(
    manager: Managing, worker: str, write: Write, progress: Progress, *, offset: int = 0
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

    heard = _Heard()
    again = reaching_again()
    silence = asyncio.create_task(_tell_silence(manager, worker, heard, progress))
    try:
        while True:
            try:
                async for chunk in manager.logs(references.exact(worker), offset, follow=True):
                    heard.at = time.monotonic()
                    again.reset()
                    progress.hush()
                    offset += len(chunk)
                    write(chunk, False)
            except UnreachableError as error:
                progress.line(f"{worker}: {error.message}; still trying")
                await again.wait()
            else:
                write(b"", True)
                return
    finally:
        silence.cancel()
        await asyncio.wait({silence})


class _Heard:
    """When a followed worker last printed something (`time.monotonic`)."""

    def __init__(self) -> None:
        self.at = time.monotonic()


async def _tell_silence(manager: Managing, worker: str, heard: _Heard, progress: Progress) -> None:
    """Say so when nothing is printed because the outpost does not answer.

    An outpost that resumes a log by itself does not say when it waits for its line.
    """
    told, pause, row = None, Backoff(ASK_FIRST, ASK_AGAIN), None
    while True:
        with contextlib.suppress(OutpostError):  # a ledger that fails is told elsewhere
            row = await manager.find(references.exact(worker))
            if row.unreachable_since != told:
                told = row.unreachable_since
                answers = "answers again" if told is None else "does not answer; waiting for it"
                progress.line(f"{worker}: {row.outpost} {answers}")
        before = heard.at
        await pause.wait()
        if heard.at != before:
            pause.reset()
        elif row is not None:
            with contextlib.suppress(OutpostError):
                await manager.refresh([row.outpost])


def writer(
    *,
    kind: str = "",
    to_stderr: bool = False,
    readable: bool | None = None,
    following: bool = False,
) -> Write:
    """Return a function that prints a log: exact bytes, and on a terminal text for people.

    Args:
        kind: `Agent.output` of the order; JSON lines of an agent that Outpost knows become
            text, any other output is only made harmless.
        to_stderr: print there.
        readable: text, or exact bytes, whatever the stream is.
        following: somebody watches it come: the JSON lines of a known agent become text into a
            pipe, too.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    if readable is None:
        readable = stream.isatty() or (following and is_known(kind))
    if not readable:
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
        output.filtered(text, err=to_stderr)

    return harmless


def is_known(kind: str) -> bool:
    """Whether the output of such an agent is JSON lines that can be told as text."""
    return kind not in ("", PLAIN) and usable(kind)


def _filter(kind: str) -> TerminalFilter | Readable:
    if not is_known(kind):
        return TerminalFilter()
    from outpost_manager.cli.readable import Readable

    return Readable(kind)
