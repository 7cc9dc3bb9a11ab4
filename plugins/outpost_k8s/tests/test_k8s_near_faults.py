"""An API server that is away, silent or overloaded while something is done with workers.

Whatever was begun is told as unknown, never as an end; the same again, once it answers, is one
worker. Followers and watchers are in `test_k8s_near_pods` and `test_k8s_api_watch`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import k8snearkit as kit
import pytest
from k8snearkit import JOBS, KWOK, NOWHERE, SECRETS, objects
from peers.kubelab import Lab, Options, own_lab

from outpost_core.errors import UnreachableError
from outpost_core.types import State
from outpost_k8s.api import asking, config
from outpost_k8s.api.client import Cluster as ApiCluster
from outpost_k8s.api.paths import path
from outpost_k8s.objects import names, permissions
from outpost_k8s.options import K8sOptions
from outpost_k8s.outpost import K8sOutpost
from outpost_shared import faults

pytestmark = [pytest.mark.kube, pytest.mark.slow]

#: Seconds after which each question must have been given up here, on a busy machine.
_GIVEN_UP = 30.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A cluster that tests may break."""
    with own_lab(Options(fake_nodes=1, real_node=False, flow_control=True)) as running:
        yield running


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have questions given up soon."""
    monkeypatch.setattr(asking, "TOTAL", 3.0)
    defaults = ApiCluster.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "patience", 4.0)


@contextlib.contextmanager
def killed(lab: Lab) -> Iterator[None]:
    lab.kill("apiserver")
    try:
        yield
    finally:
        lab.start("apiserver")


@contextlib.contextmanager
def stopped(lab: Lab) -> Iterator[None]:
    """The line stays, and nothing is answered; what was asked is done later."""
    lab.stop("apiserver")
    try:
        with contextlib.suppress(TimeoutError):  # its threads stop one after the other
            while True:
                next(lab.admin.watch("/api/v1/pods", seconds=0.5), None)
        yield
    finally:
        lab.cont("apiserver")


async def _again(mine: K8sOutpost, name: str) -> State:
    """Spawn until the cluster answers, as the manager does."""
    end = time.monotonic() + kit.PATIENCE
    while True:
        try:
            state: State = (await mine.outpost_spawn(order=kit.order(name))).state
        except UnreachableError:
            assert time.monotonic() < end
            await asyncio.sleep(0.2)
        else:
            return state


@pytest.mark.parametrize("fault", ["killed", "stopped", "throttled"])
def test_nothing_is_told_for_true_while_nobody_answers_and_all_goes_on_afterwards(
    lab: Lab, tmp_path: Path, fault: str
) -> None:
    def broken(user: Any, namespace: str) -> AbstractContextManager[None]:
        if fault == "throttled":
            return lab.throttled(user, namespace)
        return killed(lab) if fault == "killed" else stopped(lab)

    async def work(waits: K8sOutpost, ends: K8sOutpost, away: AbstractContextManager[None]) -> None:
        await waits.outpost_spawn(order=kit.order("waits"))
        await ends.outpost_spawn(order=kit.order("ended"))
        await kit.ended(ends, "ended.1")
        await asyncio.to_thread(away.__enter__)
        try:
            begun = time.monotonic()
            told = await asyncio.gather(
                waits.outpost_spawn(order=kit.order("new")), waits.outpost_list(),
                waits.outpost_stop(worker="waits.1", grace=1.0), ends.outpost_list(),
                ends.outpost_clean(worker="ended.1", force=False),
                return_exceptions=True,
            )  # fmt: skip
            assert time.monotonic() - begun < _GIVEN_UP
        finally:
            await asyncio.to_thread(away.__exit__, None, None, None)
        assert [type(one).__mro__.count(UnreachableError) for one in told] == [1] * 5, told
        assert not told[0].sent, "no Job was asked for"  # type: ignore[union-attr]

        assert await _again(waits, "new") is State.STARTING
        found = {one.id: one.state for one in await waits.outpost_list()}
        assert found["new.1"] is found["waits.1"] is State.STARTING
        await waits.outpost_stop(worker="waits.1", grace=1.0)
        assert (await kit.ended(waits, "waits.1")).state is State.STOPPED
        assert (await ends.outpost_clean(worker="ended.1", force=False)).removed

    async def both(first: K8sOutpost, said: K8sOptions, away: AbstractContextManager[None]) -> None:
        second = kit.outpost(said, tmp_path / "ends")
        try:
            await work(first, second, away)
        finally:
            await second.outpost_close()

    with lab.namespace() as namespace:
        user = lab.user(namespace, permissions.rules())

        def said(**more: Any) -> K8sOptions:
            return kit.options(lab, namespace, **{**more, "kubeconfig": user.kubeconfig})

        away = broken(user, namespace)
        kit.with_outpost(
            said(**NOWHERE), tmp_path / "waits", lambda mine: both(mine, said(**KWOK), away)
        )
        [job] = objects(lab, JOBS, namespace)
        assert job["metadata"]["name"] == names.job_name("new.1")
        [secret] = objects(lab, SECRETS, namespace)
        assert secret["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]


@pytest.mark.parametrize("point", ["kube.secret_created", "kube.job_created"])
@pytest.mark.parametrize("away", [killed, stopped])
def test_a_server_that_goes_between_two_writes_of_a_spawn_has_one_worker_afterwards(
    lab: Lab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    away: Callable[[Lab], AbstractContextManager[None]],
    point: str,
) -> None:
    with lab.namespace() as namespace, contextlib.ExitStack() as fault:
        reached: list[str] = []

        def once(name: str) -> None:
            if name == point and not reached:
                reached.append(name)
                fault.enter_context(away(lab))

        monkeypatch.setattr(faults, "point", once)

        async def work(mine: K8sOutpost) -> None:
            with pytest.raises(UnreachableError) as told:
                await mine.outpost_spawn(order=kit.order("between"))
            await asyncio.to_thread(fault.close)
            if point == "kube.job_created":
                assert told.value.sent, "its Job is there"
            assert await _again(mine, "between") is State.STARTING

        said = kit.options(lab, namespace, **NOWHERE)
        kit.with_outpost(said, tmp_path, work)
        [job] = objects(lab, JOBS, namespace)
        [secret] = objects(lab, SECRETS, namespace)
        assert secret["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]


def test_a_list_in_pages_goes_on_when_its_moment_is_forgotten(lab: Lab) -> None:
    with lab.namespace() as namespace:
        wanted = [f"m{number}" for number in range(9)]
        for name in wanted:
            lab.admin.post(path("configmaps", namespace), {"metadata": {"name": name}})

        async def work() -> list[str]:
            api = ApiCluster(config.find(kubeconfig=lab.kubeconfig, namespace=namespace))
            found: list[str] = []
            try:
                async for item in api.items(path("configmaps", namespace), page=2):
                    if len(found) == 2:
                        await asyncio.to_thread(lab.compact)
                    found.append(item["metadata"]["name"])
            finally:
                await api.aclose()
            return found

        found = asyncio.run(work())
    assert sorted(name for name in found if name in wanted) == wanted
