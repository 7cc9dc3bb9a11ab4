"""For the tests of faults: machines in namespaces, lines to them, and managers that use them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from peers.netlab import NETWORK, Host, Lab, lab
from peers.relay import Relay

from outpost_core.types import Agent, Issue, Order, State, Worker
from outpost_manager.manager import Manager

#: Seconds after which something that should happen has not.
DEADLINE = 90.0


class World:
    """Hosts, a state and a configuration of this side, and what the workers there have done.

    Args:
        folder: for everything.
        net: the hosts.
    """

    def __init__(self, folder: Path, net: Lab) -> None:
        self.folder = folder
        self.net = net
        self.marks = folder / "marks"
        self.marks.mkdir()
        self.home = folder / "home"
        self.home.mkdir()
        self._stack = contextlib.ExitStack()

    # --- this side ----------------------------------------------------------------------------

    def entry(self, host: Host, via: Relay | None = None, **more: Any) -> dict[str, Any]:
        """Return an outpost's entry in the configuration: patient with nothing, for tests."""
        at = host.sshd if via is None else via
        return {
            "name": host.name, "type": "ssh", "host": at.host, "port": at.port,
            "user": host.sshd.user, "ssh_key": str(host.sshd.key), "host_key": host.sshd.host_key,
            "keepalive": "500ms", "connect_timeout": "5s", "disk_floor": 0, **more,
        }  # fmt: skip

    def relay(self, host: Host, **more: Any) -> Relay:
        """Return a line to a host that can be made bad."""
        return self._stack.enter_context(Relay(host.address, 22, **more))

    def config(
        self, *entries: Mapping[str, Any], defaults: Mapping[str, Any] | None = None,
        name: str = "outposts",
    ) -> Path:  # fmt: skip
        """Write a configuration with these outposts; they are preferred in their order."""
        file = self.folder / f"{name}.yaml"
        said = {"answer_timeout": "12s", "spawn_timeout": "40s", "grace": "1s", **(defaults or {})}
        file.write_text(json.dumps({"outposts": entries, "defaults": said}))
        return file

    def manager(
        self, *entries: Mapping[str, Any], state: str = "state", **defaults: Any
    ) -> Manager:
        """Return a manager; another one on the same state is another program."""
        config = self.config(*entries, defaults=defaults, name=f"outposts-{state}")
        return Manager.open(
            config=config, state=self.folder / state, environ=self.environ(), cwd=self.folder
        )

    def environ(self) -> dict[str, str]:
        """Return an environment with nothing of who runs the tests."""
        return {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "OUTPOST_KEEP": "0",
        }

    @property
    def outpost(self) -> Path:
        """The command line's program."""
        return Path(sys.executable).with_name("outpost")

    def cli(self, *args: str, state: str = "state") -> subprocess.CompletedProcess[str]:
        """Run the command line on the configuration of `manager`."""
        return subprocess.run(
            [str(self.outpost), *args],
            env={
                **self.environ(),
                "OUTPOST_CONFIG": str(self.folder / f"outposts-{state}.yaml"),
                "OUTPOST_STATE": str(self.folder / state),
            },
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

    def serve(self, repository: Path) -> str:
        """Serve a repository to the hosts, also to push to; return its URL."""
        daemon = subprocess.Popen(
            [
                *("git", "daemon", "--export-all", "--enable=receive-pack", "--reuseaddr"),
                *(f"--listen={NETWORK}.1", f"--base-path={repository.parent}"),
                *("--log-destination=none", str(repository.parent)),
            ],
            stdin=subprocess.DEVNULL,
        )

        def end() -> None:
            daemon.terminate()
            daemon.wait()

        self._stack.callback(end)
        return f"git://{NETWORK}.1/{repository.name}"

    # --- workers ------------------------------------------------------------------------------

    def order(self, issue: str, script: str = "", **more: Any) -> Order:
        """Return an order for a shell script; that it ran is marked first, each time."""
        text = f"echo ran >> {self.marks / issue}\n{script}"
        return Order(issue=Issue(id=issue), agent=Agent(argv=("/bin/sh", "-c", text)), **more)

    def ran(self, issue: str) -> int:
        """Return how often an issue's script was started, on any host."""
        with contextlib.suppress(FileNotFoundError):
            return (self.marks / issue).read_text().count("ran\n")
        return 0

    @property
    def go(self) -> Path:
        """What `waiting` scripts wait for."""
        return self.folder / "go"

    def waiting(self, then: str = "") -> str:
        """Return a script that waits until the test lets it continue, with `go.touch()`."""
        return f"while [ ! -e {self.go} ]; do sleep 0.1; done\n{then}"

    # --- the end ------------------------------------------------------------------------------

    def left(self) -> dict[str, dict[int, str]]:
        """Return what runs on the hosts, without the hosts where nothing does."""
        found = {host.name: host.processes() for host in self.net.hosts.values()}
        return {name: there for name, there in found.items() if there}

    def check(self) -> None:
        """Let the lines be well and the workers end; nothing may be left on any host then."""
        self.go.touch()
        self.close()
        for host in self.net.hosts.values():
            with contextlib.suppress(Exception):  # one that a test switched off
                host.restore()
                host.undrop()
        deadline = time.monotonic() + DEADLINE
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, f"left running: {left}"

    def close(self) -> None:
        """End the lines and the servers of this side."""
        self._stack.close()


@contextlib.contextmanager
def world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world that is there within the `with` block, with a home that nobody has used."""
    with lab(folder / "lab") as net:
        made = World(folder, net)
        monkeypatch.setenv("HOME", str(made.home))
        for name in ("SSH_AUTH_SOCK", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        try:
            yield made
            made.check()
        finally:
            made.close()


async def until(true: Callable[[], Awaitable[bool] | bool], what: str = "") -> None:
    """Wait until something is true; fail at a deadline."""
    deadline = time.monotonic() + DEADLINE
    while True:
        answer = true()
        if await answer if not isinstance(answer, bool) else answer:
            return
        assert time.monotonic() < deadline, what or "it did not become true"
        await asyncio.sleep(0.05)


async def ended(manager: Manager, *ids: str) -> list[Worker]:
    """Wait for the ends of workers; fail at a deadline."""
    workers = await manager.wait(ids, timeout=DEADLINE)
    assert all(worker.state.terminal for worker in workers), workers
    return workers


async def working(manager: Manager, *ids: str) -> list[Worker]:
    """Wait until workers work; fail at a deadline."""
    found: list[Worker] = []

    async def all_do() -> bool:
        nonlocal found
        found = [await manager.worker(id_) for id_ in ids]
        return all(worker.state is State.WORKING for worker in found)

    await until(all_do, f"{ids} do not work")
    return found


async def read(manager: Manager, ref: str, *, follow: bool = False, offset: int = 0) -> bytes:
    """Return a worker's whole output."""
    return b"".join([chunk async for chunk in manager.logs(ref, offset, follow)])
