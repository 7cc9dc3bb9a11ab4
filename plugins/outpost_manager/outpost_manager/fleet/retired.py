"""Outposts that are used no more: each is closed when what is under way there has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

    from outpost_core.backend import Outpost

#: Seconds that one may take to let go.
_CLOSE_TIMEOUT: Final = 5.0


class Retired:
    """Counts what is under way at each outpost, and closes those that were retired."""

    def __init__(self) -> None:
        self._uses: dict[Outpost, int] = {}
        self._idle: dict[Outpost, asyncio.Event] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @contextmanager
    def use(self, outpost: Outpost) -> Iterator[None]:
        """Say that something is under way at an outpost until the end of the block."""
        self._uses[outpost] = self._uses.get(outpost, 0) + 1
        try:
            yield
        finally:
            self._uses[outpost] -= 1
            if not self._uses[outpost]:
                del self._uses[outpost]
                if outpost in self._idle:
                    self._idle[outpost].set()

    def add(self, outpost: Outpost) -> None:
        """Close an outpost once nothing is under way there, behind whoever asks."""
        import asyncio

        idle = self._idle[outpost] = asyncio.Event()
        if outpost not in self._uses:
            idle.set()
        task = asyncio.ensure_future(self._close(outpost, idle))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all of them now, whatever is under way there."""
        import asyncio

        for idle in self._idle.values():
            idle.set()
        await asyncio.gather(*self._closing)

    async def _close(self, outpost: Outpost, idle: asyncio.Event) -> None:
        import asyncio

        await idle.wait()
        del self._idle[outpost]
        close = getattr(outpost, "outpost_close", None)
        if close is not None:
            with suppress(Exception):  # nobody is left who could be told
                await asyncio.wait_for(close(), _CLOSE_TIMEOUT)
