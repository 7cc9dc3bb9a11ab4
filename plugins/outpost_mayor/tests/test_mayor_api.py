"""The API of the mayor: who is let in, what is answered, and where it listens."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, IncompleteRead
from pathlib import Path
from typing import Any

import pytest
from mayorapikit import LOCAL, Api, UnixConnection, answering, ask
from peers import MissingError
from servekit import Town

from outpost_core.errors import OutpostError, UsageError
from outpost_manager import jsonshapes
from outpost_manager.config.api import Address, address
from outpost_mayor.api import listen, tokens


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """An API, without a mayor behind it."""
    with answering(tmp_path) as found:
        yield found


def order(issue: str, **more: Any) -> dict[str, Any]:
    """Return an order as a request has it."""
    return {"issue": issue, "no_rig": True, "command": ["true"], **more}


def test_the_owner_needs_no_token_and_others_do(api: Api) -> None:
    assert (api.ask("GET", "/v1/outposts")).status == 200
    refused = api.ask("GET", "/v1/outposts", remote=True)
    assert refused.status == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert refused.json["error"].keys() == jsonshapes.ERROR.keys()
    token = tokens.add(api.manager.state, "ada", "view")
    found = api.ask("GET", "/v1/outposts", remote=True, token=token)
    assert found.status == 200
    assert found.json["outposts"][0].keys() == jsonshapes.OUTPOST.keys()
    for wrong in (token[:-1], token + "x", "x", "outpost_", token.upper()):
        assert (api.ask("GET", "/v1/outposts", remote=True, token=wrong)).status == 401
    tokens.remove(api.manager.state, "ada")
    assert (api.ask("GET", "/v1/outposts", remote=True, token=token)).status == 401


def test_a_role_does_what_it_may_and_no_more(api: Api) -> None:
    view, work, admin = (tokens.add(api.manager.state, role, role) for role in tokens.ROLES)
    put = {"requests": [order("a-1")]}
    refused = api.ask("POST", "/v1/queue", put, remote=True, token=view)
    assert refused.status == 403
    assert "role work" in refused.json["error"]["message"]
    assert (api.ask("POST", "/v1/queue", put, remote=True, token=work)).status == 200
    for more in ({"rig": "/etc"}, {"rig": None, "no_rig": False}, {"secrets": ["PATH"]}):
        asked = {"requests": [order("a-2") | more | ({"no_rig": False} if "rig" in more else {})]}
        got = api.ask("POST", "/v1/queue", asked, remote=True, token=work)
        assert got.status == 403, got.data
    asked = {"requests": [order("a-3", secrets=["PATH"])]}
    assert (api.ask("POST", "/v1/queue", asked, remote=True, token=admin)).status == 200
    assert b"/usr/bin" not in (api.ask("GET", "/v1/queue/a-3")).data


def test_a_browser_cannot_be_made_to_ask(api: Api) -> None:
    evil = {"Origin": "https://evil.example"}
    assert (api.ask("GET", "/healthz", headers=evil)).status == 403
    assert (api.ask("GET", "/healthz", remote=True, headers=evil)).status == 403
    own = {"Origin": f"http://{api.address}"}
    assert (api.ask("GET", "/healthz", remote=True, headers=own)).status == 200
    rebound = {"Host": "evil.example"}
    assert (api.ask("GET", "/healthz", remote=True, headers=rebound)).status == 403
    found = api.ask("GET", "/healthz", remote=True)
    assert found.json == {"status": "ok"}
    assert not [name for name in found.headers if name.startswith("access-control")]
    # what a form of a browser can send is no JSON
    form = {"Content-Type": "text/plain"}
    got = api.ask("POST", "/v1/queue", {"requests": [order("a-1")]}, headers=form)
    assert got.status == 422


def test_the_queue_over_the_api_is_that_of_the_commands(api: Api) -> None:
    put = {"requests": [order(f"q-{n}", priority=n) for n in range(4)], "batch": "night"}
    first = api.ask("POST", "/v1/queue", put)
    assert [one["issue"] for one in first.json["queued"]] == ["q-0", "q-1", "q-2", "q-3"]
    again = api.ask("POST", "/v1/queue", put)
    assert again.json == {"queued": [], "there": ["q-0", "q-1", "q-2", "q-3"]}
    other = api.ask("POST", "/v1/queue", {"requests": [order("q-1", command=["false"])]})
    assert other.status == 409
    page = api.ask("GET", "/v1/queue?limit=3")
    assert [one["issue"] for one in page.json["entries"]] == ["q-0", "q-1", "q-2"]
    rest = api.ask("GET", "/v1/queue?limit=3&after=q-2")
    assert [one["issue"] for one in rest.json["entries"]] == ["q-3"]
    assert (api.ask("GET", "/v1/queue/q-9")).status == 404
    bodies: list[Any] = [{"requests": said} for said in ([], [{"isue": "x"}], [3])]
    for wrong in (*bodies, [], "x"):
        got = api.ask("POST", "/v1/queue", wrong)
        assert got.status in (400, 422), got.data
        assert got.json["error"]["message"]


def test_a_body_that_is_too_large_is_refused(api: Api) -> None:
    got = api.ask("POST", "/v1/queue", b"[" * (5 << 20))
    assert got.status == 413
    nested = api.ask("POST", "/v1/queue", b"[" * 100_000)
    assert nested.status == 400
    assert (api.ask("GET", "/healthz")).status == 200


def test_events_are_streamed_and_continue_where_one_was_cut(api: Api) -> None:
    api.ask("POST", "/v1/queue", {"requests": [order("s-1")]})
    page = api.ask("GET", "/v1/events?after=0")
    last = page.json["last"]

    def listen_() -> dict[str, Any]:
        line = UnixConnection(api.doors.unix)
        line.request(
            "GET", "/v1/events",
            headers={"Accept": "text/event-stream", "Last-Event-ID": str(last)},
        )  # fmt: skip
        got = line.getresponse()
        assert got.getheader("Content-Type", "").startswith("text/event-stream")
        while not (row := got.readline()).startswith(b"data:"):
            assert row
        line.close()
        found: dict[str, Any] = json.loads(row[5:])
        return found

    with ThreadPoolExecutor(1) as pool:
        heard = pool.submit(listen_)
        api.ask("POST", "/v1/queue", {"requests": [order("s-2")]})
        found = heard.result(60)
    assert found["id"] > last
    assert (found["kind"], found["worker"]) == ("queued", "s-2.1")


def test_a_stream_ends_when_its_token_is_removed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from outpost_mayor.api import guard

    monkeypatch.setattr(guard, "AGAIN", 0.0)
    token = tokens.add(api.manager.state, "ada", "view")
    line = HTTPConnection(api.address, timeout=60)
    line.request(
        "GET", "/v1/events",
        headers={"Accept": "text/event-stream", "Authorization": f"Bearer {token}"},
    )  # fmt: skip
    got = line.getresponse()
    assert got.readline().startswith(b"id: ")
    tokens.remove(api.manager.state, "ada")
    api.ask("POST", "/v1/queue", {"requests": [order("s-1")]})
    with pytest.raises((IncompleteRead, ConnectionError)):
        got.read()
    line.close()


def test_workers_come_by_pages_and_states(api: Api) -> None:
    for number in range(3):
        made = api.run(api.manager.order(_request(f"w-{number}")))
        api.run(api.manager.spawn(made))
    api.run(api.manager.wait([f"w-{n}" for n in range(3)], timeout=120))
    done = api.ask("GET", "/v1/workers?status=done&limit=2")
    ids = [one["id"] for one in done.json["workers"]]
    assert len(ids) == 2
    rest = api.ask("GET", f"/v1/workers?all=true&limit=2&after={ids[-1]}")
    assert {*ids, *(one["id"] for one in rest.json["workers"])} == {"w-0.1", "w-1.1", "w-2.1"}
    assert (api.ask("GET", "/v1/workers")).json == {"workers": [], "not_told": []}
    assert (api.ask("GET", "/v1/workers?status=odd")).status == 422


async def _opened(state: Path, at: Address | None) -> None:
    async with listen.opened(state, at):
        pass


def _request(issue: str) -> Any:
    from outpost_manager.orders.fields import request_of

    return request_of(order(issue))


@pytest.mark.parametrize("said", ["8080", "host", "1.2.3.4:99999", ":1", "::1:80", "a:b"])
def test_what_is_no_address_is_said(said: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        address(said)


@pytest.mark.parametrize("said", ["0.0.0.0:0", "[::]:0", "10.0.0.1:80", "example.com:80"])
def test_nothing_listens_beyond_this_machine_without_tls(said: str) -> None:
    with pytest.raises(UsageError, match="without TLS"):
        address(said)


def test_an_address_that_is_taken_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = address(f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(OutpostError, match="Address already in use"):
            asyncio.run(_opened(tmp_path / "state", at))


def test_a_path_that_is_too_long_for_a_socket_has_a_pointer(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    with answering(folder) as api:
        path = api.doors.unix
        assert len(str(path)) < 100
        assert (folder / "state" / "mayor" / "api.path").read_text().strip() == str(path)
        assert api.ask("GET", "/v1/queue").status == 200
    assert not path.exists()


def test_a_mayor_answers_and_ends_its_streams_with_itself(tmp_path: Path) -> None:
    town = Town(tmp_path)
    with town.mayor() as mayor:
        mayor.ready()
        path = town.state / "mayor" / "api.sock"
        assert path.stat().st_mode & 0o777 == 0o600
        line = UnixConnection(path)
        line.request("GET", "/v1/events", headers={"Accept": "text/event-stream"})
        got: Any = line.getresponse()
        assert got.readline().startswith(b"id:")
        assert mayor.end() == 0
        got.read()
        line.close()
        assert not path.exists()
        assert "Traceback" not in mayor.log


def test_a_token_is_shown_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    town = Town(tmp_path)
    made = town.json("token", "add", "ada", "--role", "work")["token"]
    kept = town.state / "mayor" / "tokens.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert made not in kept.read_text()
    (listed,) = town.json("token", "list")["tokens"]
    assert (listed["name"], listed["role"]) == ("ada", "work")
    assert made.endswith(listed["last4"])
    assert "there is a token" in town.run("token", "add", "ada", "--role", "view", code=2)
    town.run("token", "remove", "ada")
    assert town.json("token", "list") == {"tokens": []}
    town.run("token", "remove", "ada", code=4)


def test_tokens_that_are_made_at_once_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        [*pool.map(lambda n: tokens.add(tmp_path, f"t-{n}", "view"), range(40))]
    assert len(tokens.read(tmp_path)) == 40


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"tokens": 1}', '{"tokens": [{}]}', '{"tokens": [1]}',
             '{"tokens": [{"name": "a", "role": "god", "sha256": "x", "created_at": 1}]}'],
)  # fmt: skip
def test_a_broken_file_of_tokens_lets_nobody_in(tmp_path: Path, text: str) -> None:
    tokens.folder_of(tmp_path)
    (tmp_path / "mayor" / "tokens.json").write_text(text)
    with pytest.raises(OutpostError, match="is no file of tokens"):
        tokens.Tokens(tmp_path).find("x")


def test_beyond_this_machine_it_speaks_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    import ssl
    import subprocess
    from http.client import HTTPSConnection

    from outpost_mayor.api import accepting

    monkeypatch.setattr(accepting, "MOST", 4)
    openssl = shutil.which("openssl")
    if openssl is None:
        raise MissingError("openssl makes the certificate")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    more = f"api: {{listen: '0.0.0.0:0', tls_cert: {cert}, tls_key: {key}}}\n"
    with answering(tmp_path, listening="", config=LOCAL + more) as api:
        token = tokens.add(api.manager.state, "ada", "view")
        port = int(api.address.rpartition(":")[2])
        # those who connect and begin no TLS leave room for others
        silent = [socket.create_connection(("localhost", port)) for _ in range(6)]
        trusted = ssl.create_default_context(cafile=str(cert))
        line = HTTPSConnection("localhost", port, timeout=60, context=trusted)
        line.request("GET", "/v1/outposts", headers={"Authorization": f"Bearer {token}"})
        assert line.getresponse().status == 200
        line.close()
        for one in silent:
            one.close()
        with pytest.raises((OSError, HTTPException)):
            ask(f"127.0.0.1:{port}", "GET", "/healthz")


def test_who_connects_and_says_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from outpost_mayor.api import accepting, guard

    monkeypatch.setattr(accepting, "FIRST", 0.2)
    monkeypatch.setattr(guard, "PATIENCE", 0.2)
    with answering(tmp_path) as api:
        said = (b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\r\n")
        for words in said:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(60)
                line.connect(str(api.doors.unix))
                line.sendall(words)
                assert line.recv(1000) == b""
        with socket.socket(socket.AF_UNIX) as line:  # a second request that does not come
            line.settimeout(60)
            line.connect(str(api.doors.unix))
            line.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            heard = b""
            while not heard.endswith(b'{"status":"ok"}'):
                heard += line.recv(1000)
            line.sendall(b"GET /heal")
            assert line.recv(1000) == b""
        with socket.socket(socket.AF_UNIX) as line:  # a body that does not come
            line.settimeout(60)
            line.connect(str(api.doors.unix))
            line.sendall(b"POST /v1/queue HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            assert line.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert api.ask("GET", "/healthz").status == 200


def test_a_token_counts_though_its_maker_was_killed(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.run("token", "add", "ada", "--role", "view", code=-9, env={"OUTPOST_FAULT": "token.kept"})
    (kept,) = tokens.read(town.state)
    assert kept.name == "ada"
    town.run("token", "add", "ada", "--role", "view", code=2)
    town.run("token", "remove", "ada")
    town.run("token", "add", "ada", "--role", "view")


@pytest.mark.parametrize(
    "words", [("--listen", "0.0.0.0:0"), ("--listen", "x"), ("--tls-cert", "x"),
              ("--listen", "0.0.0.0:0", "--tls-cert", "/no", "--tls-key", "/no")],
)  # fmt: skip
def test_a_mayor_that_may_not_listen_there_does_not_begin(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    said = Town(tmp_path).run("serve", *words, code=2)
    assert "the mayor runs" not in said
    assert "Traceback" not in said
    assert "→" in said or "go with" in said or "cannot be read" in said
