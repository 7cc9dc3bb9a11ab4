"""Two machines with one namespace: either finds what the other has made, and nothing is made twice.

What they do at once, and the same order from each, is in `test_k8s_near_cluster`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import k8snearkit as kit
import pytest
from k8snearkit import JOBS, KWOK, NOWHERE, PODS, SECRETS, objects
from peers.kubelab import Cluster

from outpost_core import wire
from outpost_core.backend import BuildContext
from outpost_core.errors import ConflictError
from outpost_core.types import Cleaned, Issue, Order, State, WorkerStatus
from outpost_k8s.objects import names
from outpost_k8s.outpost import K8sOutpost

pytestmark = pytest.mark.kube

#: Where a spawn can be killed after a write at the cluster.
WRITES = ("kube.secret_created", "kube.job_created", "kube.secret_owned")


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace() as made:
        yield made


def test_a_worker_is_seen_ended_and_cleaned_by_both(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    said = kit.options(cluster, namespace, **KWOK)
    order = kit.order("both")

    async def make(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=order)

    async def see(mine: K8sOutpost) -> WorkerStatus:
        return await kit.ended(mine, order.worker)

    async def clean(mine: K8sOutpost) -> None:
        assert (await mine.outpost_clean(worker=order.worker, force=False)).removed
        assert await mine.outpost_list() == []

    async def clean_theirs(mine: K8sOutpost) -> None:
        answer = await mine.outpost_clean(worker=order.worker, force=False)
        assert not answer.removed
        assert "another machine ordered it" in answer.detail
        assert len(objects(cluster, JOBS, namespace)) == 1
        assert (await mine.outpost_clean(worker=order.worker, force=True)).removed
        assert await mine.outpost_list() == []

    kit.with_outpost(said, tmp_path / "first", make)
    there = kit.with_outpost(said, tmp_path / "second", see)
    here = kit.with_outpost(said, tmp_path / "first", see)
    assert there.digest == here.digest == wire.digest(order)
    assert there.result is not None
    assert here.result is not None
    assert (there.result.state, there.result.reason) == (here.result.state, here.result.reason)
    kit.with_outpost(said, tmp_path / "second", clean_theirs)
    kept = kit.with_outpost(said, tmp_path / "first", see)
    assert kept.result == here.result, "whoever ordered it still tells how it ended"
    kit.with_outpost(said, tmp_path / "first", clean)
    assert objects(cluster, JOBS, namespace) == []
    assert objects(cluster, SECRETS, namespace) == []


def test_whose_ledger_has_it_cleans_it_also_without_its_state_folder(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    said = kit.options(cluster, namespace, **KWOK)
    order = kit.order("mine")

    async def ordered(worker: str) -> Order | None:
        return order if worker == order.worker else None

    async def work() -> Cleaned:
        await first.outpost_spawn(order=order)
        await first.outpost_close()
        mine = K8sOutpost("kube", said, BuildContext(state_dir=tmp_path / "new", ordered=ordered))
        try:
            await kit.ended(mine, order.worker)
            cleaned: Cleaned = await mine.outpost_clean(worker=order.worker, force=False)
            return cleaned
        finally:
            await mine.outpost_close()

    first = kit.outpost(said, tmp_path / "gone")
    assert asyncio.run(work()).removed
    assert objects(cluster, JOBS, namespace) == []


@pytest.mark.parametrize("point", WRITES)
def test_the_other_one_carries_on_with_a_spawn_that_was_killed(
    cluster: Cluster, namespace: str, tmp_path: Path, point: str
) -> None:
    said = kit.options(cluster, namespace, **KWOK)
    order = kit.order("passed-on")
    killed = kit.child("spawn", said, tmp_path / "first", order, fault=point)
    assert kit.killed(killed)
    assert len(objects(cluster, SECRETS, namespace)) == 1

    async def carry_on(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=order)
        if point != "kube.secret_created":  # its pod may have ended, and its end be brought home
            return
        [secret] = objects(cluster, SECRETS, namespace)
        [job] = objects(cluster, JOBS, namespace)
        [owner] = secret["metadata"]["ownerReferences"]
        assert owner["uid"] == job["metadata"]["uid"]

    async def end(mine: K8sOutpost) -> WorkerStatus:
        return await kit.ended(mine, order.worker)

    async def repeat(mine: K8sOutpost) -> WorkerStatus:
        await mine.outpost_spawn(order=order)
        status = await kit.ended(mine, order.worker)
        assert (await mine.outpost_spawn(order=order)).state is status.state, "never made anew"
        return status

    kit.with_outpost(said, tmp_path / "second", carry_on)
    there = kit.with_outpost(said, tmp_path / "second", end)
    here = kit.with_outpost(said, tmp_path / "first", repeat)
    assert there.state is here.state
    [job] = objects(cluster, JOBS, namespace)
    [pod] = objects(cluster, PODS, namespace)
    assert pod["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    for state in ("first", "second"):
        kit.with_outpost(said, tmp_path / state, lambda mine: mine.outpost_list())
    assert objects(cluster, SECRETS, namespace) == []


@pytest.mark.parametrize("point", WRITES)
def test_a_spawn_that_was_killed_keeps_its_name_against_another_order(
    cluster: Cluster, namespace: str, tmp_path: Path, point: str
) -> None:
    said = kit.options(cluster, namespace, **NOWHERE)
    order = kit.order("taken")
    other = replace(order, issue=Issue(id="taken", title="another"))
    assert kit.killed(kit.child("spawn", said, tmp_path / "first", order, fault=point))
    before = objects(cluster, SECRETS, namespace)

    async def refused(mine: K8sOutpost) -> None:
        with pytest.raises(ConflictError, match="with another order"):
            await mine.outpost_spawn(order=other)

    async def finish(mine: K8sOutpost) -> WorkerStatus:
        status: WorkerStatus = await mine.outpost_spawn(order=order)
        return status

    kit.with_outpost(said, tmp_path / "second", refused)
    assert [one["data"] for one in objects(cluster, SECRETS, namespace)] == [
        one["data"] for one in before
    ], "what the first has written stays"
    assert kit.with_outpost(said, tmp_path / "first", finish).state is State.STARTING
    [job] = objects(cluster, JOBS, namespace)
    assert job["metadata"]["annotations"][names.DIGEST] == wire.digest(order)
    [secret] = objects(cluster, SECRETS, namespace)
    assert secret["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
