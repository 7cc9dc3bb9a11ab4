"""The lines to one server, and who waits for a place on one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import httpx

from outpost_cloudrun.connection.exchange import Exchange
from outpost_cloudrun.connection.faults import NotSentError
from outpost_cloudrun.connection.limits import Limits, Timeouts
from outpost_cloudrun.connection.line import Line, SpeaksHttp1Error


class Pool:
    """Fills one line before it opens the next, up to a bound.

    Args:
        where: the server, for messages.
        limits: how many lines, and what holds for each.
        connect: opens a line, which calls back when it has room; the second argument is the
            seconds that it may take.
    """

    def __init__(
        self,
        where: str,
        limits: Limits,
        connect: Callable[[Callable[[Line], None], float | None], Awaitable[Line]],
    ) -> None:
        self._where = where
        self._limits = limits
        self._connect = connect
        self._lines: list[Line] = []
        self._opening: asyncio.Task[Exception | None] | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def lines(self) -> int:
        """How many connections there are, those included that are being drained."""
        return len(self._lines)

    async def hold(self, timeouts: Timeouts) -> Exchange:
        """Return a place on a line, opened if need be.

        Raises:
            NotSentError: no connection could be made.
            SpeaksHttp1Error: it could, and the server speaks HTTP/1.1 only.
            httpx.ConnectTimeout: it took too long.
            httpx.PoolTimeout: all lines are full, and stayed so.
        """
        while True:
            if with_room := [line for line in self._lines if line.has_room]:
                return max(with_room, key=lambda line: line.held).hold()
            if self._opening is None and self._may_open():
                self._opening = asyncio.create_task(self._open(timeouts.connect))
            if self._opening is not None:
                await self._opened(self._opening, timeouts.connect)
            else:
                await self._freed(timeouts.pool)

    async def aclose(self) -> None:
        """Close all lines."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        lines = list(self._lines)
        for line in lines:
            line.close()
        if lines:
            await asyncio.wait([line.closed for line in lines], timeout=2)
        for line in lines:
            line.abort()

    def _may_open(self) -> bool:
        return sum(not line.draining for line in self._lines) < self._limits.lines

    async def _open(self, timeout: float | None) -> Exception | None:
        """Open a line for all who wait; returns what went wrong, for each to raise."""
        try:
            line = await self._connect(self._line_changed, timeout)
        except (httpx.TransportError, SpeaksHttp1Error) as error:
            return error
        except asyncio.CancelledError:  # by `aclose`; who waits is not cancelled himself
            return NotSentError("the client was closed")
        else:
            if not line.lost:  # while we were waking up
                self._lines.append(line)
            return None
        finally:
            self._opening = None
            self._wake_all()

    async def _opened(self, opening: asyncio.Task[Exception | None], timeout: float | None) -> None:
        try:
            async with asyncio.timeout(timeout):
                error = await asyncio.shield(opening)
        except TimeoutError:
            raise httpx.ConnectTimeout(
                f"no connection to {self._where} within {timeout:g} s"
            ) from None
        if isinstance(error, SpeaksHttp1Error):
            raise SpeaksHttp1Error
        if error is not None:  # one error for many callers: each gets his own
            kind = httpx.ConnectTimeout if isinstance(error, httpx.ConnectTimeout) else NotSentError
            raise kind(str(error)) from error.__cause__

    async def _freed(self, timeout: float | None) -> None:
        """Wait in line until there may be room."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        taken = False
        try:
            async with asyncio.timeout(timeout):
                await turn
                taken = True
        except TimeoutError:
            raise httpx.PoolTimeout(
                f"{self.lines} connections to {self._where} are full, and none had room within"
                f" {timeout:g} s"
            ) from None
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not taken:
                self._wake_one()  # it was our turn, and we do not take it

    def _line_changed(self, line: Line) -> None:
        if line.lost and line in self._lines:
            self._lines.remove(line)
            self._wake_all()
        elif line.draining:
            self._wake_all()
        elif line.has_room:
            self._wake_one()

    def _wake_one(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _wake_all(self) -> None:
        while self._waiting:
            self._wake_one()
