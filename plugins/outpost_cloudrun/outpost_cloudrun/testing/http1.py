"""One connection of HTTP/1.1, for `httpd`; h11 knows the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import h11

from outpost_cloudrun.testing.exchanges import Headers, Reply, Request
from outpost_cloudrun.testing.link import Link


class Http1:
    """A connection of HTTP/1.1: one request after the other.

    Args:
        link: its transport.
        begin: starts to answer a request.
        most: largest body, in bytes.
    """

    def __init__(
        self, link: Link, begin: Callable[[Request, Reply], asyncio.Task[None]], *, most: int
    ) -> None:
        self.link = link
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=256 << 10)
        self._begin = begin
        self._most = most
        self._head: h11.Request | None = None
        self._body = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._last = False

    def received(self, data: bytes) -> None:
        """Take bytes of the client."""
        self.http.receive_data(data)
        self._go_on()

    def lost(self) -> None:
        """Nobody reads the answer any more."""
        if self._task is not None:
            self._task.cancel()

    def drain(self) -> None:
        """End after the answer that is under way."""
        self._last = True
        if self._task is None and self.link.transport is not None:
            self.link.transport.close()

    def finished(self) -> None:
        """An answer was sent whole: the next request may come."""
        self._task = None
        if self._last or self.http.our_state is not h11.DONE:
            if self.link.transport is not None:
                self.link.transport.close()
        elif self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
            self._head, self._body = None, bytearray()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._task is not None:
            return
        try:
            self._take()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint or 400)

    def _take(self) -> None:
        while True:
            event = self.http.next_event()
            if isinstance(event, h11.Request):
                self._head = event
                if self.http.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    self.link.send(self.http.send(go_on) or b"")
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > self._most:
                    self._refuse(413)
                    return
            elif isinstance(event, h11.EndOfMessage):
                assert self._head is not None
                request = Request(
                    method=self._head.method.decode(),
                    target=self._head.target.decode(),
                    headers=[
                        (name.decode("latin-1"), value.decode("latin-1"))
                        for name, value in self._head.headers
                    ],
                    body=bytes(self._body),
                )
                self._task = self._begin(request, Reply1(self))
                return
            elif isinstance(event, h11.ConnectionClosed):
                self.drain()
                return
            else:  # NEED_DATA, PAUSED
                return

    def _refuse(self, status: int) -> None:
        if self.http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            head = h11.Response(
                status_code=status, headers=[("content-length", "0"), ("connection", "close")]
            )
            self.link.send(
                (self.http.send(head) or b"") + (self.http.send(h11.EndOfMessage()) or b"")
            )
        if self.link.transport is not None:
            self.link.transport.close()


class Reply1:
    """An answer in HTTP/1.1.

    Args:
        wire: the connection.
    """

    def __init__(self, wire: Http1) -> None:
        self.started = False
        self._wire = wire

    async def start(self, status: int, headers: Headers = ()) -> None:
        """Send status and headers."""
        self.started = True
        await self._send(h11.Response(status_code=status, headers=list(headers)))

    async def write(self, data: bytes) -> None:
        """Send a part of the body."""
        await self._send(h11.Data(data=data))

    async def end(self) -> None:
        """End the answer well."""
        await self._send(h11.EndOfMessage())
        self._wire.finished()

    def reset(self) -> None:
        """Cut the connection: HTTP/1.1 has no other word for it."""
        self._wire.link.sever()

    async def _send(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        await self._wire.link.writable()
        self._wire.link.send(self._wire.http.send(event) or b"")
