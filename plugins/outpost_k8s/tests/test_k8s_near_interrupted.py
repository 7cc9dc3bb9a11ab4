"""A program or an API server that goes in the middle of something that is done to a running pod.

The same again brings it to its end: nothing is lost, and nothing happens twice. What is between two
writes of a spawn is in `test_k8s_near_faults`, fetched work in `test_k8s_rescue`.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, aclosing
from dataclasses import replace
from pathlib import Path

import k8snearkit as kit
import pytest
from k8snearkit import JOBS, PODS, SECRETS, objects
from peers.kubelab import Lab, Options, own_lab
from test_k8s_near_faults import hurried as hurried  # noqa: PLC0414 - a fixture
from test_k8s_near_faults import killed, stopped
from test_k8s_near_pods import has_ref, pod_of, printed, rig_order
from test_k8s_near_pods import rig as rig  # noqa: PLC0414 - a fixture

from outpost_core.errors import UnreachableError
from outpost_core.names import checkpoint_ref
from outpost_core.types import State, WorkerStatus
from outpost_k8s.api import process, streams
from outpost_k8s.near.look import Look
from outpost_k8s.objects import names
from outpost_k8s.options import K8sOptions
from outpost_k8s.outpost import K8sOutpost
from outpost_shared import faults

pytestmark = [pytest.mark.kube, pytest.mark.slow]

HOLDS = "echo new > file; echo up; sleep 300"
AWAY = pytest.mark.parametrize("away", [killed, stopped])
Away = Callable[[Lab], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with own_lab(Options(fake_nodes=0)) as running:
        yield running


@pytest.fixture
def said(lab: Lab, image: str, namespace: str) -> K8sOptions:
    return kit.options(lab, namespace, image=image, cpu=0.5, memory=256 << 20)


async def up(mine: K8sOutpost, name: str, rig: str) -> None:
    """Have a worker at work that has something to lose."""
    await mine.outpost_spawn(order=rig_order(name, rig, HOLDS))
    await printed(mine, f"{name}.1", b"up")


def checkpoints(rig: str, worker: str) -> int:
    """Return how many refs a worker has beside its record."""
    done = subprocess.run(["git", "ls-remote", rig], capture_output=True, check=True, text=True)
    return sum(
        f"{worker}" in line and "/records/" not in line and "/stops/" not in line
        for line in done.stdout.splitlines()
    )


def halted(status: WorkerStatus, rig: str) -> None:
    assert (status.state, status.detail) == (State.STOPPED, "stopped"), status
    assert status.result is not None
    ref = checkpoint_ref(status.id, "ab" * 8)
    assert status.result.checkpoint == ref
    assert has_ref(rig, ref)
    assert checkpoints(rig, status.id) == 1, "its work is there once"


def test_a_stop_that_was_killed_when_it_was_noted_is_done_by_the_next_list(
    said: K8sOptions, rig: str, tmp_path: Path
) -> None:
    order = rig_order("noted", rig, HOLDS)
    kit.with_outpost(said, tmp_path, lambda mine: up(mine, "noted", rig))
    assert kit.killed(kit.child("stop", said, tmp_path, order, fault="kube.stop_noted"))

    async def again(mine: K8sOutpost) -> WorkerStatus:
        status = await kit.ended(mine, "noted.1")
        await mine.outpost_stop(worker="noted.1", grace=1.0)  # an ended one: nothing
        return status

    halted(kit.with_outpost(said, tmp_path, again), rig)


def test_a_stop_that_was_killed_is_done_by_another_machine_s_list_too(
    said: K8sOptions, rig: str, tmp_path: Path
) -> None:
    order = rig_order("passed", rig, HOLDS)
    kit.with_outpost(said, tmp_path / "first", lambda mine: up(mine, "passed", rig))
    killed_there = kit.child("stop", said, tmp_path / "first", order, fault="kube.stop_noted")
    assert kit.killed(killed_there)
    look = kit.with_outpost(said, tmp_path / "second", lambda mine: kit.ended(mine, "passed.1"))
    halted(look, rig)
    halted(
        kit.with_outpost(said, tmp_path / "first", lambda mine: kit.ended(mine, "passed.1")), rig
    )


@AWAY
def test_a_server_that_goes_when_a_stop_was_noted(
    lab: Lab, said: K8sOptions, rig: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    away: Away, hurried: None,
) -> None:  # fmt: skip
    with contextlib.ExitStack() as fault:
        reached: list[str] = []

        def once(name: str) -> None:
            if name == "kube.stop_noted" and not reached:
                reached.append(name)
                fault.enter_context(away(lab))

        monkeypatch.setattr(faults, "point", once)

        async def work(mine: K8sOutpost) -> WorkerStatus:
            await up(mine, "mid", rig)
            with contextlib.suppress(UnreachableError):
                await mine.outpost_stop(worker="mid.1", grace=1.0)
            await asyncio.to_thread(fault.close)
            return await patient(mine, "mid.1")

        halted(kit.with_outpost(said, tmp_path, work), rig)
        assert reached


@AWAY
def test_a_server_that_goes_when_a_job_was_deleted_by_a_clean(
    lab: Lab, said: K8sOptions, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    away: Away, hurried: None,
) -> None:  # fmt: skip
    with contextlib.ExitStack() as fault:
        reached: list[str] = []

        def once(name: str) -> None:
            if name == "kube.job_deleted" and not reached:
                reached.append(name)
                fault.enter_context(away(lab))

        monkeypatch.setattr(faults, "point", once)

        async def work(mine: K8sOutpost) -> None:
            await mine.outpost_spawn(order=kit.order("gone", "echo out"))
            status = await kit.ended(mine, "gone.1")
            assert status.state is State.DONE
            with pytest.raises(UnreachableError):
                await mine.outpost_clean(worker="gone.1", force=False)
            log = mine.outpost_logs(worker="gone.1", offset=0, follow=False)
            assert b"".join([piece async for piece in log]) == b"out\n", "it is not forgotten yet"
            await asyncio.to_thread(fault.close)
            assert (await patient(mine, "gone.1")).result == status.result
            assert (await mine.outpost_clean(worker="gone.1", force=False)).removed
            assert await mine.outpost_list() == []

        kit.with_outpost(said, tmp_path, work)
    assert objects(lab, JOBS, namespace) == objects(lab, SECRETS, namespace) == []


@AWAY
def test_a_server_that_goes_between_the_two_lists(
    lab: Lab, said: K8sOptions, rig: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    away: Away, hurried: None,
) -> None:  # fmt: skip
    with contextlib.ExitStack() as fault:
        live_pods = Look.live_pods

        async def gone(look: Look) -> object:
            monkeypatch.setattr(Look, "live_pods", live_pods)
            await asyncio.to_thread(fault.enter_context, away(lab))
            return await live_pods(look)

        async def work(mine: K8sOutpost) -> None:
            await up(mine, "lists", rig)
            monkeypatch.setattr(Look, "live_pods", gone)
            with pytest.raises(UnreachableError):
                await mine.outpost_list()
            await asyncio.to_thread(fault.close)
            assert not (await patient(mine, "lists.1", ended=False)).state.terminal
            await mine.outpost_stop(worker="lists.1", grace=1.0)
            halted(await patient(mine, "lists.1"), rig)

        kit.with_outpost(said, tmp_path, work)


def test_a_follower_outlives_a_server_that_stands_still(
    lab: Lab, said: K8sOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hurried: None
) -> None:
    monkeypatch.setattr(process, "PING", 1.0)
    monkeypatch.setattr(process, "DEAD", 4.0)
    monkeypatch.setattr(streams, "QUIET", 2.0)
    script = "for i in $(seq 1 25); do echo line $i; sleep 1; done"

    async def work(mine: K8sOutpost) -> bytes:
        await mine.outpost_spawn(order=kit.order("still", script))
        got = b""
        waiting: asyncio.Task[None] | None = None

        async def freeze() -> None:
            with stopped(lab):
                await asyncio.sleep(8)  # twice as long as a line may be silent

        read = mine.outpost_logs(worker="still.1", offset=0, follow=True)
        async with aclosing(read) as pieces:
            async for piece in pieces:
                got += piece
                waiting = waiting or asyncio.create_task(freeze())
        assert waiting is not None
        await waiting
        return got

    got = kit.with_outpost(said, tmp_path, work)
    assert got == b"".join(b"line %d\n" % number for number in range(1, 26))


async def patient(mine: K8sOutpost, worker: str, *, ended: bool = True) -> WorkerStatus:
    """List, also while nobody answers, until a worker has ended, or is there at all."""
    end = time.monotonic() + kit.PATIENCE
    while True:
        with contextlib.suppress(UnreachableError):
            found = [one for one in await mine.outpost_list() if one.id == worker]
            if found and (found[0].state.terminal or not ended):
                return found[0]
        assert time.monotonic() < end
        await asyncio.sleep(0.2)


def test_what_ended_unseen_is_told_when_its_job_is_long_gone(
    lab: Lab, said: K8sOptions, namespace: str, rig: str, tmp_path: Path
) -> None:
    order = rig_order("ttl", rig, "echo new > file; echo out")

    async def begin(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=order)

    kit.with_outpost(replace(said, ttl=1.0), tmp_path, begin)
    job = f"{JOBS.format(namespace)}/{names.job_name('ttl.1')}"
    lab.admin.gone(job)

    async def look(mine: K8sOutpost) -> bytes:
        status = await kit.ended(mine, "ttl.1")
        assert (status.state, status.detail) == (State.DONE, "ok")
        assert status.result is not None
        assert status.result.branch == "outpost/ttl"
        pieces = mine.outpost_logs(worker="ttl.1", offset=0, follow=False)
        return b"".join([piece async for piece in pieces])

    assert kit.with_outpost(said, tmp_path, look) == b"out\n", "the end of it is on its record"
    assert objects(lab, SECRETS, namespace) == [], "it went with its Job"


def test_a_pod_that_lingers_with_work_and_is_deleted_tells_what_is_lost(
    lab: Lab, said: K8sOptions, namespace: str, rig: str, tmp_path: Path
) -> None:
    order = rig_order("linger", rig, "echo new > file; echo out", checkpoint_every=0.0)
    hook = tmp_path / "served" / "rig.git" / "hooks" / "update"
    hook.write_text('#!/bin/sh\ncase "$1" in */records/*|*/stops/*) exit 0;; esac\nexit 1\n')
    hook.chmod(0o755)

    async def work(mine: K8sOutpost) -> WorkerStatus:
        await mine.outpost_spawn(order=order)
        end = time.monotonic() + kit.PATIENCE
        while True:  # without a list, which would fetch its work
            with contextlib.suppress(UnreachableError):
                pod = await mine._pod("linger.1")
                if (await pod.ask("x-state", {})).get("phase") == "lingering":
                    break
            assert time.monotonic() < end
            await asyncio.sleep(0.2)
        path = f"{PODS.format(namespace)}/{pod_of(lab, namespace, 'linger.1')['metadata']['name']}"
        await asyncio.to_thread(lab.admin.delete, path)
        await asyncio.to_thread(lab.admin.gone, path)
        return await patient(mine, "linger.1")

    status = kit.with_outpost(said, tmp_path, work)
    assert (status.state, status.detail) == (State.FAILED, "push_failed"), "how it ended stands"
    assert status.result is not None
    assert status.result.checkpoint is None, "nobody has it"
    assert "its unpushed work was in its pod, and is gone with it" in status.result.message
