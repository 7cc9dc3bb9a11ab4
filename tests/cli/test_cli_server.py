"""The command line as a client of a server: one that lies, is cut, is silent, or is none."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hostilekit import EVIL

from outpost_core import errors, hookimpl
from outpost_core.discovery import PluginReport, Plugins
from outpost_core.types import Event, Order, State, Worker
from outpost_core.types import Result as End
from outpost_manager import jsonviews
from outpost_manager.cli.app import cli
from outpost_manager.cli.session import Session

MISSING = {"error": {"code": 4, "type": "NotFoundError", "message": "none", "hint": ""}}
RUNS = Worker(
    id="gt-1.1", issue="gt-1", attempt=1, outpost="vm", digest="d", state=State.WORKING,
    title=EVIL, detail=EVIL,
)  # fmt: skip
ENDED = Worker(
    id="gt-1.1", issue="gt-1", attempt=1, outpost="vm", digest="d", state=State.DONE,
    result=End(state=State.DONE), finished_at=2.0,
)  # fmt: skip


def shown(worker: Worker, order: Order | None = None) -> dict[str, Any]:
    """Return what a server says of a worker."""
    assert order is None
    return {"worker": jsonviews.worker(worker), "order": None, "attempts": [], "events": []}


class Server:
    """A server of tests: answers each path as it is told, and keeps what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                """Answer as the test has said."""
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                server.asked.append((self.command, self.path, dict(self.headers), body))
                path = self.path.partition("?")[0]
                say = server.answers.get(path, says(MISSING, 404))
                self.close_connection = True
                say(self)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 - names of the library

            def end_headers(self) -> None:
                """Say that the connection is closed, or another request may come on it."""
                self.send_header("Connection", "close")
                super().end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self._thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self.http.shutdown()
        self.http.server_close()
        self._thread.join()


