"""The container's program as a process of this machine, and callers of it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from outpost_core import wire
from outpost_core.types import Agent, Delivery, Issue, Limits, Order
from outpost_testing.gitrig import GitRig

#: Seconds until what has to come is taken for missing.
PATIENCE = 60.0
OWNER = "0123456789abcdef"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Far:
    """One process of `python -m outpost_cloudrun.server`.

    Args:
        folder: `root` is its state folder, `home` its home.
        env: further variables.
        port: to listen at; 0 for a free one.
    """

    def __init__(self, folder: Path, port: int = 0, **env: str) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "home").mkdir(parents=True, exist_ok=True)
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        self.env = {
            **kept,
            "HOME": str(folder / "home"),
            "PORT": str(self.port),
            "OUTPOST_ROOT": str(self.root),
            "OUTPOST_SINGLE_INSTANCE": "1",
            **env,
        }
        self.errors = folder / f"stderr.{self.port}"
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "outpost_cloudrun.server"],
                env=self.env, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
            )  # fmt: skip

    def wait(self) -> Far:
        """Wait until it answers."""
        deadline = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, self.said()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return self
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def said(self) -> str:
        return self.errors.read_text()

    def kill(self, number: int = signal.SIGKILL) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, http1=False, http2=True, timeout=httpx.Timeout(PATIENCE), **more
        )


def supervisors(root: Path) -> list[int]:
    """The processes that belong to a state folder: what a test must not leave behind."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            if str(root).encode() in (entry / "cmdline").read_bytes() and pid != os.getpid():
                found.append(pid)
    return found


@contextlib.contextmanager
def far(folder: Path, **env: str) -> Iterator[Far]:
    """A server that answers; it and all its workers are gone afterwards."""
    one = Far(folder, **env)
    try:
        yield one.wait()
    finally:
        one.kill()
        end_workers(one.root)


def end_workers(root: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while found := supervisors(root):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def order(issue: str, script: str, rig: str | None = None, **more: Any) -> Order:
    """An order whose agent is a shell script."""
    limits = {name: more.pop(name) for name in [*more] if name in Limits.__dataclass_fields__}
    delivery = None
    if rig is not None:
        delivery = Delivery(branch=f"outpost/{issue}", message=f"{issue}: a title")
    return Order(
        issue=Issue(id=issue),
        agent=Agent(argv=("/bin/sh", "-c", script)),
        rig=rig,
        delivery=delivery,
        limits=Limits(**limits),
        **more,
    )


def body(one: Order, **more: Any) -> dict[str, Any]:
    """The body of a POST for an order."""
    secrets = {name: one.secrets[name] for name in one.secrets}
    return {
        "issue_id": one.issue.id,
        "rig_url": one.rig,
        "beads_url": None,
        "context": dict(one.context),
        "order": wire.to_json(one),
        "secrets": secrets,
        "digest": wire.digest(one),
        **more,
    }


def lines(response: httpx.Response) -> Iterator[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    for line in response.iter_lines():
        yield json.loads(line)


def post(client: httpx.Client, said: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """All lines of a POST."""
    with client.stream("POST", "/work", json=said, **more) as response:
        if response.status_code != 200:
            response.read()
            raise AssertionError(f"{response.status_code}: {response.text}")
        return [*lines(response)]


def log_of(told: list[dict[str, Any]], offset: int = 0) -> bytes:
    """The bytes of the log that lines tell, which have to follow each other."""
    log = b""
    for line in told:
        assert line["offset"] == offset + len(log), line
        data = base64.b64decode(line["data"]) if "data" in line else line["logs"].encode()
        if "data" in line:
            assert line["logs"] == data.decode("utf-8", "replace")
        log += data
    return log


class Fleet:
    """Instances of one service, each with a state folder of its own."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._count = 0

    def __call__(self, folder: Path | None = None, **env: str) -> Far:
        self._count += 1
        where = folder or self.folder / f"instance{self._count}"
        one = Far(
            where,
            **{"OUTPOST_SINGLE_INSTANCE": "", "OUTPOST_BEAT": "0.5", "OUTPOST_LOOK": "0.2", **env},
        )
        self._stack.callback(end_workers, one.root)
        self._stack.callback(one.kill)
        return one.wait()


def work(rig: GitRig, script: str, issue: str = "r-1", url: str = "", **more: Any) -> Order:
    """An order that leaves one commit, and a line in `ran` each time that it begins."""
    ran = rig.folder / "ran"
    whole = f"echo begun >> {ran}; {script}"
    return order(issue, whole, url or f"file://{rig.path}", owner=OWNER, **more)


def runs(rig: GitRig) -> int:
    ran = rig.folder / "ran"
    return len(ran.read_text().splitlines()) if ran.exists() else 0


def commit(text: str) -> str:
    """Shell that commits one file."""
    who = "git -c user.name=a -c user.email=a@a"
    return f"echo {text} > {text}.txt; git add -A; {who} commit -qm x"


def until(what: Callable[[], object], said: object = "") -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
