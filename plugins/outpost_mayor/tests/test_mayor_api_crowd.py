"""Many at once, and those who ask for nothing: nobody keeps the API from others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from mayorapikit import Api, UnixConnection, answering, ask

from outpost_mayor.api import accepting, holding, stream, tokens

WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LISTEN = {"Accept": "text/event-stream"}


@pytest.fixture
def lines() -> Iterator[ExitStack]:
    """Close what a test connected."""
    with ExitStack() as stack:
        yield stack


def connected(api: Api, lines: ExitStack) -> socket.socket:
    """Return a bare connection over the network."""
    host, port = api.address.split(":")
    return lines.enter_context(socket.create_connection((host, int(port)), timeout=60))


def listening(
    api: Api, lines: ExitStack, token: str, path: str = "/v1/events"
) -> tuple[HTTPConnection, HTTPResponse]:
    """Return a connection whose answer goes on, and that answer."""
    line = HTTPConnection(api.address, timeout=60)
    lines.callback(line.close)
    line.request("GET", path, headers={**LISTEN, "Authorization": f"Bearer {token}"})
    return line, line.getresponse()


def test_who_keeps_connections_for_nothing_makes_room_for_others(
    tmp_path: Path, lines: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "MOST", 8)
    with answering(tmp_path) as api:
        token = tokens.add(api.manager.state, "ada", "view")
        _, stays = listening(api, lines, token)
        assert stays.readline().startswith(b"id: ")
        held = [connected(api, lines) for _ in range(20)]
        for number, line in enumerate(held):
            said = (b"", b"GET /heal", WHOLE, WHOLE + b"GET /heal")[number % 4]
            try:
                line.sendall(said)
            except ConnectionError:
                continue  # it had to go already
        found = ask(api.address, "GET", "/v1/outposts", token=token)
        assert found.status == 200
        # who is answered was not cut, and as many are connected as there may be
        put = {"requests": [{"issue": "a-1", "no_rig": True, "command": ["true"]}]}
        assert api.ask("POST", "/v1/queue", put).status == 200
        while not (row := stays.readline()).startswith(b"data:"):
            assert row
        for line in held:
            line.setblocking(False)
        assert sum(map(is_open, held)) <= 8


def is_open(line: socket.socket) -> bool:
    """Whether the other end has not ended a connection, once what it said is read."""
    try:
        while line.recv(65536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def test_a_burst_of_listeners_does_not_pass_the_most(
    tmp_path: Path, lines: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_MOST", 3)
    with answering(tmp_path) as api:
        api.ask("GET", "/healthz")
        made = [UnixConnection(api.doors.unix) for _ in range(12)]
        for line in made:
            lines.callback(line.close)
            line.connect()
        for line in made:
            line.request("GET", "/v1/events", headers=LISTEN)
        got = [line.getresponse() for line in made]
        assert sorted(one.status for one in got) == [200] * 3 + [503] * 9
        assert b"listen already" in next(one for one in got if one.status == 503).read()
        for line, one in zip(made, got, strict=True):  # who goes makes room
            if one.status == 200:
                one.close()
            line.close()
        while True:
            line = UnixConnection(api.doors.unix)
            lines.callback(line.close)
            line.request("GET", "/v1/events", headers=LISTEN)
            if line.getresponse().status == 200:
                break


def test_one_token_holds_no_more_than_its_share(
    tmp_path: Path, lines: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "REQUESTS", 2)
    monkeypatch.setattr(holding, "BYTES", 1000)
    with answering(tmp_path) as api:
        eve, ada = (tokens.add(api.manager.state, name, "view") for name in ("eve", "ada"))
        for _ in range(2):
            assert listening(api, lines, eve)[1].status == 200
        refused = ask(api.address, "GET", "/v1/outposts", token=eve)
        assert refused.status == 429
        assert refused.headers["retry-after"]
        assert ask(api.address, "GET", "/v1/outposts", token=ada).status == 200
        assert ask(api.address, "POST", "/v1/explain", b"[" * 1001, token=ada).status == 429
        assert ask(api.address, "POST", "/v1/explain", b"[" * 999, token=ada).status != 429


def test_nothing_is_waited_for_of_who_need_not_say_who_he_is(
    tmp_path: Path, lines: ExitStack
) -> None:
    with answering(tmp_path) as api:
        for path, status in (("/healthz", b"HTTP/1.1 405 "), ("/v1/queue", b"HTTP/1.1 401 ")):
            line = connected(api, lines)
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{{"
            line.sendall(head.encode())
            assert line.recv(1000).startswith(status)


def test_who_follows_a_silent_worker_is_let_in_at_once(tmp_path: Path, lines: ExitStack) -> None:
    go = tmp_path / "go"
    with answering(tmp_path) as api:
        token = tokens.add(api.manager.state, "ada", "view")
        order: dict[str, Any] = {
            "issue": "a-1", "no_rig": True, "env": {"GO": str(go)},
            "command": ["sh", "-c", "until [ -e $GO ]; do sleep 0.05; done; echo out"],
        }  # fmt: skip
        assert api.ask("POST", "/v1/workers", {"requests": [order]}).status == 200
        path = "/v1/workers/a-1/logs?follow=true"
        line, left = listening(api, lines, token, path)
        assert left.status == 200
        line.close()
        _, got = listening(api, lines, token, path)
        assert (got.status, got.getheader("Outpost-Log-Offset")) == (200, "0")
        go.touch()
        assert got.read() == b"out\n"
        _, missing = listening(api, lines, token, "/v1/workers/nobody/logs?follow=true")
        assert missing.status == 404
