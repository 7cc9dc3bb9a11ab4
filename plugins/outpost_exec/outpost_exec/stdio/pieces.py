"""A log in pieces: how long they are, how many are asked for at once, and what when a line breaks.

A piece is what one request brings. On a fast line pieces are long and some are asked for ahead, so
that the line never stands still; on a slow one they take about a second, so that whatever else
is asked meanwhile has its answer soon. No more than `AHEAD` pieces of `LONGEST` bytes are kept.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from outpost_core.errors import UnreachableError
from outpost_shared.backoff import Backoff, reaching_again
from outpost_shared.protocol import MAX_RAW

#: Bytes of a piece: the first, the longest, and the shortest, for a line that breaks all the time.
FIRST: Final = 256 * 1024
LONGEST: Final = MAX_RAW
SHORTEST: Final = 16 * 1024
#: Pieces that are asked for at once on a fast line.
AHEAD: Final = 3
#: Seconds in which a full piece comes on a fast line, be it to the other side of the world; and on
#: one for which it is too long.
_FAST: Final = 0.7
_SLOW: Final = 1.5
#: A server that has nothing and answers sooner than this does not wait for what comes.
_NO_WAIT: Final = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """The answer to one request for a log.

    Args:
        data: the bytes.
        end: the worker has ended, and nothing is beyond them.
        full: they are as many as were asked for, so that more may be there.
        room: further pieces may be asked for at once.
    """

    data: bytes
    end: bool
    full: bool
    room: bool


class Ask(Protocol):
    """Asks for a piece of a log."""

    async def __call__(
        self, worker: str, offset: int, size: int, *, wait: bool, behind: int
    ) -> Piece:
        """Return the piece.

        Args:
            worker: whose log.
            offset: its first byte.
            size: how many bytes at most.
            wait: whether to wait for what is not there yet.
            behind: so many pieces that were asked for before come first.
        """


class _Asked(NamedTuple):
    """A request that is under way: how many bytes, whether it waits, and when it was asked."""

    task: asyncio.Task[Piece]
    size: int
    wait: bool
    at: float


class Pieces:
    """The pieces of one log, in order.

    Args:
        ask: asks for a piece.
        worker: whose log.
        offset: byte to begin with.
        follow: continue until the worker has ended, and wait for what is not there yet.

    Attributes:
        over: all that there will be, or all that there is, was returned.
    """

    def __init__(self, ask: Ask, worker: str, offset: int, *, follow: bool) -> None:
        self.over = False
        self._ask = ask
        self._worker = worker
        self._offset = offset  # of the piece that is returned next
        self._follow = follow
        self._size = FIRST
        self._asked: deque[_Asked] = deque()
        self._heard = time.monotonic()
        self._again = reaching_again()
        self._poll = Backoff(0.02, 0.25, growth=1.3)
        self._want(wait=follow)

    async def next(self) -> bytes:
        """Return the next piece; what follows it is asked for while the caller looks at it.

        Raises:
            UnreachableError: the line broke, or there is none; `broken` asks again.
            OutpostError: what the server answered.
        """
        asked = self._asked[0]
        piece = await asked.task
        self._asked.popleft()
        self._offset += len(piece.data)
        self._measure(asked, piece)
        self.over = piece.end or not (piece.data or self._follow)
        if self.over:
            return piece.data
        if not piece.full:
            await self._drop()  # asked from where nothing is
        if piece.data:
            self._again.reset()
            self._poll.reset()
        elif asked.wait and self._heard - asked.at < _NO_WAIT:
            await self._poll.wait()
        fast = piece.full and piece.room and self._size == LONGEST
        while len(self._asked) < (AHEAD if fast else 1):
            # what is asked for ahead does not wait: it may be in the way of others
            self._want(wait=self._follow and not piece.full and not self._asked)
        return piece.data

    async def broken(self, error: UnreachableError) -> None:
        """Wait, and ask again for what did not come.

        Args:
            error: what `next` raised.
        """
        await self._drop()
        if error.sent:  # the line may not last for as much as that
            self._size = max(self._size // 4, SHORTEST)
        await self._again.wait()
        self._want(wait=self._follow)

    async def aclose(self) -> None:
        """Break off what is under way."""
        await self._drop()

    def _want(self, *, wait: bool) -> None:
        offset = self._offset + sum(asked.size for asked in self._asked)
        ask = self._ask(self._worker, offset, self._size, wait=wait, behind=len(self._asked))
        task = asyncio.ensure_future(ask)
        self._asked.append(_Asked(task, self._size, wait, time.monotonic()))

    def _measure(self, asked: _Asked, piece: Piece) -> None:
        """Let the next piece be longer or shorter, by how long this one was on its way."""
        before, self._heard = self._heard, time.monotonic()
        if not piece.full:
            return
        took = self._heard - max(before, asked.at)
        if took < _FAST:
            self._size = min(self._size * 2, LONGEST)
        elif took > _SLOW:
            self._size = max(self._size // 2, SHORTEST)

    async def _drop(self) -> None:
        tasks = [asked.task for asked in self._asked]
        self._asked.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            _ = task.cancelled() or task.exception()  # seen: nobody waits for it
