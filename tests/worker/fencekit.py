"""A home with secrets and a user who runs fenced workers there."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import farcode

from outpost_core.types import Agent, Issue, Order
from outpost_shared import process
from outpost_worker.folder import files, publish

#: A user without any right; it needs a Python that everybody can execute.
NOBODY = 65534
SYSTEM_PYTHON = "/usr/bin/python3"


class Yard:
    """A home with secrets, a state root in it, and a user who runs workers there."""

    def __init__(self, place: Path, uid: int, way: str) -> None:
        self.uid, self.way = uid, way
        self.home = place / "home"
        self.root = self.home / ".local/state/outpost"
        for folder in (".ssh", ".aws", ".config", ".claude", "bin"):
            (self.home / folder).mkdir(parents=True)
        self.secrets = [self.home / ".ssh/id_ed25519", self.home / ".aws/credentials"]
        for path in (*self.secrets, self.home / ".netrc"):
            path.write_text("of the user\n")
        for name in (".bashrc", ".gitconfig", ".claude/settings.json"):
            (self.home / name).write_text("")
        self.env = {"PATH": f"{self.home}/bin:/usr/bin:/bin", "HOME": str(self.home)}
        self.argv: list[str] = []
        self.boot = farcode.install(place / "code")
        self.python = sys.executable
        if uid != os.getuid():
            self.python = SYSTEM_PYTHON
            self.argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            for path in (place, *place.rglob("*")):
                os.lchown(path, uid, uid)
        self._count = 0

    def publish(self, script: str, **more: Any) -> Path:
        self._count += 1
        agent = Agent(argv=("/bin/sh", "-c", script), interactive=more.pop("interactive", False))
        order = Order(issue=Issue(id=f"f-{self._count}"), agent=agent, **more)
        return self.publish_order(order)

    def publish_order(self, order: Order, **settings: Any) -> Path:
        fence = {"mode": "required", "only": [self.way], **settings}
        with self.user():
            return publish.publish(self.root, order, self.env, fence=fence)[0]

    @contextlib.contextmanager
    def user(self) -> Iterator[None]:
        """Be the one to whom all of it belongs."""
        mine = os.geteuid(), os.getegid()
        os.setegid(self.uid or mine[1])
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(mine[0])
            os.setegid(mine[1])

    def state(self, folder: Path) -> dict[str, Any]:
        """Return what the supervisor says of itself; empty before it says anything."""
        with self.user():
            return files.load(str(folder), files.STATE) or {}

    @contextlib.contextmanager
    def running(self, script: str) -> Iterator[tuple[subprocess.Popen[bytes], Path, int, int]]:
        """Run an agent; yields its supervisor, its folder, its process and that one's parent."""
        folder = self.publish(script)
        supervisor = self.start(folder)
        try:
            agent = wait(lambda: self.state(folder).get("agent"))["pid"]
            first = process.look(agent)
            assert first is not None
            yield supervisor, folder, agent, first.parent
        finally:
            supervisor.kill()
            supervisor.wait()

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        argv = [*self.argv, self.python, "-I", "-S", str(self.boot), "run", str(folder)]
        return subprocess.Popen(
            argv, env=self.env, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, script: str, **more: Any) -> tuple[dict[str, Any], str, Path]:
        """Run a script as an agent; returns its result, what it printed, and its folder."""
        folder = self.publish(script, **more)
        assert self.start(folder).wait(60) in (0, 1)
        result = json.loads((folder / files.RESULT).read_bytes().partition(b"\n")[0])
        return result, (folder / files.LOG).read_text(errors="replace"), folder


def wait(true: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
    return value
