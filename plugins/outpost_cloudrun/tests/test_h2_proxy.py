"""HTTP/2 through the proxy that the environment names."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
from fronts import Certificate, certificate
from h2peer import Call, h2peer, looped

from outpost_cloudrun.connection.proxy import proxy_for
from outpost_cloudrun.connection.transport import H2Transport, NotSentError
from outpost_cloudrun.testing.accepting import cut, stop_listening


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("proxied"))


class ConnectProxy:
    """Connects everything to one port, once the login is right."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.login = ""
        self.says = b"HTTP/1.1 200 Connection established\r\n\r\n"
        self.asked: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.transports: list[asyncio.BaseTransport] = []
        self.port = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        self.transports.append(writer.transport)
        with contextlib.closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            self.asked.append(head[0])
            if self.login and f"Proxy-Authorization: {self.login}" not in head:
                writer.write(b"HTTP/1.1 407 Login\r\n\r\n")
                return
            writer.write(self.says)
            if b" 200 " not in self.says:
                return
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.target)
            self.transports.append(far.transport)
            with contextlib.closing(far), contextlib.suppress(OSError):
                await asyncio.gather(pump(reader, far), pump(far_reader, writer))


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def connect_proxy(target: int) -> AsyncIterator[ConnectProxy]:
    proxy = ConnectProxy(target)
    server = await asyncio.start_server(proxy.take, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        await stop_listening(server)
        for task in proxy.tasks:
            task.cancel()
        await asyncio.gather(*proxy.tasks, return_exceptions=True)
        await cut(proxy.transports)


async def echo(call: Call) -> None:
    await call.complete.wait()
    call.answer()
    await call.send(bytes(call.body))
    call.end()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "all_proxy", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@looped
async def test_a_server_is_reached_through_the_proxy_with_its_login(files, monkeypatch) -> None:
    async with (
        h2peer(echo, tls=files.serving("h2")) as peer,
        connect_proxy(peer.port) as proxy,
        httpx.AsyncClient(transport=H2Transport(tls=files.trusting), timeout=20) as client,
    ):
        proxy.login = "Basic " + base64.b64encode(b"ada:s p").decode()
        monkeypatch.setenv("HTTPS_PROXY", f"http://ada:s%20p@127.0.0.1:{proxy.port}")
        answer = await client.post("https://worker.example/x", content=b"hello")
        assert (answer.content, answer.http_version) == (b"hello", "HTTP/2")
        assert proxy.asked == ["CONNECT worker.example:443 HTTP/1.1"]
        await client.get(f"https://127.0.0.1:{peer.port}")  # itself, without the proxy
        assert len(proxy.asked) == 1
        proxy.login = "Basic other"
        with pytest.raises(NotSentError, match="asks for a login") as refused:
            await client.get("https://other.example")
        assert "s p" not in str(refused.value)
        assert "s%20p" not in str(refused.value)


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"HTTP/1.1 403 No\r\n\r\n", "answered 403"),
        (b"nonsense\r\n\r\n", "answered 502"),
        (b"x" * 20_000, "answered 502"),
        (b"", "closed the connection"),
    ],
)
@looped
async def test_a_proxy_that_does_not_connect_is_named_and_nothing_is_sent(
    files, monkeypatch, says, why
) -> None:
    async with (
        h2peer(echo, tls=files.serving("h2")) as peer,
        connect_proxy(peer.port) as proxy,
        httpx.AsyncClient(transport=H2Transport(tls=files.trusting), timeout=20) as client,
    ):
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{proxy.port}")
        proxy.says = says
        with pytest.raises(NotSentError, match=why):
            await client.get("https://worker.example")
        assert not peer.calls


def test_which_servers_are_asked_through_it(monkeypatch) -> None:
    assert proxy_for("https", "a.run.app", 443) is None
    monkeypatch.setenv("ALL_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example,.local")
    found = proxy_for("https", "a.run.app", 443)
    assert found is not None
    assert (found.host, found.port) == ("proxy", 3128)
    for host in ("inside.example", "a.inside.example", "x.local", "localhost", "127.0.0.1", "::1"):
        assert proxy_for("https", host, 443) is None
    assert proxy_for("http", "a.run.app", 80) is None
    for wrong in ("socks5://proxy:1080", "https://proxy", "http://", "http://[::1"):
        monkeypatch.setenv("ALL_PROXY", wrong)
        with pytest.raises(NotSentError, match=r"http://HOST:PORT"):
            proxy_for("https", "a.run.app", 443)
