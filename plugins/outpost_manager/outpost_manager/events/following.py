"""Following the event log: what a program that stays sees of all processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    from outpost_core.types import Event
    from outpost_manager.ledger import AsyncLedger

#: Seconds between two looks at whether anybody has written: at the file alone, which costs next to
#: nothing.
LOOK: Final = 0.05
#: Seconds between two looks at the log itself, at most: a moment of the file is as coarse as the
#: kernel's ticks, and not every file system tells one.
LOOK_MOST: Final = 1.0
#: Seconds within which two writes may leave the same moment.
_TICK: Final = 0.02
#: Events that are read at once.
_PAGE: Final = 500
_Mark: TypeAlias = "tuple[int, int]"
#: What writers append to, and the ledger itself where that is not there.
_Files: TypeAlias = "tuple[Path, Path]"


async def follow(ledger: AsyncLedger, after: int | None) -> AsyncGenerator[Event, None]:
    """Yield events in the order of the log; never ends.

    Args:
        ledger: an open one.
        after: id of the last event that is known; None for what happens from now on.
    """
    seen = await ledger.last_event() if after is None else after
    path = (await ledger.read(lambda opened: opened)).path
    files = (path.with_name(f"{path.name}-wal"), path)
    while True:
        before, now = _mark(files), time.time()
        found = await ledger.events_after(seen, _PAGE)
        for event in found:
            seen = event.id
            yield event
        if len(found) < _PAGE:
            fresh = now - before[0] / 1e9 < _TICK
            await _until_written(files, before, fresh=fresh)


async def _until_written(files: _Files, before: _Mark, *, fresh: bool) -> None:
    """Wait until a ledger was written, or for `LOOK_MOST` seconds.

    All who wait look at the same moments, by a timer and not by a task: a mayor has several, which
    would wake it up again and again while nothing happens.

    Args:
        files: of the ledger.
        before: how it was.
        fresh: it was written a moment before, so that one look says nothing.
    """
    loop = asyncio.get_running_loop()
    over, written = loop.time() + LOOK_MOST, loop.create_future()

    timer: asyncio.TimerHandle

    def wait() -> None:
        nonlocal timer
        timer = loop.call_at((loop.time() // LOOK + 1) * LOOK, look)

    def look() -> None:
        if fresh or loop.time() >= over or _mark(files) != before:
            written.set_result(None)
        else:
            wait()

    wait()
    try:
        await written
    finally:
        timer.cancel()


def _mark(files: _Files) -> _Mark:
    """Return what changes whenever anybody writes into a ledger: the moment and size of a file."""
    for each in files:
        with suppress(OSError):
            about = each.stat()
            return about.st_mtime_ns, about.st_size
    return 0, 0
