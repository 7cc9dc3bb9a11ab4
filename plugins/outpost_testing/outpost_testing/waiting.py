"""Waiting for workers as an outpost lists them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from outpost_core.types import WorkerStatus


async def listed(
    outpost: Any, good: Callable[[WorkerStatus], bool], *workers: str, seconds: float = 30.0
) -> dict[str, WorkerStatus]:
    """List until workers are good, and return all that there are, by their ids.

    Args:
        outpost: who is asked.
        good: what is waited for; it sees one worker at a time.
        workers: whose states count; none: those of all that are listed.
        seconds: after which it should have come to that.

    Raises:
        AssertionError: it did not.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = {status.id: status for status in await outpost.outpost_list()}
        asked = [found.get(worker) for worker in workers or found]
        if all(status is not None and good(status) for status in asked):
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.02)


async def ended(outpost: Any, *workers: str, seconds: float = 30.0) -> dict[str, WorkerStatus]:
    """List until workers (none named: all) have ended; see `listed`."""
    return await listed(outpost, lambda status: status.state.terminal, *workers, seconds=seconds)
