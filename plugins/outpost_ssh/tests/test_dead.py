"""Hosts that are not there, many at once: each is told by its own cause, none holds up another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostkit import home, options, reached, remote, server
from peers.sshd import Sshd

from outpost_core.errors import UnreachableError
from outpost_manager.config.model import Defaults
from outpost_manager.manager import Manager
from outpost_ssh.options import CONNECT_TIMEOUT

__all__ = ["home", "server"]


@contextlib.contextmanager
def deaf(host: str) -> Iterator[int]:
    """A port whose queue of connections is full: what is sent to it gets no answer."""
    with contextlib.ExitStack() as stack:
        door = stack.enter_context(socket.create_server((host, 0), backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(door.getsockname())
        yield door.getsockname()[1]


def test_twenty_dead_hosts_are_told_by_their_cause_and_do_not_wait_for_each_other(
    tmp_path: Path,
) -> None:
    path = tmp_path / "outposts.yaml"

    async def work() -> None:
        async with Manager.open(config=path, state=tmp_path / "state") as manager:
            for error in (await manager.ping()).values():
                assert isinstance(error, UnreachableError)
                assert "no answer from" in error.message
                assert "within 1s" in error.message

    with contextlib.ExitStack() as stack:
        ports = {n: stack.enter_context(deaf(f"127.0.1.{n}")) for n in range(1, 21)}
        entries = [
            {"name": f"d{n}", "type": "ssh", "host": f"127.0.1.{n}", "port": port,
             "user": "somebody", "config": os.devnull, "connect_timeout": "1s"}
            for n, port in ports.items()  # two of them may be the same number
        ]  # fmt: skip
        # one after the other they would take twenty seconds
        path.write_text(json.dumps({"outposts": entries, "defaults": {"answer_timeout": "15s"}}))
        asyncio.run(work())


def test_what_the_line_says_of_a_dead_host_comes_before_the_manager_gives_up() -> None:
    assert Defaults().answer_timeout >= CONNECT_TIMEOUT + 1


def test_names_that_are_not_answered_for_hold_up_neither_other_hosts_nor_the_end(
    server: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    real = socket.getaddrinfo

    def lookup(host: str, *args: object, **more: object) -> object:
        if host.endswith(".invalid"):  # as where no name server answers
            over.wait(60)
        return real(host, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)

    async def work() -> None:
        lost = [remote(options(server, host=f"h{n}.invalid")) for n in range(64)]
        tasks = [asyncio.create_task(each.connection()) for each in lost]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(10), reached(options(server)) as made:
            await made.connection()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *(each.aclose() for each in lost), return_exceptions=True)

    try:
        asyncio.run(work())
        assert not over.is_set()
    finally:
        over.set()
