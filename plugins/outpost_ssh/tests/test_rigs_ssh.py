"""Rigs of this machine over a real sshd, end to end."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from peers.sshd import Sshd, sshd

from outpost_core.backend import BuildContext
from outpost_core.errors import UnreachableError
from outpost_core.types import Agent, Delivery, Issue, Limits, Order, State, WorkerStatus
from outpost_local.options import Mode
from outpost_ssh.options import SshOptions
from outpost_ssh.outpost import SshOutpost
from outpost_testing.gitrig import GitRig

DEADLINE = 60.0


class Pair:
    """A host with an sshd, and a machine with a repository that uses it.

    Args:
        server: the sshd.
        folder: where this side keeps things.
    """

    def __init__(self, server: Sshd, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.workers = server.home / ".local/state/outpost/far/workers"
        (folder / "here").mkdir()
        self.rig = GitRig(folder / "here")
        self.opened: list[SshOutpost] = []

    def open(self) -> SshOutpost:
        options = SshOptions(
            host=self.server.host,
            port=self.server.port,
            user=self.server.user,
            ssh_key=self.server.key,
            known_hosts=self.server.known_hosts,
            config=Path(os.devnull),
            python=sys.executable,
            mode=Mode.PROCESS,
            connect_timeout=20.0,
        )
        context = BuildContext(state_dir=self.folder / "near")
        self.opened.append(SshOutpost("vm1", options, context))
        return self.opened[-1]

    def order(self, script: str, **more: Any) -> Order:
        return Order(
            issue=Issue(id="gt-1"),
            agent=Agent(argv=("sh", "-c", script)),
            rig=more.pop("rig", str(self.rig.path)),
            delivery=Delivery(branch="polecat/gt-1", message="gt-1: work"),
            limits=Limits(grace=1.0, checkpoint_every=0.0),
            **more,
        )

    async def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not true():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    async def end(self, outpost: SshOutpost) -> WorkerStatus:
        deadline = time.monotonic() + DEADLINE
        while True:
            (status,) = await outpost.outpost_list()
            if status.state.terminal:
                return status
            assert time.monotonic() < deadline, status
            await asyncio.sleep(0.05)


def over_ssh(folder: Path, test: Callable[[Pair], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine with a host; at the end nothing of it is open."""

    async def whole(server: Sshd) -> None:
        pair = Pair(server, folder)
        try:
            await test(pair)
        finally:
            for outpost in pair.opened:
                await outpost.outpost_close()

    with sshd(folder / "host") as server:
        asyncio.run(whole(server))


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_an_order_with_a_local_path_gives_a_branch_here(tmp_path: Path, form: str) -> None:
    async def test(pair: Pair) -> None:
        outpost = pair.open()
        order = pair.order("cat README; echo new >new.txt", rig=form.format(pair.rig.path))
        await outpost.outpost_spawn(order)
        status = await pair.end(outpost)
        assert status.state is State.DONE, status
        assert status.result is not None
        assert status.result.commit == pair.rig.tip("polecat/gt-1")
        assert pair.rig.show("polecat/gt-1", "new.txt") == "new"
        assert (pair.workers / "gt-1.1" / "output.log").read_text() == "hello\n"

    over_ssh(tmp_path, test)


def test_a_worker_that_ends_while_the_host_is_cut_off_waits_to_be_fetched(tmp_path: Path) -> None:
    async def test(pair: Pair) -> None:
        outpost = pair.open()
        go = pair.folder / "go"
        script = f"while [ ! -e {go} ]; do sleep 0.05; done; echo new >new.txt"
        await outpost.outpost_spawn(pair.order(script))
        pair.server.kill()
        go.touch()
        await pair.until((pair.workers / "gt-1.1" / "result.json").exists)
        with pytest.raises(UnreachableError):
            await outpost.outpost_list()
        assert pair.rig.tip("polecat/gt-1") is None
        pair.server.start()
        stranger = pair.open()
        stranger.context = BuildContext(state_dir=pair.folder / "other")
        (seen,) = await stranger.outpost_list()
        assert (seen.state, seen.detail) == (State.WORKING, "waits to be fetched")
        status = await pair.end(outpost)
        assert status.state is State.DONE
        assert pair.rig.show("polecat/gt-1", "new.txt") == "new"

    over_ssh(tmp_path, test)


def test_a_line_that_breaks_while_the_repository_is_on_its_way_costs_nothing(
    tmp_path: Path,
) -> None:
    async def test(pair: Pair) -> None:
        (pair.rig.seed / "large").write_bytes(os.urandom(24 << 20))
        pair.rig.git("add", "-A")
        pair.rig.commit({"x": "x\n"})
        incoming = pair.workers.parent / "hosted" / "incoming"
        outpost = pair.open()
        await outpost.outpost_ping()
        task = asyncio.create_task(outpost.outpost_spawn(pair.order("echo new >new.txt")))
        await pair.until(lambda: any(file.stat().st_size > 1 << 20 for file in _files(incoming)))
        pair.server.drop_sessions()
        await task
        status = await pair.end(outpost)
        assert status.state is State.DONE, status
        assert pair.rig.show("polecat/gt-1", "new.txt") == "new"

    over_ssh(tmp_path, test)


def _files(folder: Path) -> list[Path]:
    return [*folder.iterdir()] if folder.exists() else []
