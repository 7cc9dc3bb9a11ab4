"""Kueue itself admits workers, lets them wait with their place told, and takes their room away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import k8snearkit as kit
import pytest
from k8snearkit import JOBS, KWOK, NOWHERE
from peers import kueue
from peers.kubelab import Lab, Options, own_lab
from peers.kueue import Kueue

from outpost_core.types import Issue, Order, State
from outpost_k8s.objects import names
from outpost_k8s.outpost import K8sOutpost

pytestmark = pytest.mark.kube


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with own_lab(Options(real_node=False, fake_nodes=1)) as running:
        yield running


@pytest.fixture(scope="module")
def there(lab: Lab) -> Iterator[Kueue]:
    with kueue.installed(lab) as running:
        yield running


def order(name: str, priority: int = 2) -> Order:
    made = kit.order(name)
    return Order(
        issue=Issue(id=name, priority=priority), agent=made.agent, limits=made.limits,
        owner=made.owner,
    )  # fmt: skip


def test_workers_wait_in_line_each_with_its_place_and_what_is_lacking(
    lab: Lab, there: Kueue, namespace: str, tmp_path: Path
) -> None:
    there.queue(namespace, "agents", cpu="10m", memory="1Gi", ephemeral_storage="1Gi")
    said = kit.options(lab, namespace, **NOWHERE, queue="agents", patience=600.0)

    async def work(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=order("first"))
        first = await kit.listed(mine, "first.1", lambda one: "no node" in one.detail)
        assert first.state is State.STARTING, "it was admitted, and lacks a node"
        for name in ("second", "third"):
            await mine.outpost_spawn(order=order(name))
            waits = await kit.listed(
                mine, f"{name}.1",
                lambda one: "insufficient" in one.detail and "queue agents, " in one.detail,
            )  # fmt: skip
            assert waits.state is State.QUEUED
            assert "cpu in flavor default" in waits.detail
        # which of two that came within a second is the first is Kueue's to say
        line = [one.id for one in await mine.outpost_list() if "it is next" in one.detail]
        line += [one.id for one in await mine.outpost_list() if "1 before it" in one.detail]
        assert sorted(line) == ["second.1", "third.1"]
        await mine.outpost_stop(worker="first.1", grace=0.0)
        await kit.ended(mine, "first.1")
        await kit.listed(mine, line[0], lambda one: one.state is State.STARTING)
        await kit.listed(mine, line[1], lambda one: "it is next" in one.detail)

    kit.with_outpost(said, tmp_path, work)


def test_who_is_urgent_takes_the_room_of_another_which_comes_back(
    lab: Lab, there: Kueue, namespace: str, tmp_path: Path
) -> None:
    there.queue(namespace, "agents", cpu="10m", memory="1Gi", ephemeral_storage="1Gi")
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    lab.admin.post(classes, {"metadata": {"name": "urgent"}, "value": 1000})
    said = kit.options(
        lab, namespace, **NOWHERE, queue="agents", patience=600.0, priority_class={"P0": "urgent"}
    )

    async def work(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=order("plain"))
        await kit.listed(mine, "plain.1", lambda one: one.state is State.STARTING)
        await mine.outpost_spawn(order=order("now", 0))
        await kit.listed(mine, "now.1", lambda one: one.state is State.STARTING)
        waits = await kit.listed(mine, "plain.1", lambda one: one.state is State.QUEUED)
        assert "queue agents" in waits.detail
        await mine.outpost_stop(worker="now.1", grace=0.0)
        await kit.ended(mine, "now.1")
        await kit.listed(mine, "plain.1", lambda one: one.state is State.STARTING)

    kit.with_outpost(said, tmp_path, work)


def test_a_queue_that_is_held_suspends_its_workers_and_resumes_them(
    lab: Lab, there: Kueue, namespace: str, tmp_path: Path
) -> None:
    queue = there.queue(namespace, "agents", cpu="1", memory="1Gi", ephemeral_storage="1Gi")
    said = kit.options(lab, namespace, **NOWHERE, queue="agents", patience=600.0)
    path = f"{JOBS.format(namespace)}/{names.job_name('held.1')}"

    async def work(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=order("held"))
        await kit.listed(mine, "held.1", lambda one: one.state is State.STARTING)
        assert not lab.admin.get(path)["spec"]["suspend"]
        queue.hold()
        held = await kit.listed(mine, "held.1", lambda one: one.state is State.QUEUED)
        assert "queue agents" in held.detail
        assert lab.admin.get(path)["spec"]["suspend"]
        queue.resume()
        await kit.listed(mine, "held.1", lambda one: one.state is State.STARTING)

    kit.with_outpost(said, tmp_path, work)


def test_a_queue_of_workers_runs_to_its_end_one_after_the_other(
    lab: Lab, there: Kueue, namespace: str, tmp_path: Path
) -> None:
    there.queue(namespace, "agents", cpu="20m", memory="1Gi", ephemeral_storage="1Gi")
    said = kit.options(lab, namespace, **KWOK, queue="agents")

    async def work(mine: K8sOutpost) -> None:
        for number in range(5):
            await mine.outpost_spawn(order=order(f"n{number}"))
        for number in range(5):
            assert (await kit.ended(mine, f"n{number}.1")).result is not None

    kit.with_outpost(said, tmp_path, work)
