"""One request, handed on to a container and its answer back."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx

from outpost_cloudrun.connection.transport import H2Transport
from outpost_cloudrun.testing.exchanges import Headers, Reply, Request

#: Headers that belong to one connection (RFC 9110, section 7.6.1), or that the other side sets.
_HOP: Final = frozenset(
    (
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "content-length", "host"),
    )
)
_SIGNATURE: Final = re.compile(r"^(bearer\s+[^.]+\.[^.]+)\.[^.]+$", re.IGNORECASE)


class Line:
    """The way to one container.

    Args:
        port: where it listens.
        two: it speaks HTTP/2 without TLS (its port is called `h2c`); else HTTP/1.1.
    """

    def __init__(self, port: int, *, two: bool) -> None:
        self.port = port
        self._two = two
        self._transport: httpx.AsyncBaseTransport = _transport(two=two)

    @asynccontextmanager
    async def ask(self, request: Request, host: str) -> AsyncIterator[httpx.Response]:
        """Hand a request on; the answer's body is read from its stream.

        Raises:
            httpx.HTTPError: the container does not answer as HTTP asks for.
        """
        asked = httpx.Request(
            request.method,
            httpx.URL(f"http://127.0.0.1:{self.port}").copy_with(raw_path=request.target.encode()),
            headers=[("host", host), *_passed(request.headers)],
            content=request.body,
            extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"))},
        )
        response = await self._transport.handle_async_request(asked)
        try:
            yield response
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Give its connections up."""
        await self._transport.aclose()


async def relay(response: httpx.Response, reply: Reply, extra: Headers = ()) -> None:
    """Hand an answer on as it comes."""
    headers = [
        (name.decode("latin-1").lower(), value.decode("latin-1"))
        for name, value in response.headers.raw
    ]
    kept = [(n, v) for n, v in headers if n not in _HOP or n == "content-length"]
    await reply.start(response.status_code, [*kept, *extra])
    assert isinstance(response.stream, httpx.AsyncByteStream)
    async for part in response.stream:
        if part:
            await reply.write(part)
    await reply.end()


def _passed(headers: Headers) -> Headers:
    """Return what a container gets of a caller's headers: no signature that it could use."""
    kept = []
    for name, value in headers:
        if name in _HOP:
            continue
        given = _SIGNATURE.sub(r"\1.SIGNATURE_REMOVED_BY_GOOGLE", value)
        kept.append((name, given if name == "authorization" else value))
    trace = base64.b16encode(secrets.token_bytes(16)).decode().lower()
    kept.append(("x-forwarded-for", "127.0.0.1"))
    kept.append(("x-forwarded-proto", "https"))
    kept.append(("x-cloud-trace-context", f"{trace}/{secrets.randbits(63)};o=0"))
    return kept


def _transport(*, two: bool) -> httpx.AsyncBaseTransport:
    if two:
        return H2Transport()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncHTTPTransport(limits=limits, retries=0)
