"""Killed while a repository travels into a pod or its work comes out of it; and the pod gone."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from podkit import Pod, until
from podrigkit import Cluster, PodPipe, at_cluster
from rigkit import DEADLINE

from outpost_core import wire
from outpost_core.errors import OutpostError, UnreachableError
from outpost_core.names import checkpoint_ref
from outpost_core.types import Json, Order, Result, State
from outpost_exec import rigs
from outpost_exec.rigs import retrieval
from outpost_shared import faults

COUNT = 'echo run >>"$OUTPOST_WORKER_DIR/runs"; echo new >new.txt'
CHECKPOINTS = "echo half >half.txt; while :; do sleep 0.1; done"
WHY = "its pod ended before its work was fetched"

#: A program of this machine that brings the repository, follows the worker and lets the pod go.
_PROGRAM = """
import asyncio, json, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from outpost_core import wire
from outpost_core.types import Order
from outpost_testing import waiting
from podkit import Pod, until
from podrigkit import PodPipe

async def main():
    folder, order, near = Path(sys.argv[3]), json.loads(sys.argv[4]), Path(sys.argv[5])
    order = wire.from_json(Order, order)
    pipe = PodPipe(Pod(folder, order), near)
    try:
        await pipe.outpost_spawn(order)
        await waiting.ended(pipe, order.worker, seconds=60)
        await pipe.call("x-collected", {"worker": order.worker})
    finally:
        await pipe.outpost_close()

