"""Repositories of this machine that travel into pods, each of which has a copy of its own."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from podrigkit import Cluster, at_cluster

from outpost_core.errors import ConflictError, SpawnRefusedError
from outpost_core.types import State
from outpost_exec.rigs import notes
from outpost_exec.stdio.remote import StdioOutpost


def test_work_comes_out_of_the_pod_into_the_repository_of_this_machine(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        order = cluster.order("cat README; echo new >new.txt")
        pod = cluster.pod(order)
        pipe = cluster.into(pod)
        await pipe.outpost_spawn(order)
        result = await cluster.result(pipe)
        assert (result.state, result.branch) == (State.DONE, "polecat/gt-1"), result
        assert result.commit == cluster.rig.tip("polecat/gt-1")
        assert cluster.rig.show("polecat/gt-1", "new.txt") == "new"
        assert pod.process is not None
        assert pod.process.poll() is None, "it waits until it is told that its work is here"
        assert await cluster.leave(pipe) == 0
        assert pod.message()["result"]["commit"] == result.commit
        assert pod.log.read_text() == "hello\n"

    at_cluster(tmp_path, test)


def test_a_worker_begins_only_with_its_repository(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        order = cluster.order("echo new >new.txt")
        pod = cluster.pod(order)
        pipe = cluster.into(pod)
        await asyncio.to_thread(pod.until, "waiting")
        (status,) = await pipe.outpost_list()
        assert (status.state, status.detail) == (State.QUEUED, "waits for its repository")
        with pytest.raises(SpawnRefusedError, match="was not brought"):
            await StdioOutpost.outpost_spawn(pipe, order)
        with pytest.raises(ConflictError):
            await pipe.outpost_spawn(cluster.order("echo other >new.txt"))
        assert (await pipe.state())["phase"] == "waiting"
        await pipe.outpost_spawn(order)
        assert (await cluster.result(pipe)).state is State.DONE

    at_cluster(tmp_path, test)


def test_pods_leave_each_others_notes_alone(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        orders = [cluster.order("echo new >new.txt", issue=issue) for issue in ("gt-1", "gt-2")]
        first, second = (cluster.into(cluster.pod(order)) for order in orders)
        await asyncio.gather(first.outpost_spawn(orders[0]), second.outpost_spawn(orders[1]))
        waiting = cluster.near / "hosted" / "waiting"
        old = time.time() - 2 * notes._STALE
        for path in waiting.iterdir():
            os.utime(path, (old, old))  # as of a worker that is nowhere
        assert (await cluster.result(first)).state is State.DONE
        (left,) = cluster.notes()
        assert left.startswith("gt-2.1."), "the other one's work is still to come"
        for place in ("cleaning", "home"):
            aside = waiting.parent / place / left
            aside.parent.mkdir(exist_ok=True)
            waiting.joinpath(left).rename(aside)
            await first.outpost_list()
            await first.outpost_clean(worker="gt-1.1", force=False)
            assert aside.exists(), place
            aside.rename(waiting / left)
        assert (await cluster.result(second)).state is State.DONE
        assert cluster.notes() == []

    at_cluster(tmp_path, test)
