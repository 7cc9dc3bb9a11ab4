"""The way to a server through an HTTP proxy, as the environment says (RFC 9110, section 9.3.6).

`HTTPS_PROXY` (or `ALL_PROXY`) and `NO_PROXY` are read as curl reads them. A loopback address is
never asked for through a proxy, and neither is `http://`, which HTTP/2 cannot pass through one.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import ssl
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import Final

from outpost_cloudrun.connection.faults import NotSentError

#: Bytes of a proxy's answer.
_LARGEST: Final = 1 << 14
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)[ \r]")


@dataclass(frozen=True)
class Proxy:
    """Where a proxy is, and how one logs in. The login is in no repr.

    Args:
        host: its address.
        port: its port.
        login: the value of `Proxy-Authorization`, "" for none.
        url: all of it, as a program is given it.
    """

    host: str
    port: int
    login: str = field(repr=False)
    url: str = field(repr=False)


def proxy_for(scheme: str, host: str, port: int) -> Proxy | None:
    """Return the proxy for a server, None for none.

    Raises:
        NotSentError: the environment names one that cannot be used.
    """
    if scheme != "https" or is_loopback(host):
        return None
    given = urllib.request.getproxies()
    url = given.get("https") or given.get("all")
    if not url or urllib.request.proxy_bypass(f"{host}:{port}"):
        return None
    try:
        split = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        name, number = split.hostname, split.port or 80
    except ValueError:
        name, number, split = None, 0, urllib.parse.urlsplit("")
    if split.scheme != "http" or not name:
        raise NotSentError("HTTPS_PROXY has to be http://HOST:PORT")
    login = ""
    if split.username:
        pair = (
            f"{urllib.parse.unquote(split.username)}:{urllib.parse.unquote(split.password or '')}"
        )
        login = "Basic " + base64.b64encode(pair.encode()).decode()
    return Proxy(name, number, login, split.geturl())


async def connect_through(
    proxy: Proxy, host: str, port: int, tls: ssl.SSLContext, protocol: asyncio.Protocol
) -> None:
    """Connect `protocol` to a server behind a proxy.

    Raises:
        NotSentError: the proxy refused.
        OSError: it is not there, or TLS failed.
    """
    loop = asyncio.get_running_loop()
    tunnel = _Tunnel()
    transport, _ = await loop.create_connection(lambda: tunnel, proxy.host, proxy.port)
    try:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        if proxy.login:
            lines.append(f"Proxy-Authorization: {proxy.login}")
        transport.write("\r\n".join([*lines, "", ""]).encode("ascii"))
        status = await tunnel.answer
        if not 200 <= status < 300:
            why = "it asks for a login" if status == 407 else f"it answered {status}"
            raise NotSentError(f"the proxy {proxy.host}:{proxy.port} does not connect: {why}")
        secured = await loop.start_tls(transport, protocol, tls, server_hostname=host)
    except BaseException:
        transport.abort()
        raise
    assert secured is not None
    protocol.connection_made(secured)  # `start_tls` leaves that to us


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Tunnel(asyncio.Protocol):
    """Waits for what the proxy says."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._read = bytearray()

    def data_received(self, data: bytes) -> None:
        self._read += data
        if self.answer.done():
            return
        if b"\r\n\r\n" in self._read:
            found = _STATUS.match(self._read)
            self.answer.set_result(int(found[1]) if found else 502)
        elif len(self._read) > _LARGEST:
            self.answer.set_result(502)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.answer.done():
            self.answer.set_exception(ConnectionResetError("the proxy closed the connection"))
