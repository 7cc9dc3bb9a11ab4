"""How long and how much the transport takes from a server."""

from __future__ import annotations

from dataclasses import dataclass

import httpx


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of an `H2Transport`.

    Args:
        ping: seconds of silence on a line after which it is pinged. Google's own clients take 31
            (`configureHTTP2` of google-api-go-client); oftener is taken for a flood by some.
        ping_timeout: seconds within which something has to come back.
        idle: seconds without a request after which a line is closed.
        lines: connections to one server at most, those that are being drained not counted.
        exchanges: requests at once on one connection, even where the server allows more.
        window: bytes of one answer that are held for a slow reader, and no more.
        line_window: bytes of all answers of a connection together; has to be `exchanges` windows
            at least, or a slow reader would hold up the others.
        headers: bytes of an answer's headers, as RFC 9113, section 6.5.2 counts them.
        backlog: bytes of our own small frames that wait for a server that does not read.
        replays: how often a request that was not acted upon is sent again.
    """

    ping: float = 30.0
    ping_timeout: float = 15.0
    idle: float = 300.0
    lines: int = 10
    exchanges: int = 1000
    window: int = 1 << 18
    line_window: int = 1 << 29
    headers: int = 1 << 16
    backlog: int = 4 << 20
    replays: int = 3


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """The time-outs of one request in seconds; None waits for ever."""

    connect: float | None
    pool: float | None
    read: float | None
    write: float | None

    @classmethod
    def of(cls, request: httpx.Request) -> Timeouts:
        """Return what httpx put into the request."""
        given = request.extensions.get("timeout", {})
        return cls(**{name: given.get(name) for name in ("connect", "pool", "read", "write")})
