"""The base of outposts whose workers are folders of this machine, as a subclass sees it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from outpost_core.backend import BuildContext, OutpostOptions
from outpost_core.errors import PluginError, SpawnRefusedError
from outpost_core.types import Agent, Delivery, Issue, Order, State, WorkerStatus
from outpost_shared.programs import base_env
from outpost_testing import waiting
from outpost_testing.gitrig import GitRig
from outpost_worker import FolderOutpost
from outpost_worker.folder import publish
from outpost_worker.recovery import cleaning


class Wrapped(FolderOutpost):
    """Agents below another command."""

    type = "wrapped"
    before: Sequence[str] = ("nice", "-n", "1")

    def wrap(self, order: Order) -> Sequence[str]:
        return self.before


def make(root: Path, kind: type[FolderOutpost] = FolderOutpost) -> FolderOutpost:
    return kind("here", OutpostOptions(), BuildContext(state_dir=root))


def order(*argv: str, issue: str = "gt-1", **more) -> Order:
    return Order(issue=Issue(id=issue), agent=Agent(argv=argv), **more)


async def end(outpost: FolderOutpost, *workers: str) -> dict[str, WorkerStatus]:
    return await waiting.ended(outpost, *workers, seconds=60.0)


def test_what_is_not_begun_is_queued_and_is_started_by_the_next_spawn(tmp_path):
    async def main() -> None:
        outpost = make(tmp_path)
        one = order("/bin/echo", "late")
        publish.publish(tmp_path, one, base_env(os.environ))
        assert [found.state for found in await outpost.outpost_list()] == [State.QUEUED]
        await outpost.outpost_spawn(one)
        assert (await end(outpost, "gt-1.1"))["gt-1.1"].state is State.DONE

    asyncio.run(main())


def test_a_wrapper_that_is_missing_refuses_the_spawn_and_leaves_nothing(tmp_path):
    class Missing(Wrapped):
        before = ("no-such-sandbox", "--")

    async def main() -> None:
        outpost = make(tmp_path, Missing)
        with pytest.raises(SpawnRefusedError, match="here starts agents through 'no-such-sandbox'"):
            await outpost.outpost_spawn(order("/bin/echo"))
        assert await outpost.outpost_list() == []
        assert not (tmp_path / "workers" / "gt-1.1").exists()

    asyncio.run(main())


def test_a_worker_that_is_cleaned_while_it_is_adopted_is_made_with_its_wrapper(
    tmp_path, monkeypatch
):
    async def main() -> None:
        outpost, one = make(tmp_path, Wrapped), order("nice")
        await outpost.outpost_spawn(one)
        await end(outpost, "gt-1.1")
        real = publish.publish

        def after_a_clean(root, *args, **more):
            folder = root / "workers" / "gt-1.1"
            assert cleaning.clean(root, folder, force=False).removed
            return real(root, *args, **more)

        monkeypatch.setattr(publish, "publish", after_a_clean)
        await outpost.outpost_spawn(one)
        await end(outpost, "gt-1.1")
        log = b"".join([piece async for piece in outpost.outpost_logs("gt-1.1", 0, True)])
        assert int(log) == min(os.nice(0) + 1, 19)

    asyncio.run(main())


def test_a_wrapper_that_is_text_is_the_authors_mistake(tmp_path):
    class Text(Wrapped):
        before = "nice -n 1"

    with pytest.raises(PluginError, match="wrap of Text is text, not a list of words"):
        asyncio.run(make(tmp_path, Text).outpost_spawn(order("nice")))


def test_a_wrapped_worker_is_adopted_by_an_outpost_without_a_wrapper(tmp_path):
    async def main() -> None:
        one = order("nice")
        await make(tmp_path, Wrapped).outpost_spawn(one)
        plain = make(tmp_path)
        assert (await plain.outpost_spawn(one)).id == "gt-1.1"
        await end(plain, "gt-1.1")
        log = b"".join([piece async for piece in plain.outpost_logs("gt-1.1", 0, True)])
        assert int(log) == min(os.nice(0) + 1, 19)

    asyncio.run(main())


def test_a_supervisor_that_cannot_be_started_is_taken_back(tmp_path):
    class Broken(FolderOutpost):
        def supervisor_command(self, folder: Path) -> list[str]:
            return ["no-such-starter", *super().supervisor_command(folder)]

    async def main() -> None:
        outpost = make(tmp_path, Broken)
        with pytest.raises(SpawnRefusedError, match="no-such-starter"):
            await outpost.outpost_spawn(order("/bin/echo"))
        assert await make(tmp_path).outpost_list() == []

    asyncio.run(main())


def test_a_supervisor_is_started_as_a_subclass_says(tmp_path):
    class Nice(FolderOutpost):
        def supervisor_command(self, folder: Path) -> list[str]:
            return ["nice", "-n", "2", *super().supervisor_command(folder)]

    async def main() -> None:
        outpost = make(tmp_path, Nice)
        await outpost.outpost_spawn(order("nice"))
        await end(outpost, "gt-1.1")
        log = b"".join([piece async for piece in outpost.outpost_logs("gt-1.1", 0, True)])
        assert int(log) == min(os.nice(0) + 2, 19)

    asyncio.run(main())


def test_a_recovery_of_seconds_blocks_nobody(tmp_path, monkeypatch):
    """While a recovery pushes over a slow line, the loop of who asks keeps turning."""
    (tmp_path / "git").mkdir()
    rig = GitRig(tmp_path / "git")
    tools, slow = tmp_path / "tools", tmp_path / "slow"
    tools.mkdir()
    git = tools / "git"
    git.write_text(
        f"#!/bin/sh\ncase \" $* \" in *' push '*) test -e {slow} && sleep 3;; esac\n"
        f'PATH="{os.environ["PATH"]}" exec git "$@"\n'
    )
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")

    async def main() -> None:
        outpost = make(tmp_path / "state")
        delivery = Delivery(branch="polecat/gt-1", message="the work")
        script = "echo new >new; echo ready; exec sleep 300"
        one = order("/bin/sh", "-c", script, rig=str(rig.path), delivery=delivery)
        await outpost.outpost_spawn(one)
        folder = outpost.folder_of("gt-1.1")
        log = folder / "output.log"
        await waiting.listed(
            outpost, lambda _: log.exists() and b"ready" in log.read_bytes(), seconds=60.0
        )
        slow.touch()
        claim = json.loads((folder / "supervisor.json").read_text())
        os.kill(claim["pid"], signal.SIGKILL)
        environment = dict(os.environ)
        widest, last, recovering, began = 0.0, time.monotonic(), 0, time.monotonic()

        async def tick() -> None:
            nonlocal widest, last
            while True:
                await asyncio.sleep(0.005)
                now = time.monotonic()
                widest, last = max(widest, now - last), now

        ticking = asyncio.create_task(tick())
        while True:
            (found,) = await outpost.outpost_list()
            assert dict(os.environ) == environment, "it runs in no thread of ours"
            if found.result is not None:
                break
            recovering += "recovering" in found.detail
            assert time.monotonic() < began + 60
            await asyncio.sleep(0.05)
        took = time.monotonic() - began
        ticking.cancel()
        assert found.result.state is State.LOST
        assert found.result.checkpoint, "the work was pushed"
        assert took > 2.5, "the recovery took as long as the push"
        assert recovering > 3
        assert widest < 1.0, f"the loop stood still for {widest:.2f} s"

    asyncio.run(main())


def test_the_class_is_not_imported_by_a_worker():
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; import outpost_worker;"
        "print('asyncio' in sys.modules, 'typing' in sys.modules);"
        "outpost_worker.FolderOutpost; print('asyncio' in sys.modules)"
    )
    argv = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]
