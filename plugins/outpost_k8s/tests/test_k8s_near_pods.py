"""The near side with workers in real pods: their output, their ends, and what is left of them."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import k8snearkit as kit
import pytest
from k8snearkit import JOBS, PODS
from peers import githttp
from peers.kubelab import Lab, Options, own_lab

from outpost_core.names import checkpoint_ref
from outpost_core.types import Cleaned, Delivery, Limits, Order, State, WorkerStatus
from outpost_k8s.objects import names
from outpost_k8s.options import K8sOptions
from outpost_k8s.outpost import K8sOutpost

pytestmark = pytest.mark.kube

#: Seconds of grace that a pod's deletion is given in these tests.
_NOW = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A cluster that tests may break; a lost node counts as lost soon."""
    with own_lab(Options(fake_nodes=0, node_grace=8, evict_after=2)) as running:
        yield running


@pytest.fixture
def said(lab: Lab, image: str, namespace: str) -> K8sOptions:
    return kit.options(lab, namespace, image=image, cpu=0.3, memory=128 << 20)


@pytest.fixture
def rig(lab: Lab, tmp_path: Path) -> Iterator[str]:
    """A repository that pods can reach."""
    server = githttp.GitHttp(tmp_path / "served", address=lab.host_address)
    bare = server.repository("rig.git", "-b", "main")
    work = tmp_path / "work"
    git = ("git", "-C", str(work), "-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "init", "-q", "-b", "main", str(work)], check=True)
    (work / "README").write_text("hello\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    subprocess.run([*git, "push", "-q", str(bare), "main"], check=True)
    server.start()
    try:
        yield f"{server.url}/rig.git"
    finally:
        server.stop()


def rig_order(name: str, rig: str, script: str, **limits: Any) -> Order:
    more = {"timeout": 300.0, "grace": 2.0, "checkpoint_every": 1.0, **limits}
    return kit.order(
        name, script, rig=rig, limits=Limits(**more),
        delivery=Delivery(branch=f"outpost/{name}", message="work"),
    )  # fmt: skip


async def working(mine: K8sOutpost, worker: str) -> WorkerStatus:
    return await kit.listed(mine, worker, lambda one: one.state is State.WORKING)


async def printed(mine: K8sOutpost, worker: str, words: bytes) -> None:
    """Return when a worker has printed something."""
    got = b""
    async with aclosing(mine.outpost_logs(worker=worker, offset=0, follow=True)) as pieces:
        async for piece in pieces:
            got += piece
            if words in got:
                return
    raise AssertionError(f"{words!r} is not in {got!r}")


def pod_of(lab: Lab, namespace: str, worker: str) -> dict[str, Any]:
    selector = names.worker_selector(worker)
    [found] = lab.admin.get(PODS.format(namespace), labelSelector=selector)["items"]
    pod: dict[str, Any] = found
    return pod


def has_ref(rig: str, ref: str) -> bool:
    done = subprocess.run(["git", "ls-remote", rig, ref], capture_output=True, check=True)
    return bool(done.stdout)


def test_output_is_followed_across_the_pod_s_end_and_read_here_afterwards(
    lab: Lab, said: K8sOptions, namespace: str, tmp_path: Path
) -> None:
    script = "for i in 1 2 3; do printf 'line %s\\r\\n' $i; sleep 1; done; printf end"
    whole = b"line 1\r\nline 2\r\nline 3\r\nend"

    async def work(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=kit.order("log", script))
        pieces = [p async for p in mine.outpost_logs(worker="log.1", offset=2, follow=True)]
        assert b"".join(pieces) == whole[2:]
        status = await kit.ended(mine, "log.1")
        assert status.state is State.DONE
        assert status.result is not None
        assert status.result.log_bytes == len(whole)
        await mine.outpost_list()

    async def later(mine: K8sOutpost) -> bytes:
        pieces = [p async for p in mine.outpost_logs(worker="log.1", offset=0, follow=False)]
        return b"".join(pieces)

    kit.with_outpost(said, tmp_path, work)
    assert kit.with_outpost(said, tmp_path, later) == whole
    job = f"{JOBS.format(namespace)}/{names.job_name('log.1')}"
    lab.admin.delete(job, _NOW)
    lab.admin.gone(job)
    assert kit.with_outpost(said, tmp_path, later) == whole, "after the Job is gone"
    [status] = kit.with_outpost(said, tmp_path, lambda mine: mine.outpost_list())
    assert status.state is State.DONE


def test_a_stop_saves_the_work_and_another_program_sees_it(
    said: K8sOptions, rig: str, tmp_path: Path
) -> None:
    order = rig_order("halt", rig, "echo new > file; echo up; sleep 300")

    async def work(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=order)
        await printed(mine, "halt.1", b"up")
        await mine.outpost_stop(worker="halt.1", grace=1.0)

    kit.with_outpost(said, tmp_path, work)
    status = kit.with_outpost(said, tmp_path, lambda mine: kit.ended(mine, "halt.1"))
    assert (status.state, status.detail) == (State.STOPPED, "stopped")
    assert status.result is not None
    assert status.result.checkpoint == checkpoint_ref("halt.1", order.owner)
    assert has_ref(rig, status.result.checkpoint)


def test_who_stopped_a_worker_of_another_machine_is_told_and_a_clean_there_keeps_its_record(
    said: K8sOptions, rig: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = rig_order("shared", rig, "echo new > file; echo up; sleep 300")

    async def start(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=order)
        await printed(mine, "shared.1", b"up")

    async def end(mine: K8sOutpost) -> Cleaned:
        await mine.outpost_stop(worker="shared.1", grace=1.0)
        await kit.ended(mine, "shared.1")
        cleaned: Cleaned = await mine.outpost_clean(worker="shared.1", force=False)
        return cleaned

    async def look(mine: K8sOutpost) -> WorkerStatus:
        return await kit.ended(mine, "shared.1")

    kit.with_outpost(said, tmp_path / "first", start)
    with monkeypatch.context() as other:
        other.setattr("outpost_k8s.near.ending.who_asks", lambda: "jane@desk\x1b[31m")
        cleaned = kit.with_outpost(said, tmp_path / "second", end)
    assert cleaned.removed
    assert "another machine ordered it" in cleaned.detail
    status = kit.with_outpost(said, tmp_path / "first", look)
    assert (status.state, status.detail) == (State.STOPPED, "stopped"), "by its record"
    assert status.result is not None
    assert status.result.checkpoint == checkpoint_ref("shared.1", order.owner)


def test_who_asked_for_a_stop_is_told(
    said: K8sOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=kit.order("told", "echo up; sleep 300"))
        await printed(mine, "told.1", b"up")

    async def end(mine: K8sOutpost) -> None:
        await mine.outpost_stop(worker="told.1", grace=1.0)

    kit.with_outpost(said, tmp_path / "first", start)
    with monkeypatch.context() as other:
        other.setattr("outpost_k8s.near.ending.who_asks", lambda: "jane@desk\x1b[31m")
        kit.with_outpost(said, tmp_path / "second", end)
    status = kit.with_outpost(said, tmp_path / "first", lambda mine: kit.ended(mine, "told.1"))
    assert status.result is not None
    assert "; jane@desk" in status.result.message
    assert "asked for it" in status.result.message
    assert "\x1b" not in status.result.message


def test_a_pod_that_somebody_deletes_is_told_by_its_record(
    lab: Lab, said: K8sOptions, namespace: str, rig: str, tmp_path: Path
) -> None:
    order = rig_order("gone", rig, "echo new > file; echo up; sleep 300")

    async def work(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=order)
        await printed(mine, "gone.1", b"up")

    kit.with_outpost(said, tmp_path, work)
    pod = pod_of(lab, namespace, "gone.1")
    path = f"{PODS.format(namespace)}/{pod['metadata']['name']}"
    lab.admin.delete(path)
    lab.admin.gone(path)
    status = kit.with_outpost(said, tmp_path, lambda mine: kit.ended(mine, "gone.1"))
    assert (status.state, status.detail) == (State.STOPPED, "k8s_deleted")
    assert status.result is not None
    assert status.result.checkpoint is not None
    assert has_ref(rig, status.result.checkpoint)


#: Fills all memory that there is.
EATS = "python3 -c 'x = bytearray(1 << 30); x[::4096] = b\"1\" * len(x[::4096])'"


def test_an_agent_that_the_system_kills_for_memory_says_so_and_its_work_is_saved(
    said: K8sOptions, rig: str, tmp_path: Path
) -> None:
    order = rig_order("hungry", rig, f"echo new > file; {EATS}", checkpoint_every=0.0)

    async def work(mine: K8sOutpost) -> WorkerStatus:
        await mine.outpost_spawn(order=order)
        return await kit.ended(mine, "hungry.1")

    status = kit.with_outpost(said, tmp_path, work)
    assert (status.state, status.detail) == (State.FAILED, "k8s_oom_killed"), status
    assert status.result is not None
    assert status.result.message.startswith("its agent used more than its `memory`"), status
    assert "the memory here (128 MiB) was used up" in status.result.message, status
    ref = checkpoint_ref("hungry.1", order.owner)
    assert status.result.checkpoint == ref
    assert has_ref(rig, ref)


def test_a_container_that_is_killed_for_memory_says_so_and_keeps_its_last_checkpoint(
    lab: Lab, said: K8sOptions, rig: str, tmp_path: Path
) -> None:
    order = rig_order("starved", rig, "echo new > file; echo up; sleep 300")
    ref = checkpoint_ref("starved.1", order.owner)
    # the kernel takes whom it likes; here it likes the program around the agent
    prefer = (
        "for p in /proc/[0-9]*; do"
        " tr '\\0' ' ' <$p/cmdline | grep -q 'outpost_k8s.far run' && echo 1000 >$p/oom_score_adj;"
        " done; true"
    )

    async def work(mine: K8sOutpost) -> WorkerStatus:
        await mine.outpost_spawn(order=order)
        await printed(mine, "starved.1", b"up")
        end = time.monotonic() + kit.PATIENCE
        while not has_ref(rig, ref):
            assert time.monotonic() < end
            await asyncio.sleep(0.3)
        pod = await mine._pod("starved.1")
        await asyncio.to_thread(lab.client.run, "sh", "-c", prefer)
        process = await mine.desk.cluster().exec(pod.pod, ["sh", "-c", EATS])
        status = await kit.ended(mine, "starved.1")
        await process.close()
        return status

    status = kit.with_outpost(said, tmp_path, work)
    assert (status.state, status.detail) == (State.FAILED, "k8s_oom_killed"), status
    assert status.result is not None
    assert "it used more than its `memory`" in status.result.message
    assert status.result.checkpoint == ref
    assert has_ref(rig, ref)


def test_a_follower_outlives_the_api_server(lab: Lab, said: K8sOptions, tmp_path: Path) -> None:
    script = "for i in $(seq 1 12); do echo line $i; sleep 1; done"

    async def work(mine: K8sOutpost) -> bytes:
        await mine.outpost_spawn(order=kit.order("api", script))
        got = b""
        async for piece in mine.outpost_logs(worker="api.1", offset=0, follow=True):
            if not got:
                await asyncio.to_thread(lab.restart, "apiserver")
            got += piece
        return got

    got = kit.with_outpost(said, tmp_path, work)
    assert got == b"".join(b"line %d\n" % number for number in range(1, 13))


def test_a_lost_node_is_waited_for_and_what_was_on_it_is_lost_with_its_checkpoint(
    lab: Lab, said: K8sOptions, namespace: str, rig: str, tmp_path: Path
) -> None:
    order = rig_order("node", rig, "echo new > file; echo up; sleep 300")
    ref = checkpoint_ref("node.1", order.owner)
    job = f"{JOBS.format(namespace)}/{names.job_name('node.1')}"

    async def work(mine: K8sOutpost) -> WorkerStatus:
        await mine.outpost_spawn(order=order)
        await printed(mine, "node.1", b"up")
        end = time.monotonic() + kit.PATIENCE
        while not has_ref(rig, ref):
            assert time.monotonic() < end
            await asyncio.sleep(0.3)
        await asyncio.to_thread(lab.lose_node)
        silent = await kit.listed(
            mine, "node.1", lambda one: "its node does not answer since" in one.detail
        )
        assert silent.state is State.WORKING, "unreachable is not dead"
        pod = pod_of(lab, namespace, "node.1")
        lab.admin.delete(job, _NOW)
        lab.admin.delete(f"{PODS.format(namespace)}/{pod['metadata']['name']}", _NOW)
        return await kit.ended(mine, "node.1")

    try:
        status = kit.with_outpost(said, tmp_path, work)
    finally:
        lab.start("containerd")
        lab.start("kubelet")
    assert (status.state, status.detail) == (State.LOST, "k8s_deleted")
    assert status.result is not None
    assert status.result.checkpoint == ref
    cleaned = kit.with_outpost(
        said, tmp_path, lambda mine: mine.outpost_clean(worker="node.1", force=False)
    )
    assert cleaned.removed
    assert cleaned.rescued == ref
    assert has_ref(rig, ref), "the work stays"
    assert not has_ref(rig, f"refs/outpost/{order.owner}/records/*"), "the record goes"