asyncio.run(main())
"""


async def program(cluster: Cluster, order: Order, fault: str) -> int:
    here = Path(__file__).parent
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM, str(here), str(here.parents[1] / "outpost_exec/tests")),
        *(str(cluster.pods[order.worker].folder), wire.dumps(order), str(cluster.near)),
        env={**os.environ, "OUTPOST_FAULT": fault},
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await asyncio.wait_for(child.wait(), DEADLINE)


async def is_whole(cluster: Cluster, pipe: PodPipe, order: Order) -> None:
    """See that the worker ran, once, that its work is here, and that its pod goes."""
    await pipe.outpost_spawn(order)
    result = await cluster.result(pipe)
    assert (result.state, result.branch) == (State.DONE, "polecat/gt-1"), result
    assert cluster.rig.tip("polecat/gt-1") == result.commit
    assert cluster.rig.show("polecat/gt-1", "new.txt") == "new"
    runs = pipe.pod.root / "workers" / order.worker / "exchange" / "runs"
    assert runs.read_text() == "run\n"
    await pipe.outpost_list()
    assert cluster.notes() == []
    assert await cluster.leave(pipe) == 0


@pytest.mark.parametrize("point", faults.RIG)
def test_killed_here_and_repeated(tmp_path: Path, point: str) -> None:
    async def test(cluster: Cluster) -> None:
        order = cluster.order(COUNT)
        pod = cluster.pod(order)
        assert await program(cluster, order, point) == -9
        await is_whole(cluster, cluster.into(pod), order)

    at_cluster(tmp_path, test)


@pytest.mark.parametrize("point", [*faults.HOSTED, "pod.brought"])
def test_killed_there_and_repeated(tmp_path: Path, point: str) -> None:
    async def test(cluster: Cluster) -> None:
        order = cluster.order(COUNT)
        pod = cluster.pod(order)
        await is_whole(cluster, cluster.into(pod, fault=point), order)

    at_cluster(tmp_path, test)


def test_killed_when_it_has_noted_that_all_is_home_the_pod_goes(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        order = cluster.order(COUNT)
        pod = cluster.pod(order)
        first = cluster.into(pod)
        await first.outpost_spawn(order)
        await cluster.result(first)
        last = cluster.into(pod, fault="pod.collected", lines=1)
        with pytest.raises(OutpostError):
            await last.call("x-collected", {"worker": order.worker})
        assert await asyncio.to_thread(pod.wait) == 0

    at_cluster(tmp_path, test)


async def gone(cluster: Cluster, order: Order, result: Result) -> Result:
    """Return how a worker counts whose pod is gone."""
    await asyncio.to_thread(cluster.pods[order.worker].kill)
    settled = await rigs.settle(cluster.near, order.worker, result, "k8s_work_lost", WHY)
    assert cluster.notes() == []
    again = await rigs.settle(cluster.near, order.worker, result, "k8s_work_lost", WHY)
    assert settled == again, "whoever asks next is told the same"
    return settled


def last_word(pod: Pod) -> Result:
    until(lambda: (pod.folder / "termination").read_bytes(), pod.said)
    return wire.from_json(Result, pod.message()["result"])


def test_work_that_was_not_fetched_before_its_pod_was_gone_is_lost(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        order = cluster.order(COUNT)
        pod = cluster.pod(order)
        await cluster.into(pod).outpost_spawn(order)
        await asyncio.to_thread(pod.until, "lingering")
        said = last_word(pod)
        assert said.state is State.DONE
        assert "collected" not in pod.message()
        result = await gone(cluster, order, said)
        assert (result.state, result.reason, result.message) == (State.LOST, "k8s_work_lost", WHY)
        assert (result.branch, result.commit, result.checkpoint) == (None, None, None)
        assert cluster.rig.tip("polecat/gt-1") is None
        rigs.forget(cluster.near, order.worker)
        assert cluster.notes("home") == []

    at_cluster(tmp_path, test)


@pytest.mark.parametrize("point", ["rig.homed", "rig.told"])
def test_work_that_is_here_counts_although_nobody_was_told(tmp_path: Path, point: str) -> None:
    async def test(cluster: Cluster) -> None:
        order = cluster.order(COUNT)
        pod = cluster.pod(order)
        assert await program(cluster, order, point) == -9
        said = last_word(pod)
        result = await gone(cluster, order, said)
        assert result == said, "it is in the rig"
        assert cluster.rig.tip("polecat/gt-1") == result.commit

    at_cluster(tmp_path, test)


def test_the_last_checkpoint_of_a_pod_that_vanished_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(cluster: Cluster) -> None:
        monkeypatch.setattr(retrieval, "LIVE_EVERY", 0.0)
        order = cluster.order(CHECKPOINTS, checkpoint_every=0.2)
        pipe = cluster.into(cluster.pod(order))
        await pipe.outpost_spawn(order)
        ref = checkpoint_ref(order.worker, order.owner)
        async with asyncio.timeout(DEADLINE):
            while cluster.rig.git("for-each-ref", ref, cwd=cluster.rig.path) == "":
                await pipe.outpost_list()
        vanished = Result(state=State.LOST, reason="k8s_node_lost", message="its node is gone")
        result = await gone(cluster, order, vanished)
        assert (result.reason, result.checkpoint) == ("k8s_node_lost", ref)
        assert result.message == f"its node is gone; its last checkpoint is in {ref}"
        assert cluster.rig.show(ref, "half.txt") == "half"
        # one that has ended well there, and did not bring what it ended with
        done = Result(state=State.DONE, branch="polecat/gt-1", commit="ab" * 20)
        result = await gone(cluster, order, done)
        assert (result.state, result.reason) == (State.LOST, "k8s_work_lost")
        assert (result.commit, result.checkpoint) == (None, ref)

    at_cluster(tmp_path, test)


def test_another_machine_does_not_say_where_work_is_that_it_cannot_see(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        ref = checkpoint_ref("gt-1.1", "ab" * 8)
        said = Result(state=State.STOPPED, reason="stopped", checkpoint=ref)
        result = await rigs.settle(cluster.near, "gt-1.1", said, "k8s_work_lost", WHY)
        assert (result.state, result.checkpoint) == (State.LOST, None)
        nothing = Result(state=State.FAILED, reason="agent_failed", checkpoint="/in/the/pod")
        assert await rigs.settle(cluster.near, "gt-1.1", nothing, "x", "y") == nothing

    at_cluster(tmp_path, test)


def test_two_programs_bring_one_repository_and_its_work(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        order = cluster.order(COUNT)
        pod = cluster.pod(order)
        both = [await asyncio.gather(program(cluster, order, ""), program(cluster, order, ""))]
        assert 0 in both[0], "one of them has seen it to its end"
        assert cluster.rig.show("polecat/gt-1", "new.txt") == "new"
        assert (pod.root / "workers/gt-1.1/exchange/runs").read_text() == "run\n"
        assert await asyncio.to_thread(pod.wait) == 0

    at_cluster(tmp_path, test)


def test_a_pod_that_dies_under_an_upload_is_said_to_be_unreachable(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        (cluster.rig.seed / "large").write_bytes(os.urandom(8 << 20))
        cluster.rig.git("add", "-A")
        cluster.rig.commit({"x": "x\n"})
        order = cluster.order(COUNT)
        pod = cluster.pod(order)
        pipe = cluster.into(pod)
        spawning = asyncio.create_task(pipe.outpost_spawn(order))
        while pipe.calls.count("x-rig-put") < 8:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(pod.kill)
        await pipe.cut()
        with pytest.raises(UnreachableError):
            await spawning
        (left,) = cluster.notes()
        assert left.startswith("gt-1.1.")
        never = Result(state=State.LOST, reason="k8s_deleted", agent_began=False)
        assert await gone(cluster, order, never) == never

    at_cluster(tmp_path, test)


# --- a pod that lies ------------------------------------------------------------------------------


def on_main(answer: Json) -> Json:
    """Return what a pod says of its worker, with another branch in it."""
    assert isinstance(answer, dict)
    told: dict[str, Any] = {**answer, "branch": "main"} if "sha256" in answer else answer
    for status in told.get("workers") or ():
        if status.get("result"):
            status["result"]["branch"] = "main"
    return told


def test_a_pod_does_not_choose_where_its_work_goes(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        main = cluster.rig.tip("main")
        order = cluster.order("echo new >new.txt")
        pipe = cluster.into(cluster.pod(order))
        pipe.lies = {"list": on_main, "x-rig-want": on_main}
        await pipe.outpost_spawn(order)
        result = await cluster.result(pipe)
        assert {"list", "x-rig-want"} <= {*pipe.calls}
        assert (result.state, result.branch) == (State.DONE, "polecat/gt-1")
        assert result.commit == cluster.rig.tip("polecat/gt-1")
        assert cluster.rig.tip("main") == main

    at_cluster(tmp_path, test)


def test_a_pod_that_is_gone_has_not_delivered_what_others_have(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        order = cluster.order("sleep 60")
        pipe = cluster.into(cluster.pod(order))
        await pipe.outpost_spawn(order)
        await asyncio.to_thread(pipe.pod.kill)
        lie = Result(state=State.DONE, reason="ok", branch="main", commit=cluster.rig.tip("main"))
        result = await gone(cluster, order, lie)
        assert (result.state, result.branch, result.commit) == (State.LOST, None, None)

    at_cluster(tmp_path, test)
