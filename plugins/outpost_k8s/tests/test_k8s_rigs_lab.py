"""Repositories of this machine and unpushed work, in real pods of a real kubelet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import k8snearkit
import pytest
from k8snearkit import PODS
from peers import containers
from peers.githttp import GitHttp
from peers.kubelab import Cluster

from outpost_core.errors import OutpostError
from outpost_core.types import Delivery, Order, State
from outpost_k8s.objects import names
from outpost_k8s.options import K8sOptions
from outpost_k8s.outpost import K8sOutpost
from outpost_testing.gitrig import GitRig

pytestmark = pytest.mark.kube

SCRIPT = "cat README; echo new >new.txt"


@pytest.fixture(scope="module")
def image(cluster: Cluster) -> str:
    tag: str = cluster.load_image(containers.image().tag, containers.base())
    return tag


@pytest.fixture
def said(cluster: Cluster, image: str) -> Iterator[K8sOptions]:
    with cluster.namespace() as namespace:
        yield k8snearkit.options(
            cluster, namespace, image=image, cpu=0.4, memory=512 << 20, ephemeral_storage=256 << 20
        )


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    (tmp_path / "rig").mkdir()
    return GitRig(tmp_path / "rig")


def order(rig: str, script: str = SCRIPT) -> Order:
    delivery = Delivery(branch="outpost/gt-1", message="gt-1: work")
    return k8snearkit.order("gt-1", script, rig=rig, delivery=delivery)


def pods(cluster: Cluster, said: K8sOptions) -> list[dict[str, Any]]:
    path = PODS.format(said.namespace)
    found: list[dict[str, Any]] = cluster.admin.get(path, labelSelector=names.SELECTOR)["items"]
    return found


async def spawned(mine: K8sOutpost, wanted: Order) -> None:
    """Spawn, again and again where the answer says that this goes on."""
    end = time.monotonic() + k8snearkit.PATIENCE
    while True:
        try:
            await mine.outpost_spawn(order=wanted)
            return
        except OutpostError:
            if time.monotonic() > end:
                raise


async def until_pod(cluster: Cluster, said: K8sOptions, phase: str) -> None:
    """Wait until the worker's pod has come to a phase."""
    end = time.monotonic() + k8snearkit.PATIENCE
    while True:
        (pod,) = await asyncio.to_thread(pods, cluster, said)
        if pod["status"].get("phase") == phase:
            return
        assert time.monotonic() < end, pod["status"]
        await asyncio.sleep(0.2)


async def until_it_lingers(mine: K8sOutpost, worker: str) -> None:
    """Wait until a pod waits for its work to be fetched, without a list that would fetch it."""
    end = time.monotonic() + k8snearkit.PATIENCE
    while True:
        pod = await mine._pod(worker)
        if (await pod.ask("x-state", {})).get("phase") == "lingering":
            return
        assert time.monotonic() < end
        await asyncio.sleep(0.2)


def test_a_repository_of_this_machine_is_worked_on_in_a_pod(
    cluster: Cluster, said: K8sOptions, rig: GitRig, tmp_path: Path
) -> None:
    async def work(mine: K8sOutpost) -> None:
        wanted = order(str(rig.path))
        await spawned(mine, wanted)
        status = await k8snearkit.ended(mine, wanted.worker)
        assert status.state is State.DONE, status
        assert status.result is not None
        assert status.result.commit == rig.tip("outpost/gt-1")
        assert rig.show("outpost/gt-1", "new.txt") == "new"
        log = [piece async for piece in mine.outpost_logs(wanted.worker, 0, False)]
        assert b"".join(log) == b"hello\n"
        await until_pod(cluster, said, "Succeeded")
        other = k8snearkit.outpost(said, tmp_path / "other")  # of somebody who only looks
        try:
            seen = await k8snearkit.ended(other, wanted.worker)
        finally:
            await other.outpost_close()
        assert seen.state is State.DONE, seen
        assert (await mine.outpost_clean(worker=wanted.worker, force=False)).removed
        assert not [*(tmp_path / "state" / "hosted").glob("*/gt-1.*")], "nothing is waited for"

    k8snearkit.with_outpost(said, tmp_path / "state", work)


def test_a_pod_may_go_although_the_program_that_had_its_work_was_killed(
    cluster: Cluster, said: K8sOptions, rig: GitRig, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    wanted = order(str(rig.path))
    k8snearkit.with_outpost(said, state, lambda mine: spawned(mine, wanted))
    assert k8snearkit.killed(k8snearkit.child("end", said, state, wanted, fault="kube.harvested"))
    assert rig.show("outpost/gt-1", "new.txt") == "new"

    async def again(mine: K8sOutpost) -> None:
        status = await k8snearkit.ended(mine, wanted.worker)
        assert status.state is State.DONE
        await until_pod(cluster, said, "Succeeded")

    k8snearkit.with_outpost(said, state, again)


def test_work_that_was_in_a_pod_which_is_deleted_is_lost(
    cluster: Cluster, said: K8sOptions, rig: GitRig, tmp_path: Path
) -> None:
    async def work(mine: K8sOutpost) -> None:
        wanted = order(str(rig.path))
        await spawned(mine, wanted)
        await until_it_lingers(mine, wanted.worker)
        (pod,) = pods(cluster, said)
        path = f"{PODS.format(said.namespace)}/{pod['metadata']['name']}"
        await asyncio.to_thread(cluster.admin.delete, path)
        status = await k8snearkit.ended(mine, wanted.worker)
        assert (status.state, status.detail) == (State.LOST, "k8s_work_lost"), status
        assert status.result is not None
        assert status.result.commit is None
        assert rig.tip("outpost/gt-1") is None

    k8snearkit.with_outpost(said, tmp_path / "state", work)


def test_what_no_remote_took_is_brought_here_and_the_pod_goes(
    cluster: Cluster, said: K8sOptions, tmp_path: Path
) -> None:
    server = GitHttp(tmp_path / "served", address=cluster.host_address)
    served = server.repository("rig", "-b", "main")
    seed = GitRig(tmp_path)
    seed.git("push", "-q", str(served), "main")
    hook = served / "hooks" / "update"
    hook.write_text('#!/bin/sh\ncase "$1" in */records/*|*/stops/*) exit 0;; esac\nexit 1\n')
    hook.chmod(0o755)
    server.start()

    async def work(mine: K8sOutpost) -> None:
        wanted = order(f"{server.url}/rig")
        await spawned(mine, wanted)
        status = await k8snearkit.ended(mine, wanted.worker)
        assert (status.state, status.detail) == (State.FAILED, "push_failed"), status
        assert status.result is not None
        kept = status.result.checkpoint
        assert kept == str(tmp_path / "state" / "rescued" / f"gt-1.1.{'ab' * 8}.bundle")
        seed.git("fetch", "-q", str(kept), "+refs/outpost/*:refs/heads/got/*")
        assert "/outpost/disk" not in status.result.message
        await until_pod(cluster, said, "Failed")

    try:
        k8snearkit.with_outpost(said, tmp_path / "state", work)
    finally:
        server.stop()
    (got,) = seed.git("for-each-ref", "--format=%(refname)", "refs/heads/got").splitlines()
    assert seed.git("show", f"{got}:new.txt") == "new"
