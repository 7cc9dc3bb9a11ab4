"""The transport of one connection to `httpd`, whichever HTTP it speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

#: What a client of HTTP/2 says first (RFC 9113, section 3.4).
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Wire(Protocol):
    """One connection, as the server that holds it sees it."""

    def received(self, data: bytes) -> None:
        """Take bytes of the other side."""

    def lost(self) -> None:
        """The connection is gone."""

    def drain(self) -> None:
        """Take no more requests; end when those under way have ended."""


class Link(asyncio.Protocol):
    """The transport of a connection, with its back pressure; finds out which HTTP it is.

    Args:
        links: the connections of the server; this one is among them while it lives.
        speak: makes what speaks the HTTP of this connection: HTTP/2, or else 1.1.
    """

    def __init__(self, links: set[Link], speak: Callable[[Link, bool], Wire]) -> None:
        self._links = links
        self._speak = speak
        self.transport: asyncio.Transport | None = None
        self._wire: Wire | None = None
        self._early = b""
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._links.add(self)

    def data_received(self, data: bytes) -> None:
        """Hand bytes on to the HTTP that this connection speaks."""
        if self._wire is None:
            self._early += data
            if PREFACE.startswith(self._early[: len(PREFACE)]) and len(self._early) < len(PREFACE):
                return
            self._wire = self._speak(self, self._early.startswith(PREFACE))
            data, self._early = self._early, b""
        self._wire.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        del exc
        self._links.discard(self)
        self._writable.set()
        if self._wire is not None:
            self._wire.lost()

    def pause_writing(self) -> None:
        """The other side is slow."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It takes more again."""
        self._writable.set()

    def drain(self) -> None:
        """End in peace: see `Wire.drain`."""
        if self._wire is not None:
            self._wire.drain()
        elif self.transport is not None:
            self.transport.close()

    def sever(self) -> None:
        """Cut the connection, in the middle of whatever it is."""
        if self.transport is not None:
            self.transport.abort()

    def send(self, data: bytes) -> None:
        """Write bytes out."""
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    async def writable(self) -> None:
        """Wait until the other side takes more.

        Raises:
            ConnectionResetError: it is gone.
        """
        await self._writable.wait()
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the other side is gone")
