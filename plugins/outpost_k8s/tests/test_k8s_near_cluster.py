"""The near side against a real API server, controllers and scheduler: each step can be the last."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import k8snearkit
import pytest
from k8snearkit import JOBS, KWOK, NOWHERE, PODS, SECRETS, objects
from peers.kubelab import Cluster

from outpost_core.errors import ConflictError, NotFoundError, SpawnRefusedError, UnreachableError
from outpost_core.types import Issue, Result, Secrets, State, WorkerStatus
from outpost_k8s.api.client import Cluster as ApiCluster
from outpost_k8s.near import look
from outpost_k8s.near.kept import Kept
from outpost_k8s.objects import names
from outpost_k8s.outpost import K8sOutpost
from outpost_shared import faults

pytestmark = pytest.mark.kube


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace() as made:
        yield made


# --- spawn --------------------------------------------------------------------------------------


def test_the_same_order_twice_is_one_job_and_another_one_a_conflict(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    said = k8snearkit.options(cluster, namespace, **NOWHERE)
    order = k8snearkit.order("twice", secrets=Secrets({"KEY": "s3cret"}))
    other = replace(order, issue=Issue(id="twice", title="another"))

    async def work(mine: K8sOutpost) -> None:
        assert (await mine.outpost_spawn(order=order)).state is State.STARTING
        again = await mine.outpost_spawn(order=order)
        assert (again.id, again.state) == ("twice.1", State.STARTING)
        with pytest.raises(ConflictError, match="something else"):
            await mine.outpost_spawn(order=other)

    async def elsewhere(mine: K8sOutpost) -> None:
        assert (await mine.outpost_spawn(order=order)).state is State.STARTING
        with pytest.raises(ConflictError):
            await mine.outpost_spawn(order=other)

    async def never_asked(mine: K8sOutpost) -> None:
        with pytest.raises(ConflictError, match="with another order"):
            await mine.outpost_spawn(order=other)

    k8snearkit.with_outpost(said, tmp_path / "a", work)
    k8snearkit.with_outpost(said, tmp_path / "b", elsewhere)
    k8snearkit.with_outpost(said, tmp_path / "c", never_asked)
    [job] = objects(cluster, JOBS, namespace)
    [secret] = objects(cluster, SECRETS, namespace)
    assert secret["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    assert "s3cret" not in str(job)


def test_two_controllers_at_once_are_one_worker(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    said = k8snearkit.options(cluster, namespace, **NOWHERE)
    orders = [k8snearkit.order(f"race-{number}") for number in range(4)]
    found: list[WorkerStatus] = []

    async def work(mine: K8sOutpost) -> None:
        found.extend(await asyncio.gather(*(mine.outpost_spawn(order=order) for order in orders)))

    threads = [
        threading.Thread(target=k8snearkit.with_outpost, args=(said, tmp_path / str(at), work))
        for at in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(k8snearkit.PATIENCE)
    assert len(found) == 12
    assert len(objects(cluster, JOBS, namespace)) == 4
    secrets = objects(cluster, SECRETS, namespace)
    assert len(secrets) == 4
    assert all(one["metadata"].get("ownerReferences") for one in secrets)


@pytest.mark.parametrize(
    "point", ["kube.secret_created", "kube.job_created", "kube.secret_owned", "kube.accepted"]
)
def test_a_spawn_killed_at_any_write_is_one_worker_when_it_is_repeated(
    cluster: Cluster, namespace: str, tmp_path: Path, point: str
) -> None:
    assert point in faults.KUBE
    said = k8snearkit.options(cluster, namespace, **KWOK)
    order = k8snearkit.order("killed")
    assert k8snearkit.killed(k8snearkit.child("spawn", said, tmp_path, order, fault=point))

    async def work(mine: K8sOutpost) -> WorkerStatus:
        await mine.outpost_list()
        await mine.outpost_spawn(order=order)
        return await k8snearkit.ended(mine, "killed.1")

    status = k8snearkit.with_outpost(said, tmp_path, work)
    assert status.result is not None
    assert len(objects(cluster, JOBS, namespace)) == 1
    k8snearkit.with_outpost(said, tmp_path, lambda mine: mine.outpost_list())
    assert objects(cluster, SECRETS, namespace) == [], "it went with the end"


@pytest.mark.parametrize("arrives", [True, False])
def test_a_create_whose_answer_is_lost_is_found_by_its_name(
    cluster: Cluster,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arrives: bool,
) -> None:
    said = k8snearkit.options(cluster, namespace, **NOWHERE)
    order = k8snearkit.order("lost-answer")
    create = ApiCluster.create

    async def lossy(
        self: ApiCluster, path: str, body: Any, *, dry_run: bool = False
    ) -> dict[str, Any]:
        if "/jobs" not in path or dry_run:
            return await create(self, path, body, dry_run=dry_run)
        if arrives:
            await create(self, path, body, dry_run=dry_run)
        raise UnreachableError("the line broke")

    monkeypatch.setattr(ApiCluster, "create", lossy)

    async def work(mine: K8sOutpost) -> None:
        if arrives:
            assert (await mine.outpost_spawn(order=order)).state is State.STARTING
            return
        with pytest.raises(UnreachableError, match="the line broke") as told:
            await mine.outpost_spawn(order=order)
        assert told.value.sent, "it may arrive yet"
        monkeypatch.setattr(ApiCluster, "create", create)
        assert (await mine.outpost_spawn(order=order)).state is State.STARTING

    k8snearkit.with_outpost(said, tmp_path, work)
    assert len(objects(cluster, JOBS, namespace)) == 1
    assert len(objects(cluster, SECRETS, namespace)) == 1


def test_a_refused_job_leaves_nothing_behind(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    cluster.admin.post(f"/api/v1/namespaces/{namespace}/resourcequotas", quota)
    cluster.admin.until(
        f"/api/v1/namespaces/{namespace}/resourcequotas/none",
        lambda found: found.get("status", {}).get("hard"),
    )
    said = k8snearkit.options(cluster, namespace, **NOWHERE)

    async def work(mine: K8sOutpost) -> None:
        with pytest.raises(SpawnRefusedError, match="exceeded quota"):
            await mine.outpost_spawn(order=k8snearkit.order("refused"))
        assert await mine.outpost_list() == []

    k8snearkit.with_outpost(said, tmp_path, work)
    assert objects(cluster, SECRETS, namespace) == []


# --- ends -----------------------------------------------------------------------------------------


def test_a_job_that_somebody_deletes_is_lost_after_two_answers_and_stays_told(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    said = k8snearkit.options(cluster, namespace, **NOWHERE, price_per_hour=9.0)
    order = k8snearkit.order("deleted")

    async def first(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=order)
        cluster.admin.delete(
            f"{JOBS.format(namespace)}/{names.job_name('deleted.1')}",
            {"propagationPolicy": "Background"},
        )
        status = await k8snearkit.ended(mine, "deleted.1")
        assert (status.state, status.detail) == (State.LOST, "k8s_deleted")
        assert status.result is not None
        assert "its Job was deleted" in status.result.message
        assert status.result.cost_usd is None, "which the ledger settles by its worst case"
        assert "its worst case counts" in status.result.message
        assert (await mine.outpost_spawn(order=order)).state is State.LOST, "never made anew"

    async def second(mine: K8sOutpost) -> None:
        [status] = await mine.outpost_list()
        assert status.state is State.LOST
        assert (await mine.outpost_clean(worker="deleted.1", force=False)).removed
        assert await mine.outpost_list() == []
        with pytest.raises(NotFoundError):
            [piece async for piece in mine.outpost_logs(worker="deleted.1", offset=0, follow=True)]

    k8snearkit.with_outpost(said, tmp_path, first)
    k8snearkit.with_outpost(said, tmp_path, second)
    assert objects(cluster, JOBS, namespace) == []


def test_nothing_is_lost_at_another_cluster(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    said = k8snearkit.options(cluster, namespace, **NOWHERE)
    k8snearkit.with_outpost(
        said, tmp_path, lambda mine: mine.outpost_spawn(order=k8snearkit.order("moved"))
    )
    with cluster.namespace() as other:
        [status] = k8snearkit.with_outpost(
            replace(said, namespace=other), tmp_path, lambda mine: mine.outpost_list()
        )
    assert not status.state.terminal
    assert "it was ordered at" in status.detail


def test_what_no_node_takes_is_told_and_taken_back_when_patience_ends(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    said = k8snearkit.options(cluster, namespace, **NOWHERE, patience=0.0, price_per_hour=9.0)

    async def waits(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=k8snearkit.order("nowhere"))
        status = await k8snearkit.listed(mine, "nowhere.1", lambda one: "no node" in one.detail)
        assert status.state is State.STARTING
        assert "node_selector" in status.detail, "the hint"
        assert (await mine.outpost_list())[0] is status, "the same while nothing changes"

    async def taken_back(mine: K8sOutpost) -> WorkerStatus:
        return await k8snearkit.ended(mine, "nowhere.1")

    k8snearkit.with_outpost(said, tmp_path, waits)
    status = k8snearkit.with_outpost(replace(said, patience=1.0), tmp_path, taken_back)
    assert (status.state, status.detail) == (State.FAILED, "k8s_unschedulable")
    assert status.result is not None
    assert status.result.agent_began is False
    assert "did not begin within 1 s" in status.result.message
    assert status.result.cost_usd == 0, "no node ever had it"
    assert objects(cluster, JOBS, namespace) == []
    assert objects(cluster, PODS, namespace) == []


@pytest.mark.parametrize("point", ["", "kube.stop_noted", "kube.ending_noted", "kube.job_deleted"])
def test_a_stop_before_it_began_takes_it_away_whole(
    cluster: Cluster, namespace: str, tmp_path: Path, point: str
) -> None:
    said = k8snearkit.options(cluster, namespace, **NOWHERE)
    order = k8snearkit.order("stopped")
    assert k8snearkit.child("spawn", said, tmp_path, order) == 0
    code = k8snearkit.child("stop", said, tmp_path, order, fault=point)
    assert k8snearkit.killed(code) if point else code == 0

    async def again(mine: K8sOutpost) -> WorkerStatus:
        return await k8snearkit.ended(mine, "stopped.1")

    status = k8snearkit.with_outpost(said, tmp_path, again)
    assert (status.state, status.detail) == (State.STOPPED, "stopped")
    assert status.result is not None
    assert status.result.agent_began is False
    assert objects(cluster, JOBS, namespace) == []


@pytest.mark.parametrize("point", ["kube.harvested", "kube.secret_deleted", "kube.log_kept"])
def test_an_end_that_is_brought_home_survives_a_kill(
    cluster: Cluster, namespace: str, tmp_path: Path, point: str
) -> None:
    said = k8snearkit.options(cluster, namespace, **KWOK)
    order = k8snearkit.order("home")
    assert k8snearkit.child("spawn", said, tmp_path, order) == 0
    assert k8snearkit.killed(k8snearkit.child("end", said, tmp_path, order, fault=point))
    status = k8snearkit.with_outpost(said, tmp_path, lambda mine: k8snearkit.ended(mine, "home.1"))
    again = k8snearkit.with_outpost(said, tmp_path, lambda mine: k8snearkit.ended(mine, "home.1"))
    assert status == again
    assert status.result is not None
    assert objects(cluster, SECRETS, namespace) == [], "nobody reads the order any more"


@pytest.mark.parametrize("point", ["kube.secret_deleted", "kube.log_kept"])
def test_ends_of_many_that_are_brought_home_together_survive_a_kill(
    cluster: Cluster, namespace: str, tmp_path: Path, point: str
) -> None:
    said = k8snearkit.options(cluster, namespace, **KWOK)
    orders = [k8snearkit.order(f"many{number}") for number in range(look.ALONE + 2)]

    async def spawn(mine: K8sOutpost) -> None:
        await asyncio.gather(*(mine.outpost_spawn(order=order) for order in orders))

    k8snearkit.with_outpost(said, tmp_path, spawn)
    cluster.admin.until(
        JOBS.format(namespace),
        lambda found: all(look.has_ended(job) for job in found["items"]),
        labelSelector=names.SELECTOR,
    )
    assert k8snearkit.killed(k8snearkit.child("end", said, tmp_path, orders[0], fault=point))

    async def home(mine: K8sOutpost) -> None:
        for order in orders:
            assert (await k8snearkit.ended(mine, order.worker)).result is not None
        kept = [mine.desk.keeping.of(order.worker) for order in orders]
        async with asyncio.timeout(k8snearkit.PATIENCE):
            while not all(one.has_log and one.secret_gone for one in kept):
                await mine.outpost_list()

    k8snearkit.with_outpost(said, tmp_path, home)
    assert objects(cluster, SECRETS, namespace) == []
    assert len(objects(cluster, JOBS, namespace)) == len(orders)


@pytest.mark.parametrize("point", ["", "kube.job_deleted", "kube.forgotten"])
def test_clean_removes_job_and_secret_and_what_is_kept(
    cluster: Cluster, namespace: str, tmp_path: Path, point: str
) -> None:
    said = k8snearkit.options(cluster, namespace, **KWOK)
    order = k8snearkit.order("cleaned")
    assert k8snearkit.child("spawn", said, tmp_path, order) == 0
    k8snearkit.with_outpost(said, tmp_path, lambda mine: k8snearkit.ended(mine, "cleaned.1"))
    code = k8snearkit.child("clean", said, tmp_path, order, fault=point)
    assert k8snearkit.killed(code) if point else code == 0

    async def again(mine: K8sOutpost) -> None:
        assert (await mine.outpost_clean(worker="cleaned.1", force=False)).removed
        assert await mine.outpost_list() == []

    k8snearkit.with_outpost(said, tmp_path, again)
    assert objects(cluster, JOBS, namespace) == []
    cluster.admin.until(
        SECRETS.format(namespace), lambda found: not found["items"], labelSelector=names.SELECTOR
    )


def test_a_worker_that_has_not_ended_is_not_cleaned(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    said = k8snearkit.options(cluster, namespace, **NOWHERE)

    async def work(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=k8snearkit.order("waits"))
        cleaned = await mine.outpost_clean(worker="waits.1", force=True)
        assert not cleaned.removed
        assert "has not ended" in cleaned.detail
        assert (await mine.outpost_clean(worker="no-such.1", force=False)).removed
        await mine.outpost_stop(worker="no-such.1", grace=1.0)

    k8snearkit.with_outpost(said, tmp_path, work)


def test_secrets_of_spawns_that_were_never_finished_are_removed_an_hour_later(
    cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = k8snearkit.options(cluster, namespace, **NOWHERE)
    for name, owner in (("orphan", "ab" * 8), ("foreign", "cd" * 8)):
        order = k8snearkit.order(name, owner=owner)
        state = tmp_path / name
        code = k8snearkit.child("spawn", said, state, order, fault="kube.secret_created")
        assert k8snearkit.killed(code)

    async def work(mine: K8sOutpost) -> int:
        await mine.outpost_spawn(order=k8snearkit.order("mine"))
        await mine.outpost_list()
        return len(objects(cluster, SECRETS, namespace))

    assert k8snearkit.with_outpost(said, tmp_path / "state", work) == 3, "too young"
    monkeypatch.setattr("outpost_k8s.near.ending.ORPHANED", -1.0)
    assert k8snearkit.with_outpost(said, tmp_path / "state", work) == 2, "another one's stays"


def test_what_a_worker_cost_is_told_by_the_cluster_s_clocks(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    said = k8snearkit.options(cluster, namespace, **KWOK, price_per_hour=3600.0)

    async def work(mine: K8sOutpost) -> WorkerStatus:
        await mine.outpost_spawn(order=k8snearkit.order("priced"))
        return await k8snearkit.ended(mine, "priced.1")

    status = k8snearkit.with_outpost(said, tmp_path, work)
    assert status.result is not None
    assert status.result.cost_usd is not None
    assert 0 <= status.result.cost_usd < 60, "a dollar a second"


def test_a_hundred_workers_are_one_list(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    said = k8snearkit.options(cluster, namespace, **KWOK)

    async def work(mine: K8sOutpost) -> None:
        orders = [k8snearkit.order(f"many-{number}") for number in range(100)]
        await asyncio.gather(*(mine.outpost_spawn(order=order) for order in orders))
        end = asyncio.get_running_loop().time() + k8snearkit.PATIENCE
        while True:
            statuses = await mine.outpost_list()
            assert len(statuses) == 100
            if all(status.state.terminal for status in statuses):
                break
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.3)
        again = await mine.outpost_list()
        assert all(one is two for one, two in zip(statuses, again, strict=True))

    k8snearkit.with_outpost(said, tmp_path, work)


def test_a_queue_is_waited_for_however_long_and_told(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    said = k8snearkit.options(cluster, namespace, **KWOK, queue="agents", patience=1.0)

    async def work(mine: K8sOutpost, queue: Any) -> None:
        await mine.outpost_spawn(order=k8snearkit.order("queued"))
        waits = await k8snearkit.listed(
            mine, "queued.1", lambda one: "queue agents" in one.detail and ";" in one.detail
        )
        assert waits.state is State.QUEUED
        assert "Kueue has not admitted its Job yet" in waits.detail
        await asyncio.sleep(2.0)
        [status] = await mine.outpost_list()
        assert status.state is State.QUEUED, "waiting in a queue ends no patience"
        queue.slots = 1
        assert (await k8snearkit.ended(mine, "queued.1")).result is not None

    with cluster.kueue(namespace, name="agents", slots=0) as queue:
        k8snearkit.with_outpost(said, tmp_path, lambda mine: work(mine, queue))


def test_jobs_that_others_make_take_no_worker_s_place_and_hide_none(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    said = k8snearkit.options(cluster, namespace, **NOWHERE)

    async def work(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=k8snearkit.order("mine"))
        (job,) = objects(cluster, JOBS, namespace)
        before = await k8snearkit.listed(mine, "mine.1", lambda one: "no node" in one.detail)
        for name, worker in (("zzz", "mine.1"), ("bad", "../../x"), ("odd", "\x1b]0;x\x07.1")):
            metadata = job["metadata"]
            theirs: dict[str, Any] = {
                "apiVersion": "batch/v1", "kind": "Job",
                "metadata": {
                    "name": name, "labels": metadata["labels"],
                    "annotations": {**metadata["annotations"], "outpost/id": worker},
                },
                "spec": {
                    "activeDeadlineSeconds": 1, "backoffLimit": 0,
                    "template": {"spec": {
                        "restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}],
                        "nodeSelector": {"no-such": "node"},
                    }},
                },
            }  # fmt: skip
            cluster.admin.post(JOBS.format(namespace), theirs)
            cluster.admin.until(
                f"{JOBS.format(namespace)}/{name}", lambda found: found["status"].get("failed")
            )
        assert [(one.id, one.state) for one in await mine.outpost_list()] == [
            ("mine.1", before.state)
        ]

    k8snearkit.with_outpost(said, tmp_path, work)


def test_another_job_of_a_worker_s_name_is_not_cleaned_away(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    said = k8snearkit.options(cluster, namespace, **NOWHERE)

    async def work(mine: K8sOutpost, theirs: K8sOutpost) -> None:
        order = k8snearkit.order("again")
        await mine.outpost_spawn(order=order)
        await mine.outpost_stop(worker=order.worker, grace=1.0)
        await k8snearkit.ended(mine, order.worker)
        await theirs.outpost_spawn(order=order)
        cleaned = await mine.outpost_clean(worker=order.worker, force=False)
        assert not cleaned.removed
        assert "another Job of that name" in cleaned.detail
        assert len(objects(cluster, JOBS, namespace)) == 1

    async def both(mine: K8sOutpost) -> None:
        theirs = k8snearkit.outpost(said, tmp_path / "theirs")
        try:
            await work(mine, theirs)
        finally:
            await theirs.outpost_close()

    k8snearkit.with_outpost(said, tmp_path / "mine", both)


def test_what_was_noted_of_another_job_is_not_told_of_this_one(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    said = k8snearkit.options(cluster, namespace, **NOWHERE)

    async def work(mine: K8sOutpost) -> None:
        order = k8snearkit.order("noted")
        await mine.outpost_spawn(order=order)
        kept = Kept(tmp_path / "harvest" / order.worker, order.worker)
        kept.note_ending("0000", Result(state=State.FAILED, agent_began=False))
        await mine.outpost_list()
        assert kept.ending is None

    k8snearkit.with_outpost(said, tmp_path, work)


def test_a_namespace_that_is_not_there_takes_no_worker(cluster: Cluster, tmp_path: Path) -> None:
    said = k8snearkit.options(cluster, "no-such-namespace")

    async def work(mine: K8sOutpost) -> None:
        with pytest.raises(SpawnRefusedError, match="no-such-namespace") as caught:
            await mine.outpost_spawn(order=k8snearkit.order("nowhere"))
        assert "outpost bootstrap kube" in caught.value.hint

    k8snearkit.with_outpost(said, tmp_path, work)
