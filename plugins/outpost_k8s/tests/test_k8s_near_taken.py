"""Pods that a cluster takes away, and workers that it does not let in: nothing is lost in silence.

Each is done to a worker of a real kubelet as a cluster does it, and its work has to be on the rig.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import k8snearkit as kit
import pytest
from k8snearkit import JOBS, PODS, SECRETS
from peers.kubehook import Hook, mutate, refuse
from peers.kubelab import Lab, Options, own_lab
from test_k8s_near_pods import has_ref, pod_of, printed, rig_order
from test_k8s_near_pods import rig as rig  # noqa: PLC0414 - a fixture

from outpost_core.errors import ConflictError, SpawnRefusedError
from outpost_core.types import State, WorkerStatus
from outpost_k8s.near import aftercare, seen
from outpost_k8s.near.seen import has_ended
from outpost_k8s.objects import names
from outpost_k8s.options import K8sOptions
from outpost_k8s.outpost import K8sOutpost

pytestmark = pytest.mark.kube

#: Some work, and then nothing for a long time.
HOLDS = "echo new > file; echo up; sleep 300"
CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"
RULES = [
    {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}
]


#: What is created for nothing, to be asked about.
PROBE = {
    "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "probe"},
    "spec": {
        "suspend": True,
        "template": {
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "none"}]}
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with own_lab(Options(fake_nodes=0)) as running:
        yield running


@pytest.fixture
def said(lab: Lab, image: str, namespace: str) -> K8sOptions:
    return kit.options(lab, namespace, image=image, cpu=0.5, memory=128 << 20)


def taken_away(said: K8sOptions, rig: str, state: Path, take: Callable[[], None]) -> WorkerStatus:
    """Return how a worker ended whose pod was taken away while it had unpushed work."""
    order = rig_order("gone", rig, HOLDS)

    async def work(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=order)
        await printed(mine, "gone.1", b"up")

    kit.with_outpost(said, state, work)
    take()
    status = kit.with_outpost(said, state, lambda mine: kit.ended(mine, "gone.1"))
    assert status.result is not None
    assert status.result.checkpoint is not None, status
    assert has_ref(rig, status.result.checkpoint), status
    return status


def test_an_evicted_worker_s_work_is_on_its_rig(
    lab: Lab, said: K8sOptions, namespace: str, rig: str, tmp_path: Path
) -> None:
    def evict() -> None:
        name = pod_of(lab, namespace, "gone.1")["metadata"]["name"]
        path = f"{PODS.format(namespace)}/{name}"
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        lab.admin.post(f"{path}/eviction", body)
        lab.admin.gone(path)

    status = taken_away(said, rig, tmp_path, evict)
    assert (status.state, status.detail) == (State.STOPPED, "k8s_evicted")
    assert status.result is not None
    assert "its pod was evicted" in status.result.message
    assert "SIGTERM" in status.result.message


def test_a_preempted_worker_s_work_is_on_its_rig(
    lab: Lab, said: K8sOptions, namespace: str, rig: str, tmp_path: Path
) -> None:
    high = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1000,
            "metadata": {"name": f"high-{namespace}"}}  # fmt: skip
    lab.admin.post(CLASSES, high)
    room = lab.admin.get("/api/v1/nodes/node-1")["status"]["allocatable"]["cpu"]
    cpus = float(room[:-1]) / 1000 if room.endswith("m") else float(room)
    other = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "urgent"},
        "spec": {
            "priorityClassName": high["metadata"]["name"], "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "none", "imagePullPolicy": "Never",
                            "resources": {"requests": {"cpu": str(cpus)}}}],
        },
    }  # fmt: skip

    def preempt() -> None:
        name = pod_of(lab, namespace, "gone.1")["metadata"]["name"]
        lab.admin.post(PODS.format(namespace), other)
        lab.admin.gone(f"{PODS.format(namespace)}/{name}")

    try:
        status = taken_away(said, rig, tmp_path, preempt)
    finally:
        lab.admin.delete(f"{CLASSES}/{high['metadata']['name']}")
    assert (status.state, status.detail) == (State.STOPPED, "k8s_preempted")
    assert status.result is not None
    assert "made room for one of a higher priority: Preempted by pod" in status.result.message


def test_work_of_a_namespace_that_is_removed_is_on_its_rig(
    lab: Lab, said: K8sOptions, rig: str, tmp_path: Path
) -> None:
    with lab.namespace() as doomed:
        mine = replace(said, namespace=doomed)
        path = f"/api/v1/namespaces/{doomed}"

        def remove() -> None:
            lab.admin.delete(path)
            lab.admin.gone(path)

        status = taken_away(mine, rig, tmp_path, remove)
        assert (status.state, status.detail) == (State.STOPPED, "k8s_deleted")


def test_an_evicted_pod_that_is_seen_before_it_is_gone_says_the_same(
    lab: Lab, said: K8sOptions, namespace: str, rig: str, tmp_path: Path
) -> None:
    def evict() -> None:
        name = pod_of(lab, namespace, "gone.1")["metadata"]["name"]
        path = f"{PODS.format(namespace)}/{name}"
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        lab.admin.patch(path, {"metadata": {"finalizers": ["kubelab.test/stays"]}})
        lab.admin.post(f"{path}/eviction", body)
        lab.admin.until(path, has_ended)

    try:
        status = taken_away(said, rig, tmp_path, evict)
    finally:
        for pod in lab.admin.get(PODS.format(namespace))["items"]:
            path = f"{PODS.format(namespace)}/{pod['metadata']['name']}"
            lab.admin.patch(path, {"metadata": {"finalizers": None}})
    assert (status.state, status.detail) == (State.STOPPED, "k8s_evicted")
    assert status.result is not None
    assert "Eviction API: evicting" in status.result.message


def test_a_job_past_its_deadline_says_so_and_its_work_is_on_its_rig(
    lab: Lab, said: K8sOptions, namespace: str, rig: str, tmp_path: Path
) -> None:
    def late() -> None:
        job = f"{JOBS.format(namespace)}/{names.job_name('gone.1')}"
        lab.admin.patch(job, {"spec": {"activeDeadlineSeconds": 1}})
        lab.admin.until(job, lambda found: seen.condition(found, "Failed"))

    status = taken_away(said, rig, tmp_path, late)
    assert (status.state, status.detail) == (State.FAILED, "k8s_deadline")
    assert status.result is not None
    assert "activeDeadlineSeconds" in status.result.message


def test_an_agent_does_not_notice_that_the_kubelet_is_away(
    lab: Lab, said: K8sOptions, tmp_path: Path
) -> None:
    script = "for i in $(seq 1 8); do echo line $i; sleep 1; done"

    async def work(mine: K8sOutpost) -> bytes:
        await mine.outpost_spawn(order=kit.order("kubelet", script))
        await printed(mine, "kubelet.1", b"line 1")
        await asyncio.to_thread(lab.kill, "kubelet")
        await asyncio.sleep(2)
        await asyncio.to_thread(lab.start, "kubelet")
        status = await kit.ended(mine, "kubelet.1")
        assert status.state is State.DONE, status
        pieces = mine.outpost_logs(worker="kubelet.1", offset=0, follow=False)
        return b"".join([piece async for piece in pieces])

    got = kit.with_outpost(said, tmp_path, work)
    assert got == b"".join(b"line %d\n" % i for i in range(1, 9))


def test_a_quota_that_is_used_up_is_told_and_waited_for(
    lab: Lab, said: K8sOptions, namespace: str, tmp_path: Path
) -> None:
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
             "spec": {"hard": {"pods": "0"}}}  # fmt: skip
    lab.admin.post(path, quota)
    lab.admin.until(f"{path}/none", lambda found: "hard" in found.get("status", {}))

    async def work(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=kit.order("quota"))
        status = await kit.listed(mine, "quota.1", lambda one: "quota" in one.detail)
        assert not status.state.terminal
        await asyncio.to_thread(lab.admin.delete, f"{path}/none")
        assert (await kit.ended(mine, "quota.1")).state is State.DONE

    kit.with_outpost(said, tmp_path, work)


def test_an_admission_webhook_that_refuses_is_quoted_and_leaves_nothing(
    lab: Lab, said: K8sOptions, namespace: str, tmp_path: Path
) -> None:
    def decide(request: dict[str, Any]) -> dict[str, Any]:
        if request.get("name", "").startswith("outpost-"):
            return refuse("no agents on Saturdays")
        return mutate()

    async def work(mine: K8sOutpost) -> None:
        end = time.monotonic() + kit.PATIENCE
        while not hook.asked:  # the API server looks for new ones now and then
            with pytest.raises(SpawnRefusedError, match="no agents on Saturdays"):
                await mine.outpost_spawn(order=kit.order("refused"))
            assert time.monotonic() < end
        assert [one.id for one in await mine.outpost_list()] == []

    with lab.webhook(decide, namespace, RULES) as hook:
        container = {"name": "c", "image": "none"}
        pod = {"restartPolicy": "Never", "containers": [container]}
        probe = {
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "probe"},
            "spec": {"suspend": True, "template": {"spec": pod}},
        }  # fmt: skip
        end = time.monotonic() + kit.PATIENCE
        while not hook.asked:
            lab.admin.post(JOBS.format(namespace), probe)
            lab.admin.delete(f"{JOBS.format(namespace)}/probe", {"propagationPolicy": "Background"})
            lab.admin.gone(f"{JOBS.format(namespace)}/probe")
            assert time.monotonic() < end
        hook.asked.clear()
        kit.with_outpost(said, tmp_path, work)
    for path in (JOBS, SECRETS, PODS):
        left = lab.admin.get(path.format(namespace), labelSelector=names.SELECTOR)["items"]
        assert left == []


def hooked(lab: Lab, namespace: str, hook: Hook, path: str, probe: dict[str, Any]) -> None:
    """Return when the API server asks a new webhook, which it looks for now and then."""
    end = time.monotonic() + kit.PATIENCE
    while not hook.asked:
        lab.admin.post(path.format(namespace), probe, dryRun="All")
        assert time.monotonic() < end
    hook.asked.clear()


def test_a_webhook_that_adds_things_to_a_worker_is_no_other_order(
    lab: Lab, said: K8sOptions, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels, a limit, and a container that never ends, as a service mesh has it."""
    monkeypatch.setattr(aftercare, "_OTHERS", 1.0)
    sleeps = {
        "name": "mesh", "image": said.image, "imagePullPolicy": "Never",
        "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 600 & wait"],
        "securityContext": {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
        },
    }  # fmt: skip

    def decide(request: dict[str, Any]) -> dict[str, Any]:
        if not request.get("name", "").startswith("outpost-"):
            return mutate()
        return mutate(
            {"op": "add", "path": "/metadata/labels/team", "value": "mine"},
            {"op": "add", "path": "/spec/template/metadata/labels/team", "value": "mine"},
            {"op": "add", "path": "/spec/template/spec/containers/0", "value": sleeps},
            {"op": "replace", "path": "/spec/ttlSecondsAfterFinished", "value": 1000},
        )

    order = kit.order("meshed", "echo out")

    async def work(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=order)
        await mine.outpost_spawn(order=order)
        status = await kit.ended(mine, "meshed.1")
        assert status.state is State.DONE, status

    async def other(mine: K8sOutpost) -> None:
        assert (await mine.outpost_spawn(order=order)).id == "meshed.1", "adopted"
        with pytest.raises(ConflictError):
            await mine.outpost_spawn(order=kit.order("meshed", "echo another"))

    async def later(mine: K8sOutpost) -> bytes:
        end = time.monotonic() + kit.PATIENCE
        while True:  # its pod goes although the other container wants to stay
            await mine.outpost_list()
            pods = kit.objects(lab, PODS, namespace)
            if all(pod["status"]["phase"] != "Running" for pod in pods):
                break
            assert time.monotonic() < end, pods
            await asyncio.sleep(0.5)
        pieces = mine.outpost_logs(worker="meshed.1", offset=0, follow=False)
        log = b"".join([piece async for piece in pieces])
        assert (await mine.outpost_clean(worker="meshed.1", force=False)).removed
        return log

    with lab.webhook(decide, namespace, RULES) as hook:
        hooked(lab, namespace, hook, JOBS, PROBE)
        kit.with_outpost(said, tmp_path / "first", work)
        [job] = kit.objects(lab, JOBS, namespace)
        assert len(job["spec"]["template"]["spec"]["containers"]) == 2
        kit.with_outpost(said, tmp_path / "second", other)
        assert kit.with_outpost(said, tmp_path / "first", later) == b"out\n"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"path": "/spec/backoffLimit", "value": 6}, "spec.backoffLimit is 6 and not 0"),
        ({"path": "/metadata/labels/app.kubernetes.io~1managed-by", "value": "mesh"}, "managed-by"),
        ({"path": "/spec/template/spec/containers/0/command", "value": ["sh"]}, "worker.command"),
    ],
)  # fmt: skip
def test_a_webhook_that_takes_away_what_a_worker_stands_on_is_named_and_nothing_is_made(
    lab: Lab, said: K8sOptions, namespace: str, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    def decide(request: dict[str, Any]) -> dict[str, Any]:
        if not request.get("name", "").startswith("outpost-"):
            return mutate()
        return mutate({"op": "replace", **change})

    async def work(mine: K8sOutpost) -> None:
        with pytest.raises(SpawnRefusedError, match=re.escape(says)) as told:
            await mine.outpost_spawn(order=kit.order("changed"))
        assert "admission webhooks" in told.value.hint

    with lab.webhook(decide, namespace, RULES) as hook:
        hooked(lab, namespace, hook, JOBS, PROBE)
        kit.with_outpost(said, tmp_path, work)
    for path in (JOBS, SECRETS, PODS):
        assert lab.admin.get(path.format(namespace))["items"] == []


def test_a_namespace_that_is_being_removed_takes_no_worker(
    lab: Lab, said: K8sOptions, tmp_path: Path
) -> None:
    with lab.namespace() as doomed:
        path = f"/api/v1/namespaces/{doomed}"
        maps = f"{path}/configmaps"
        held = {"metadata": {"name": "held", "finalizers": ["kubelab.test/stays"]}}
        lab.admin.post(maps, held)
        lab.admin.delete(path)
        lab.admin.until(path, lambda found: found["status"]["phase"] == "Terminating")

        async def work(mine: K8sOutpost) -> None:
            with pytest.raises(SpawnRefusedError, match="is being terminated") as told:
                await mine.outpost_spawn(order=kit.order("late"))
            assert "outpost bootstrap kube" in told.value.hint
            assert await mine.outpost_list() == []

        try:
            kit.with_outpost(replace(said, namespace=doomed), tmp_path, work)
        finally:
            lab.admin.patch(f"{maps}/held", {"metadata": {"finalizers": None}})
        lab.admin.gone(path)