def says(
    document: object, status: int = 200, **headers: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return what answers with a document, or with bytes as they are."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()

    def say(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return say


def in_turn(*each: Callable[[BaseHTTPRequestHandler], None]) -> Callable[..., None]:
    """Return what answers with one after the other, and then with the last."""
    left = [*each]

    def say(handler: BaseHTTPRequestHandler) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler)

    return say


def cut(body: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return what begins a long answer, and whose line is cut behind these bytes."""

    def say(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        handler.wfile.write(body)

    return say


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a server."""
    found = Server()
    yield found
    found.close()


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a home and a state folder of its own."""
    for name in ("OUTPOST_SERVER", "OUTPOST_TOKEN", "OUTPOST_TOKEN_FILE", "OUTPOST_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OUTPOST_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def run(*words: str, code: int = 0, at: Server | str | None = None) -> Result:
    """Run a command; demand its exit code."""
    url = at.url if isinstance(at, Server) else at
    more = [] if url is None else ["--server", url]
    found = CliRunner().invoke(cli, [*more, *words], obj=Session(), prog_name="outpost")
    assert found.exit_code == code, (found.exit_code, found.stdout, found.stderr)
    return found


def test_the_token_is_sent_to_the_server_and_nowhere_else(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Server()
    try:
        server.answers["/v1/outposts"] = says(b"", 302, Location=f"{other.url}/v1/outposts")
        monkeypatch.setenv("OUTPOST_TOKEN", "outpost_mine")
        # a proxy of the environment is not asked about this machine
        monkeypatch.setenv("HTTP_PROXY", other.url)
        monkeypatch.setenv("ALL_PROXY", other.url)
        (Path.home() / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
        found = run("list", at=server, code=5)
        assert "HTTP 302" in found.stderr
        assert [headers["Authorization"] for *_, headers, _ in server.asked] == [
            "Bearer outpost_mine"
        ]
        assert not other.asked
        assert "outpost_mine" not in found.output
    finally:
        other.close()


@pytest.mark.parametrize(
    "words",
    [("diff", "x"), ("doctor",), ("config", "show"), ("add", "local", "x"),
     ("demo",), ("plugins",), ("token", "list")],
)  # fmt: skip
def test_what_works_on_the_machine_alone_is_refused_before_anything(
    server: Server, words: tuple[str, ...], tmp_path: Path
) -> None:
    before = {*tmp_path.rglob("*")}
    found = run(*words, at=server, code=2)
    assert "works only on the machine itself" in found.stderr
    assert "--server ''" in found.stderr
    assert not server.asked
    assert {*tmp_path.rglob("*")} == before


def test_a_server_that_does_not_wait_as_it_was_asked_is_not_asked_all_the_time(
    server: Server,
) -> None:
    full = errors.PlacementError(EVIL, hint=EVIL)
    row = jsonviews.refused("t-1", full) | {"crowded": True}
    refused = {"spawned": [], "refused": [row], "hints": [EVIL]}
    last = {"spawned": [], "refused": [row | {"crowded": False}], "hints": []}
    server.answers["/v1/workers"] = in_turn(says(refused), says(refused), says(last))
    down = {"name": "vm", "state": "down", "detail": f"no quota{EVIL}"}
    server.answers["/v1/outposts"] = says({"outposts": [down]})
    began = time.monotonic()
    found = run("spawn", "t-1", "--no-rig", "--wait", "--", "true", at=server, code=3)
    assert time.monotonic() - began > 0.5  # two pauses
    assert "everything is full: t-1 waits" in found.stderr
    assert "\x1b" not in found.output
    assert found.stderr.count("vm could not be brought up: no quota") == 1
    assert len([path for _, path, *_ in server.asked if "/v1/workers" in path]) == 3


def test_a_terminal_does_not_go_through_a_server_and_it_says_where_to_go(server: Server) -> None:
    server.answers["/v1/workers/t-1"] = says(shown(RUNS))
    server.answers["/v1/mayor"] = says({"running": True, "host": "big.example.com"})
    found = run("attach", "t-1", at=server, code=2)
    assert f"ssh -t big.example.com 'outpost attach {RUNS.id}'" in found.stderr
    server.answers["/v1/mayor"] = says({"running": True, "host": "-oProxyCommand=evil"})
    found = run("attach", "t-1", at=server, code=2)
    assert "ProxyCommand" not in found.stderr
    assert "log in where the mayor runs, as the user who runs the mayor: outpost attach" in (
        found.stderr
    )


class Greets:
    """A package with a command of its own."""

    @hookimpl
    def outpost_commands(self) -> list[click.Command]:
        """Bring it."""
        return [click.Command("greet")]


def test_the_environment_names_a_server_until_something_says_otherwise(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OUTPOST_SERVER", server.url)
    server.answers["/v1/outposts"] = says({"outposts": [{"name": "far"}]})
    assert "far" in run("list").stdout
    assert "OUTPOST_SERVER names a server" in run("doctor", code=2).stderr
    asked = len(server.asked)
    for words in (("completion", "bash"), ("plugins",), ("backends",), ("plugin", "new", "--help"),
                  ("demo", "--help")):  # fmt: skip
        assert run(*words).stdout  # these are about this machine, whatever is asked otherwise
    assert "local" in run("list", at="").stdout
    for words, code in ((("greet", "--help"), 0), (("greet",), 2)):  # a command of a plugin
        plugins = Plugins.load([])
        plugins.add(Greets(), PluginReport(entry_point="greets"))
        found = CliRunner().invoke(cli, words, obj=Session(plugins), prog_name="outpost")
        assert found.exit_code == code, found.output
    assert "local" in run("list", "--state", str(tmp_path / "s")).stdout
    assert len(server.asked) == asked
    refused = run("list", "--state", str(tmp_path / "s"), at=server, code=2)
    assert "--state is about this machine" in refused.stderr


def test_what_is_said_far_away_controls_no_terminal(server: Server) -> None:
    view = {"name": EVIL, "type": EVIL, "state": EVIL, "detail": EVIL, "hint": EVIL}
    server.answers["/v1/outposts"] = says({"outposts": [view]})
    server.answers["/v1/workers"] = says({"workers": [jsonviews.worker(RUNS)], "not_told": [
        {"outpost": EVIL, "message": EVIL, "hint": EVIL}]})  # fmt: skip
    server.answers["/v1/workers/gt-1"] = says(shown(RUNS))
    error = {"error": {"code": 2, "type": "UsageError", "message": EVIL, "hint": EVIL}}
    server.answers["/v1/accounts"] = says(error, 400)
    for words, code in ((["list"], 0), (["workers"], 0), (["show", "gt-1"], 0), (["accounts"], 2)):
        found = run(*words, at=server, code=code)
        seen = found.output.replace("\n", "").replace("\t", "")
        assert all(c.isprintable() for c in seen), (words, found.output)


@pytest.mark.parametrize(
    "answer",
    [
        says(b"<html>hello</html>"),
        says([]),
        says({"outposts": 7}),
        says({"outposts": [{"name": 7}]}),
        says({"outposts": [{"since": "yesterday"}]}),
        says(b'{"outposts": [' + b"[" * 50_000),
        says(b'{"outposts": NaN}'),
        says(b"oops", 500),
        says(b"", 204),
        cut(b'{"outposts"'),
    ],
)
def test_an_answer_that_makes_no_sense_is_said_to_be_the_servers(
    server: Server, answer: Callable[..., None]
) -> None:
    server.answers["/v1/outposts"] = answer
    found = run("list", "--json", at=server, code=5)
    error = json.loads(found.stdout)["error"]
    assert server.url in error["message"]
    assert error["type"] == "UnreachableError"
    assert error["hint"]


def test_an_answer_without_an_end_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from outpost_manager.remote import client

    monkeypatch.setattr(client, "_LARGEST", 100_000)
    server.answers["/v1/outposts"] = cut(b" " * 200_000)
    assert "more than 100000 bytes" in run("list", at=server, code=5).stderr


def test_nobody_there_and_silence_say_what_to_do(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = run("list", at=f"http://127.0.0.1:{port}", code=5)
    assert "cannot be reached" in found.stderr
    assert "outpost serve" in found.stderr
    assert str(tmp_path / "no.sock") in run("list", at=f"unix:{tmp_path}/no.sock", code=5).stderr

    done = threading.Event()
    server.answers["/v1/workers/gt-1/stop"] = lambda _: done.wait(60) and None
    from outpost_manager.remote.client import Client

    stream = Client.stream

    def impatient(self: Client, *words: Any, **more: Any) -> Any:
        return stream(self, *words, **more | {"silence": 0.3})

    monkeypatch.setattr(Client, "stream", impatient)
    try:
        found = run("stop", "gt-1", at=server, code=5)
    finally:
        done.set()
    assert "may have been done all the same" in found.stderr


def test_a_log_goes_on_at_its_byte_when_the_line_was_cut(server: Server) -> None:
    one, two = b"\x00\xffline 1\n" * 1000, b"line 2\n"

    def log(handler: BaseHTTPRequestHandler) -> None:
        offset = int(handler.path.partition("offset=")[2].partition("&")[0])
        rest = (one + two)[offset:]
        (cut(rest[: len(one)]) if offset < len(one) else says(rest))(handler)

    server.answers["/v1/workers/gt-1"] = says(shown(RUNS))
    server.answers["/v1/workers/worker:gt-1.1/logs"] = log
    # as long as it runs, a log that has ended is none: its mayor may have ended
    server.answers["/v1/workers/worker:gt-1.1"] = in_turn(
        says(shown(RUNS)), says(shown(RUNS)), says(shown(RUNS)), says(shown(ENDED))
    )
    found = run("logs", "-f", "gt-1", at=server)
    assert found.stdout_bytes == one + two
    assert "still trying" in found.stderr
    offsets = [path for _, path, *_ in server.asked if "/logs" in path]
    assert "offset=0" in offsets[0]
    assert f"offset={len(one)}" in offsets[1]


def test_what_was_asked_on_a_connection_that_was_just_closed_is_asked_again(server: Server) -> None:
    def closes(_: BaseHTTPRequestHandler) -> None:
        """Say nothing: the connection is closed."""

    server.answers["/v1/outposts"] = in_turn(closes, says({"outposts": [{"name": "far"}]}))
    assert "far" in run("list", at=server).stdout
    assert len(server.asked) == 2
    server.answers["/v1/workers"] = closes  # what changes something is not repeated
    run("spawn", "t-1", "--no-rig", "--", "true", at=server, code=5)
    assert len(server.asked) == 3


def test_a_stream_of_events_goes_on_behind_the_last_one(server: Server) -> None:
    def line(number: int) -> bytes:
        event = Event(kind="state", at=1.0, worker="gt-1.1", outpost="vm", id=number)
        return f"id: {number}\ndata: {json.dumps(jsonviews.event(event))}\n\n".encode()

    streams = in_turn(
        cut(b"id: 6\n: the log\n\n: alive\n\n" + line(7) + line(8)[:30]),
        says(b"", 503),
        cut(line(7) + line(8)),  # what was told is told once
        says({"error": {"code": 2, "type": "UsageError", "message": "enough", "hint": ""}}, 400),
    )

    def events(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers["accept"] == "text/event-stream":
            return streams(handler)
        return says({"events": [], "last": 6})(handler)

    server.answers["/v1/events"] = events
    found = run("events", "-f", "--json", at=server, code=2)
    ids = [json.loads(line).get("id") for line in found.stdout.splitlines() if '"kind"' in line]
    assert ids == [7, 8]
    after = [path for _, path, headers, _ in server.asked if "event-stream" in headers["Accept"]]
    assert ["after=6" in after[0], *("after=7" in path for path in after[1:3])] == [True] * 3


def test_a_wait_outlasts_a_server_that_is_away_for_a_while(server: Server) -> None:
    server.answers["/v1/workers/gt-1"] = says(shown(RUNS))
    server.answers["/v1/workers/worker:gt-1.1"] = says(shown(RUNS))
    server.answers["/v1/workers/worker:gt-1.1/wait"] = in_turn(
        says({"workers": [jsonviews.worker(RUNS)]}),
        cut(b"{"),
        says(b"", 502),
        says({"workers": [jsonviews.worker(ENDED)]}),
    )
    assert "done" in run("wait", "gt-1", at=server).stdout


def test_what_is_named_here_is_read_here(server: Server, tmp_path: Path) -> None:
    server.answers["/v1/queue"] = says({"queued": [], "there": []})
    (tmp_path / "prompt.md").write_text("do\nit")
    (tmp_path / "issues.txt").write_text('a-1\n{"issue": "a-2", "priority": 0}\n')
    run("queue", "add", "--from-file", "issues.txt", "--prompt-file", "prompt.md", "--rig",
        "https://git.example/a.git", "--timeout", "5m", "--secret", "KEY", "--on", "vm",
        "--after", "z-1", "--batch", "b", "--not-before", "2026-01-31T08:00:00+00:00",
        "--", "make", "x", at=server)  # fmt: skip
    (said,) = [json.loads(body) for method, *_, body in server.asked if method == "POST"]
    one = {"prompt": "do\nit", "rig": "https://git.example/a.git", "timeout": 300.0,
           "secrets": ["KEY"], "command": ["make", "x"]}  # fmt: skip
    assert said == {
        "requests": [{"issue": "a-1"} | one, {"issue": "a-2", "priority": 0} | one],
        "on": "vm", "batch": "b", "after": ["z-1"], "retries": 0,
        "not_before": "2026-01-31T08:00:00+00:00",
    }  # fmt: skip


def test_a_repository_that_the_server_does_not_see_is_refused(
    server: Server, tmp_path: Path
) -> None:
    import subprocess

    subprocess.run(["git", "init", "-q", str(tmp_path / "app")], check=True)
    for words in (["--rig", "app"], ["--rig", "https://me:pw@git.example/a.git"]):
        found = run("queue", "add", "a-1", *words, "--", "true", at=server, code=2)
        assert "pw@" not in found.stderr
        assert "--rig URL" in found.stderr
    assert not server.asked
