"""A rig behind a password: it reaches git wherever it is needed, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from outpost_agents.presets import PRESETS
from outpost_core import wire
from outpost_core.types import Order, Result, State
from outpost_manager.config.model import Defaults
from outpost_manager.orders.making import OrderRequest, Surroundings, make_order
from outpost_shared import programs
from outpost_worker.folder import files, publish
from outpost_worker.recovery import cleaning, recover

USER, PASSWORD = "me", "pass-w0rd-canary"


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)
    return done.stdout.decode().strip()


class Handler(BaseHTTPRequestHandler):
    """`git http-backend` behind basic authentication."""

    protocol_version = "HTTP/1.1"
    root = ""

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.serve(b"")

    def do_POST(self) -> None:
        self.serve(self.rfile.read(int(self.headers["Content-Length"])))

    def serve(self, body: bytes) -> None:
        word = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {word}":
            self.answer(b"401", {"WWW-Authenticate": 'Basic realm="rig"'}, b"")
            return
        path, _, query = self.path.partition("?")
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": self.root,
            "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": USER,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], env=env, input=body, capture_output=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        self.answer(lines.pop("Status", "200").encode(), lines, content)

    def answer(self, code: bytes, headers: dict[str, str], content: bytes) -> None:
        self.send_response(int(code.split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Rig:
    """A repository behind a password, and orders for it.

    Args:
        path: the repository.
        url: with user and password.
        root: where workers live.
    """

    def __init__(self, path: Path, url: str, root: Path) -> None:
        self.path, self.url, self.root = path, url, root

    def run(self, script: str, fault: str = "", fence: str = "auto") -> tuple[Order, Path]:
        """Run a script as an agent, and return its order and folder."""
        around = Surroundings(
            defaults=Defaults(grace=0.5),
            presets=PRESETS,
            find_issue=lambda issue, rig: None,
            environ={},
            cwd=self.root,
            attempt=1,
        )
        request = OrderRequest(issue="gt-1", rig=self.url, command=("sh", "-c", script))
        order = make_order(request, around)
        env = programs.base_env(os.environ) | {"GIT_CONFIG_GLOBAL": "/dev/null"}
        folder, _ = publish.publish(self.root, order, env, fence={"mode": fence})
        environ = env | ({"OUTPOST_FAULT": fault} if fault else {})
        subprocess.run(publish.command(folder), env=environ, timeout=60, check=False)
        return order, folder

    def refs(self) -> dict[str, str]:
        """Return the rig's refs and their commits."""
        lines = git(self.path, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return dict(line.split(" ") for line in lines)

    def without_password(self, folder: Path) -> None:
        """Demand that the password is in the one file that git needs, and nowhere else."""
        for file in (f for f in self.root.rglob("*") if f.is_file()):
            if file != folder / files.CREDENTIALS:
                assert PASSWORD.encode() not in file.read_bytes(), file
        if folder.exists():
            assert (folder / files.CREDENTIALS).stat().st_mode & 0o777 == 0o600


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    path = tmp_path / "served" / "x.git"
    path.mkdir(parents=True)
    git(path, "init", "-q", "--bare", "-b", "main")
    seed = tmp_path / "seed"
    git(tmp_path, "clone", "-q", str(path), str(seed))
    who = ("-c", "user.name=x", "-c", "user.email=x@x")
    git(seed, *who, "commit", "-q", "--allow-empty", "-m", "begin")
    git(seed, "push", "-q", "origin", "HEAD:main")
    handler = type("Bound", (Handler,), {"root": str(path.parent)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://{USER}:{PASSWORD}@127.0.0.1:{server.server_port}/x.git"
    (tmp_path / "root").mkdir()
    yield Rig(path, url, tmp_path / "root")
    server.shutdown()
    thread.join()
    server.server_close()


def result_of(folder: Path) -> Result:
    data = files.load(str(folder), files.RESULT)
    assert data is not None
    return wire.from_json(Result, data)


def test_work_is_fetched_and_delivered_and_the_agent_is_not_told(rig: Rig) -> None:
    order, folder = rig.run(
        "env > env.txt; echo $OUTPOST_RIG_CREDENTIAL; cat /proc/$PPID/environ; true"
    )
    assert PASSWORD not in wire.dumps(order)
    result = result_of(folder)
    assert (result.state, result.branch) == (State.DONE, "outpost/gt-1"), result.message
    assert rig.refs()["refs/heads/outpost/gt-1"] == result.commit
    env = git(rig.path, "show", "outpost/gt-1:env.txt")
    assert "OUTPOST_WORKER=" in env
    assert "CREDENTIAL" not in env
    rig.without_password(folder)


def test_what_an_agent_prints_of_it_is_masked(rig: Rig) -> None:
    _, folder = rig.run("cat ../git-credentials", fence="off")  # behind one it is out of reach
    assert b"***" in (folder / files.LOG).read_bytes()
    rig.without_password(folder)


def test_unfinished_work_is_rescued_to_the_rig(rig: Rig) -> None:
    _, folder = rig.run("echo half > half.txt; exit 1")
    result = result_of(folder)
    assert (result.state, result.checkpoint) == (State.FAILED, "refs/outpost/gt-1.1")
    assert "refs/outpost/gt-1.1" in rig.refs()
    rig.without_password(folder)


@pytest.mark.parametrize(
    ("fault", "state"), [("worker.agent_started", State.LOST), ("worker.agent_ended", State.DONE)]
)
def test_a_recovery_can_push(rig: Rig, fault: str, state: State) -> None:
    _, folder = rig.run("echo some > some.txt", fault)
    result = recover.recover(folder)
    assert result.state is state, result.message
    if state is State.DONE:
        assert rig.refs()["refs/heads/outpost/gt-1"] == result.commit
    rig.without_password(folder)


def test_a_clean_can_push_and_takes_the_password_along(rig: Rig) -> None:
    _, folder = rig.run("echo first > a.txt")
    (folder / files.WORK / "later.txt").write_text("left behind")
    cleaned = asyncio.run(asyncio.to_thread(cleaning.clean, rig.root, folder, force=False))
    assert (cleaned.removed, cleaned.rescued) == (True, "refs/outpost/gt-1.1")
    assert "refs/outpost/gt-1.1" in rig.refs()
    rig.without_password(folder)
    assert not folder.exists()
