"""Who waits to hear that a worker of a keeper is another than it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator


class Moves:
    """Tells each listener that some worker moved on; from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: set[asyncio.Event] = set()

    def tell(self) -> None:
        """Say that a worker is new, in another state, or gone."""
        if self._loop is not None and self._listeners:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for one in self._listeners:
            one.set()

    async def listen(self) -> AsyncIterator[None]:
        """Yield at once, and whenever a worker has moved on since; never ends."""
        self._loop = asyncio.get_running_loop()
        mine = asyncio.Event()
        self._listeners.add(mine)
        try:
            while True:
                yield
                await mine.wait()
                mine.clear()
        finally:
            self._listeners.discard(mine)
