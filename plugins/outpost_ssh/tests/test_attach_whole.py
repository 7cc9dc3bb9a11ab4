"""`outpost attach`, from the command line to an agent in tmux behind a real sshd."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nearkit import AGENT, DEADLINE, Near
from peers.relay import Relay
from peers.sshd import Sshd, sshd

from outpost_core.types import Agent, Issue, Order, State
from outpost_manager.manager import Manager

OUTPOST = str(Path(sys.executable).with_name("outpost"))


class Desk:
    """A command line, and one worker at an SSH outpost behind a relay."""

    def __init__(self, folder: Path, server: Sshd, relay: Relay) -> None:
        self.server = server
        self.relay = relay
        self.config = folder / "outposts.yaml"
        self.state_dir = folder / "state"
        self.config.write_text(
            f"outposts:\n  - {{name: vm1, type: ssh, host: {relay.host}, port: {relay.port},"
            f" user: {server.user}, ssh_key: {server.key}, host_key: {server.host_key!r},"
            f" python: {sys.executable}, config: {os.devnull}, keepalive: 0.2s}}\n"
        )
        self.near: list[Near] = []
        agent = Agent(argv=(sys.executable, "-I", "-S", "-c", AGENT), interactive=True)
        self.ask(lambda m: m.spawn(Order(issue=Issue(id="gt-1"), agent=agent)))

    def ask(self, work: Callable) -> object:
        async def run():
            async with Manager.open(config=self.config, state=self.state_dir) as manager:
                return await work(manager)

        return asyncio.run(run())

    def state(self) -> State:
        return self.ask(lambda m: m.worker("gt-1")).state

    def attach(self, **env: str) -> Near:
        words = [OUTPOST, "--config", str(self.config), "--state", str(self.state_dir)]
        environ = {name: value for name, value in os.environ.items() if name != "TMUX"}
        environ |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | env
        self.near.append(Near([*words, "attach", "gt-1"], environ, 90, 30))
        return self.near[-1]

    def close(self) -> None:
        for near in self.near:
            near.close()
        self.relay.release()
        if self.server.pid is None:
            self.server.start()
        self.ask(lambda m: m.stop("gt-1", 1))
        deadline = time.monotonic() + DEADLINE
        while not self.state().terminal:
            assert time.monotonic() < deadline


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with sshd(tmp_path / "sshd") as server, Relay(server.host, server.port) as relay:
        one = Desk(tmp_path, server, relay)
        yield one
        one.close()


def test_attach_over_ssh_looks_types_and_leaves(desk):
    near = desk.attach()
    near.until(b"ready")
    near.type(b"\x03")
    near.until(b"[03]")
    near.resize(100, 40)
    near.until(b"<100x39>")
    near.type(b"\x02d")
    assert near.end() == 0
    assert b"gt-1.1 keeps running" in near.seen
    assert near.as_before()
    assert desk.state() in (State.WORKING, State.IDLE)


def test_a_line_that_dies_without_a_word_gives_the_terminal_back(desk):
    near = desk.attach()
    near.until(b"ready")
    desk.relay.hold()
    assert near.end() == 5
    assert b"\x1b[?1049l" in near.seen
    assert b"gt-1.1 keeps running" in near.seen
    assert near.as_before()
    desk.relay.release()
    desk.relay.cut()
    assert desk.state() in (State.WORKING, State.IDLE)


def test_a_killed_sshd_ends_the_look_and_not_the_work(desk):
    near = desk.attach()
    near.until(b"ready")
    desk.server.kill(sessions=False)  # whom it would kill first, the viewer or its sshd, is chance
    desk.relay.cut()
    assert near.end() == 5
    assert b"outpost attach gt-1.1" in near.seen
    assert near.as_before()
    desk.server.start()
    again = desk.attach()
    again.until(b"ready")
    again.type(b"y")
    again.until(b"[79]")


def test_a_worker_that_ended_is_told_so(desk):
    near = desk.attach()
    near.until(b"ready")
    near.type(b"q")
    assert near.end() == 0
    assert b"gt-1.1" in near.seen
    deadline = time.monotonic() + DEADLINE
    while not desk.state().terminal:
        assert time.monotonic() < deadline
    late = desk.attach()
    assert late.end() == 2
    assert b"has ended" in late.seen
    assert late.as_before()
