"""Tells one client when workers may have changed: each of its requests waits for the next time."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol


class Tells(Protocol):
    """An outpost with the capability `changes`."""

    def outpost_changes(self) -> AsyncGenerator[None]:
        """Yield once it watches, and whenever workers may have changed."""


class News:
    """What an outpost tells of changes (`outpost_changes`), for requests that wait for it.

    The outpost is listened to from the first request on. What it tells while nobody asks is told
    to the next request at once.

    Args:
        outpost: who tells.
    """

    def __init__(self, outpost: Tells) -> None:
        self._outpost = outpost
        self._of = ""
        self._count = 0
        self._told = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    async def after(self, seen: str, seconds: float) -> str:
        """Wait until there is something newer, and return the word for what there is.

        Args:
            seen: the word that was returned last; "" or a foreign one is older than anything.
            seconds: how long to wait at most; what was `seen` is returned then.

        Raises:
            OutpostError: the outpost cannot tell just now; the next request tries again.
        """
        if self._listening is None or self._listening.done():
            self._told.clear()
            self._listening = asyncio.create_task(self._listen())
            # what changed while nobody listened is not known: each word of before is foreign
            self._of, self._count = secrets.token_hex(8), 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._word() == seen or not self._count:
                    await self._told.wait()
                    self._told.clear()
                    if self._listening.done():
                        self._listening.result()
        return self._word()

    async def aclose(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    def _word(self) -> str:
        return f"{self._of}-{self._count}"

    async def _listen(self) -> None:
        try:
            async with aclosing(self._outpost.outpost_changes()) as changes:
                async for _ in changes:
                    self._count += 1
                    self._told.set()
        finally:
            self._told.set()
