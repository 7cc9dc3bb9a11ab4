"""HTTP/2 for httpx, as long-lived streams need it.

httpx's own HTTP/2 ends all streams of a connection at a graceful GOAWAY, does not tell a server
that nobody reads its answer any more, lets one stream's time-out end all others, and never pings.
This transport does not, and knows of a failed request whether it may have been acted upon.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import httpx

from outpost_cloudrun.connection.exchange import AnswerBody
from outpost_cloudrun.connection.faults import NotSentError, was_sent
from outpost_cloudrun.connection.limits import Limits, Timeouts
from outpost_cloudrun.connection.line import Line, SpeaksHttp1Error
from outpost_cloudrun.connection.plainly import plainly
from outpost_cloudrun.connection.pool import Pool
from outpost_cloudrun.connection.proxy import connect_through, proxy_for

__all__ = ["H2Transport", "Limits", "NotSentError", "was_sent"]

#: Seconds for which a server that had no HTTP/2 is asked in HTTP/1.1 at once.
_HTTP1_FOR: Final = 300.0


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int

    @property
    def where(self) -> str:
        """Host and port, for messages."""
        return f"{self.host}:{self.port}"


class H2Transport(httpx.AsyncBaseTransport):
    """Speaks HTTP/2: over TLS where the server offers it, by prior knowledge on `http://`.

    A server without HTTP/2 is spoken to in HTTP/1.1. `HTTPS_PROXY` and `NO_PROXY` are heeded, see
    `proxy`. Use it from one event loop.

    Args:
        limits: how long and how much.
        tls: makes the settings of TLS; called when first needed, once for HTTP/2 and once for
            HTTP/1.1. The default trusts what httpx trusts, `SSL_CERT_FILE` included.

    Example::

        async with httpx.AsyncClient(transport=H2Transport()) as client:
            async with client.stream("POST", "https://…/work", json=order) as answer:
                async for line in answer.aiter_lines(): ...
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        tls: Callable[[], ssl.SSLContext] = httpx.create_ssl_context,
    ) -> None:
        self._limits = limits or Limits()
        self._make_tls = tls
        self._tls: ssl.SSLContext | None = None
        self._pools: dict[_Origin, Pool] = {}
        self._http1: dict[_Origin, httpx.AsyncHTTPTransport] = {}
        self._http1_until: dict[_Origin, float] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; return its answer once the headers are there.

        Raises:
            NotSentError: certainly nobody acted upon the request.
            httpx.TransportError: anything else, see `was_sent`.
        """
        origin = _origin(request.url)
        timeouts = Timeouts.of(request)
        if self._http1_until.get(origin, 0.0) > asyncio.get_running_loop().time():
            return await self._ask_http1(origin, request)
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = Pool(
                origin.where, self._limits, partial(self._open_line, origin)
            )
        replays = self._limits.replays if isinstance(request.stream, httpx.ByteStream) else 0
        while True:
            try:
                exchange = await pool.hold(timeouts)
            except SpeaksHttp1Error:
                self._http1_until[origin] = asyncio.get_running_loop().time() + _HTTP1_FOR
                return await self._ask_http1(origin, request)
            try:
                await exchange.ask(request, timeouts)
            except NotSentError:
                exchange.close()
                if not replays:
                    raise
                replays -= 1
                continue
            except BaseException:
                exchange.close()
                raise
            assert exchange.answer is not None
            status, headers = exchange.answer
            return httpx.Response(
                status,
                headers=headers,
                stream=AnswerBody(exchange, timeouts.read),
                extensions={"http_version": b"HTTP/2", "stream_id": exchange.id},
            )

    async def aclose(self) -> None:
        """Close all connections; answers that are still read fail."""
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            await pool.aclose()
        for http1 in self._http1.values():
            await http1.aclose()

    def lines(self) -> int:
        """Return how many HTTP/2 connections there are."""
        return sum(pool.lines for pool in self._pools.values())

    async def _ask_http1(self, origin: _Origin, request: httpx.Request) -> httpx.Response:
        http1 = self._http1.get(origin)
        if http1 is None:
            proxy = proxy_for(*origin)
            http1 = self._http1[origin] = httpx.AsyncHTTPTransport(
                verify=self._make_tls() if origin.scheme == "https" else False,
                proxy=proxy.url if proxy else None,
                limits=httpx.Limits(max_connections=1000, keepalive_expiry=self._limits.idle),
                trust_env=False,
            )
        return await http1.handle_async_request(request)

    async def _open_line(
        self, origin: _Origin, changed: Callable[[Line], None], timeout: float | None
    ) -> Line:
        """Connect, and wait until the server has said its settings."""
        line = Line(self._limits, changed)
        try:
            async with asyncio.timeout(timeout):
                tls = self._h2_tls() if origin.scheme == "https" else None
                proxy = proxy_for(*origin)
                if proxy is not None and tls is not None:
                    await connect_through(proxy, origin.host, origin.port, tls, line)
                else:
                    await asyncio.get_running_loop().create_connection(
                        lambda: line, origin.host, origin.port, ssl=tls, happy_eyeballs_delay=0.25
                    )
                await line.opened
        except TimeoutError:
            line.abort()
            raise httpx.ConnectTimeout(
                f"no connection to {origin.where} within {timeout:g} s"
            ) from None
        except OSError as error:
            line.abort()
            raise NotSentError(f"no connection to {origin.where}: {plainly(error)}") from error
        except BaseException:
            line.abort()
            raise
        return line

    def _h2_tls(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = self._make_tls()
            self._tls.set_alpn_protocols(["h2", "http/1.1"])
        return self._tls


def _origin(url: httpx.URL) -> _Origin:
    if url.scheme not in ("http", "https") or not url.host:
        raise httpx.UnsupportedProtocol(f"{url.scheme!r} is not http or https")
    return _Origin(url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80))
