"""One request and its answer: a stream of HTTP/2 (RFC 9113, section 5)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import httpx

from outpost_cloudrun.connection.limits import Timeouts

#: Of a request, what HTTP/2 says in other words or not at all (RFC 9113, section 8.2.2).
_NOT_IN_HTTP2 = frozenset(
    (b"host", b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)


class Carrier(Protocol):
    """What an exchange needs of the connection that it is on, see `Line`."""

    @property
    def writable(self) -> bool:
        """Whether the operating system takes what is written."""

    def send_headers(
        self, exchange: Exchange, headers: list[tuple[bytes, bytes]], *, end: bool
    ) -> None:
        """Begin a stream, which gives the exchange its id."""

    def room_to_send(self, exchange: Exchange, wanted: int) -> int:
        """Return how many of `wanted` bytes may be sent now."""

    def send_data(self, exchange: Exchange, data: bytes, *, end: bool) -> None:
        """Send a piece of a body that fits."""

    def acknowledge(self, exchange: Exchange) -> None:
        """Tell the server that what was received has been read."""

    def release(self, exchange: Exchange) -> None:
        """Take the place back."""


class Exchange:
    """A place on a line, for one request.

    It is held from the moment that it is made until `close`, which may be called at any time and
    any number of times, and tells the server where it still works for us.

    Args:
        line: the connection.

    Attributes:
        id: of the stream; 0 until something was sent.
        answer: status and headers, once they are there.
        ended: the server has sent all.
        all_sent: the request has gone out as a whole.
        error: why nothing more comes.
        owed: bytes received and not yet acknowledged.
    """

    __slots__ = (
        *("id", "line", "answer", "ended", "all_sent", "error", "owed"),
        *("_unread", "_changed", "_sendable", "_upload"),
    )

    def __init__(self, line: Carrier) -> None:
        self.line = line
        self.id = 0
        self.answer: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self.ended = False
        self.all_sent = False
        self.error: Exception | None = None
        self.owed = 0
        self._unread = bytearray()
        self._changed = asyncio.Event()
        self._sendable = asyncio.Event()
        self._upload: asyncio.Task[None] | None = None

    # What the line tells.

    def answered(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Take status and headers."""
        self.answer = status, headers
        self._changed.set()

    def received(self, data: bytes, flow: int) -> None:
        """Take a piece of the body that counts `flow` bytes of the window."""
        self._unread += data
        self.owed += flow
        self._changed.set()

    def end(self) -> None:
        """The answer is complete."""
        self.ended = True
        self._changed.set()
        self._sendable.set()

    def fail(self, error: Exception) -> None:
        """Nothing more comes. What came before can still be read."""
        if not self.ended and self.error is None:
            self.error = error
        self._changed.set()
        self._sendable.set()

    def may_send(self) -> None:
        """A window or the line itself takes more."""
        self._sendable.set()

    # What the caller does.

    async def ask(self, request: httpx.Request, timeouts: Timeouts) -> None:
        """Send the request and wait for status and headers of the answer.

        A body that does not fit into the windows is sent beside the waiting.

        Raises:
            NotSentError: the server did not look at it.
            httpx.TransportError: something else went wrong on the way.
        """
        headers = _headers(request)
        has_body = request.headers.get("content-length", "0") != "0" or (
            "transfer-encoding" in request.headers
        )
        await self._until_writable(timeouts.write)
        self.line.send_headers(self, headers, end=not has_body)
        if has_body:
            self._upload = asyncio.create_task(self._send_body(request, timeouts.write))
        while self.answer is None:
            if self.error is not None:
                raise self.error
            await self._wait(timeouts.read, "no answer")

    async def read(self, timeout: float | None) -> bytes:
        """Return the next bytes of the body, b"" at its end.

        Args:
            timeout: seconds that they may take.

        Raises:
            httpx.ReadTimeout: nothing came.
            httpx.TransportError: the answer broke off.
        """
        while not self._unread:
            if self.ended:
                return b""
            if self.error is not None:
                raise self.error
            await self._wait(timeout, "nothing more came")
        data = bytes(self._unread)
        self._unread.clear()
        self.line.acknowledge(self)
        return data

    def close(self) -> None:
        """Give the place back; resets the stream unless both sides have finished."""
        if self._upload is not None:
            self._upload.cancel()
        self.line.release(self)

    async def _send_body(self, request: httpx.Request, timeout: float | None) -> None:
        """Send the body; what goes wrong becomes the error of the exchange."""
        assert isinstance(request.stream, httpx.AsyncByteStream)
        whole = isinstance(request.stream, httpx.ByteStream)
        try:
            async for piece in request.stream:
                rest = memoryview(piece)
                while rest:
                    size = await self._room(len(rest), timeout)
                    if not size:  # the answer is complete: nobody reads the rest
                        return
                    last = whole and size == len(rest)
                    self.line.send_data(self, bytes(rest[:size]), end=last)
                    rest = rest[size:]
            if not self.all_sent:
                await self._until_writable(timeout)
                self.line.send_data(self, b"", end=True)
        except Exception as error:  # noqa: BLE001 - whatever the body's iterator raises
            self.fail(error)

    async def _room(self, wanted: int, timeout: float | None) -> int:
        """Wait until something may be sent; return how much of `wanted`, 0 for no more."""
        while not self.ended:
            if self.error is not None:
                raise self.error
            if size := self.line.room_to_send(self, wanted):
                return size
            self._sendable.clear()
            with _within(timeout, httpx.WriteTimeout, "the server takes no more of the request"):
                async with asyncio.timeout(timeout):
                    await self._sendable.wait()
        return 0

    async def _until_writable(self, timeout: float | None) -> None:
        while not self.line.writable and self.error is None:
            self._sendable.clear()
            with _within(timeout, httpx.WriteTimeout, "the connection takes nothing"):
                async with asyncio.timeout(timeout):
                    await self._sendable.wait()
        if self.error is not None:
            raise self.error

    async def _wait(self, timeout: float | None, what: str) -> None:
        self._changed.clear()
        with _within(timeout, httpx.ReadTimeout, what):
            async with asyncio.timeout(timeout):
                await self._changed.wait()


class AnswerBody(httpx.AsyncByteStream):
    """The body of an answer, read from its exchange.

    Args:
        exchange: whose answer it is.
        timeout: seconds that each piece may take.
    """

    def __init__(self, exchange: Exchange, timeout: float | None) -> None:
        self._exchange = exchange
        self._timeout = timeout

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while data := await self._exchange.read(self._timeout):
                yield data
        finally:
            self._exchange.close()

    async def aclose(self) -> None:
        """Close the exchange; a server that is still sending is told to stop."""
        self._exchange.close()


@contextlib.contextmanager
def _within(timeout: float | None, kind: type[httpx.TimeoutException], what: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise kind(f"{what} within {timeout:g} s") from None


def _headers(request: httpx.Request) -> list[tuple[bytes, bytes]]:
    host = request.headers.get("host")
    named = [
        (b":method", request.method.encode("ascii")),
        (b":scheme", request.url.raw_scheme),
        (b":authority", host.encode("ascii") if host else request.url.netloc),
        (b":path", request.url.raw_path),
    ]
    rest = ((name.lower(), value) for name, value in request.headers.raw)
    return named + [(name, value) for name, value in rest if name not in _NOT_IN_HTTP2]
