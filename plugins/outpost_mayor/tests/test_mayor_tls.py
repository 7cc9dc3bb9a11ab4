"""`outpost --server https://…`: real certificates, real proxies, and what their errors say."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from mayorapikit import LOCAL, answering
from servekit import Town, until
from test_mayor_remote import person
from tlskit import Authority

from outpost_core.errors import OutpostError, UnreachableError
from outpost_manager.remote.client import open_client
from outpost_manager.remote.manager import RemoteManager


class Proxy:
    """A small proxy: it connects where CONNECT says, and keeps what it was asked for.

    Attributes:
        asked: first lines of requests, and whatever else came before a tunnel stood.
    """

    def __init__(self, to: int) -> None:
        self.asked: list[bytes] = []
        self._to = to
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                threading.Thread(target=self._one, args=(near,), daemon=True).start()

    def _one(self, near: socket.socket) -> None:
        said = b""
        while b"\r\n\r\n" not in said:
            more = near.recv(65536)
            if not more:
                return
            said += more
        self.asked.append(said)
        with near, socket.create_connection(("127.0.0.1", self._to)) as far:
            near.sendall(b"HTTP/1.1 200 fine\r\n\r\n")
            back = threading.Thread(target=_pump, args=(far, near), daemon=True)
            back.start()
            _pump(near, far)
            back.join(60)

    def close(self) -> None:
        """Take no more."""
        self._listening.shutdown(socket.SHUT_RDWR)  # whoever accepts is let go
        self._listening.close()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while more := one.recv(65536):
            other.sendall(more)
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)


@contextmanager
def proxied(to: int) -> Iterator[Proxy]:
    """Have a proxy that leads to one port of this machine, whatever host it is asked for."""
    proxy = Proxy(to)
    try:
        yield proxy
    finally:
        proxy.close()


def ask(url: str, **environ: str) -> list[str]:
    """Ask a server for its outposts as a command does."""

    async def work() -> list[str]:
        async with RemoteManager(open_client(url, environ), environ, Path("/")) as manager:
            return [view.name for view in await manager.outposts()]

    return asyncio.run(work())


def test_a_team_asks_a_mayor_over_tls_with_an_authority_of_its_own(
    tmp_path: Path,
) -> None:
    town, own = Town(tmp_path), Authority(tmp_path / "ca")
    cert, key = own.signed("localhost")
    with town.mayor(
        "--listen", "localhost:0", "--tls-cert", str(cert), "--tls-key", str(key)
    ) as mayor:
        mayor.ready()
        until(lambda: "https://" in mayor.log, "it listens nowhere")
        found = re.search(r"https://localhost:\d+", mayor.log)
        assert found is not None, mayor.log
        far = person(town, tmp_path, "work", found.group())
        refused = far.run("list", code=5)
        assert "unable to get local issuer certificate" in refused
        assert "SSL_CERT_FILE=FILE names" in refused
        far.env["SSL_CERT_FILE"] = str(own.file)
        assert "local" in far.run("list")
        assert "t-1.1 done" in far.run("spawn", "t-1", "--no-rig", "--wait", "--", "true")
        assert mayor.end() == 0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority of these tests."""
    return Authority(tmp_path_factory.mktemp("ca"))


def served(folder: Path, cert: Path, key: Path) -> str:
    """Return a configuration of an API that speaks TLS."""
    return f"{LOCAL}api: {{listen: 'localhost:0', tls_cert: {cert}, tls_key: {key}}}\n"


@pytest.mark.parametrize(
    ("name", "days", "said", "hint"),
    [
        ("elsewhere.example.com", 1, "not valid for", "say the name that is in it"),
        ("localhost", -1, "expired", "a new certificate"),
    ],
)
def test_a_certificate_that_is_not_the_servers_or_not_valid_now_is_refused(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch,
    name: str, days: int, said: str, hint: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with answering(tmp_path, "", served(tmp_path, *authority.signed(name, days))) as api:
        port = api.address.rpartition(":")[2]
        with pytest.raises(UnreachableError) as told:
            ask(f"https://localhost:{port}", OUTPOST_TOKEN="outpost_x")
        assert said in told.value.message
        assert hint in told.value.hint
        assert "outpost_x" not in f"{told.value}"


def test_http_at_a_port_of_tls_and_https_at_one_of_http_say_which_it_is(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with answering(tmp_path, "", served(tmp_path, *authority.signed("localhost"))) as api:
        port = api.address.rpartition(":")[2]
        with pytest.raises(UnreachableError) as told:
            ask(f"http://localhost:{port}", OUTPOST_TOKEN="outpost_x")
        assert "say https://" in told.value.hint
    (tmp_path / "plain").mkdir()
    with answering(tmp_path / "plain") as api:
        with pytest.raises(UnreachableError) as told:
            ask(f"https://{api.address}", OUTPOST_TOKEN="outpost_x")
        assert "say http://" in told.value.hint


def test_proxies_are_used_for_https_beyond_this_machine_and_see_no_token(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = "mayor.example.com"
    for name in ("HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    config = served(tmp_path, *authority.signed(host, more="localhost"))
    config = config.replace("localhost:0", "0.0.0.0:0")  # at loopback it has no other name
    with answering(tmp_path, "", config) as api:
        from outpost_mayor.api.tokens import add

        token = add(api.manager.state, "ada", "view")
        port = int(api.address.rpartition(":")[2])
        with proxied(port) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            assert ask(f"https://{host}:{port}", OUTPOST_TOKEN=token) == ["local"]
            (said,) = proxy.asked
            assert said.startswith(f"CONNECT {host}:{port} ".encode())
            assert token.encode() not in said
            # nothing of this machine goes through one
            assert ask(f"https://localhost:{port}", OUTPOST_TOKEN=token) == ["local"]
            assert len(proxy.asked) == 1
            # and what NO_PROXY names goes straight, to a host that nobody finds here
            monkeypatch.setenv("NO_PROXY", ".example.com")
            with pytest.raises(OutpostError):
                ask(f"https://{host}:{port}", OUTPOST_TOKEN=token)
            assert len(proxy.asked) == 1
            monkeypatch.delenv("NO_PROXY")
        with pytest.raises(UnreachableError) as told:  # the proxy has gone
            ask(f"https://{host}:{port}", OUTPOST_TOKEN=token)
        assert "HTTPS_PROXY" in told.value.hint
