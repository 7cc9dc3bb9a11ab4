"""Hundreds of workers at one cluster: made, listed in pages, brought home and removed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import k8snearkit as kit
import pytest
from k8snearkit import JOBS, KWOK, PODS, SECRETS
from peers.kubelab import Lab, Options, own_lab

from outpost_core import wire
from outpost_core.types import State, WorkerStatus
from outpost_k8s.api.asking import Asking
from outpost_k8s.api.client import Cluster as ApiCluster
from outpost_k8s.objects import names
from outpost_k8s.outpost import K8sOutpost

pytestmark = [pytest.mark.kube, pytest.mark.slow]

#: Workers, and how many a page of a list has here.
WORKERS: Final = 300
_PAGE: Final = 100
_PAGES: Final = WORKERS // _PAGE
#: Orders that are placed, and workers that are removed, at once.
_AT_ONCE: Final = 24
#: Requests of a list while workers end, beside logs: Jobs, pods that live, those that have ended,
#: Secrets before and after, in pages; what happened, the clock, and what spawns have left.
_ROUND: Final = 5 * _PAGES + 5
#: Seconds until all of them must be home.
_HOME: Final = 150.0
#: Bytes by which this process may grow at its peak.
_MEMORY: Final = 160 << 20


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A cluster of nodes that kwok plays: pods end there at once, and say nothing."""
    with own_lab(Options(fake_nodes=2, real_node=False)) as running:
        yield running


class Asked:
    """What the API server was asked since the last look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._requests: list[tuple[str, str]] = []
        once = Asking._once

        async def counted(asking: Asking, method: str, path: str, *more: Any) -> dict[str, Any]:
            self._requests.append((method, path))
            return await once(asking, method, path, *more)

        monkeypatch.setattr(Asking, "_once", counted)

    def taken(self) -> Counter[tuple[str, str]]:
        taken, self._requests = Counter(self._requests), []
        return taken


async def each(work: Callable[[str], Awaitable[None]], ids: Sequence[str]) -> None:
    """Do something for each worker, some at once."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(worker: str) -> None:
        async with slots:
            await work(worker)

    async with asyncio.TaskGroup() as group:
        for worker in ids:
            group.create_task(one(worker))


def peak() -> int:
    """Return the most memory that this process had since `forget_peak`, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("the kernel does not say")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def is_honest(status: WorkerStatus) -> bool:
    """Whether no more is told of a worker than is known: its pod ended, and said nothing."""
    if status.result is None:
        return not status.state.terminal
    told = (status.state, status.result.state, status.result.reason)
    return (
        told == (State.LOST, State.LOST, "lost_process")
        and "left no result" in status.result.message
        and status.result.commit is None
    )


def test_hundreds_of_workers_are_made_listed_brought_home_and_removed(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    defaults = ApiCluster.items.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "page", _PAGE)
    asked = Asked(monkeypatch)
    orders = {f"n{number}.1": kit.order(f"n{number}") for number in range(WORKERS)}
    begun = time.monotonic()

    def took(what: str, requests: int) -> None:
        nonlocal begun
        now = time.monotonic()
        record_property(what, f"{now - begun:.1f} s, {requests} requests")
        begun = now

    async def work(mine: K8sOutpost) -> None:
        async def spawn(worker: str) -> None:
            status = await mine.outpost_spawn(order=orders[worker])
            assert (status.id, status.state) == (worker, State.STARTING)

        await each(spawn, [*orders])
        requests = asked.taken()
        took("spawn", requests.total())
        writes = sum(number for (method, _), number in requests.items() if method != "GET")
        # and once for all of them what webhooks would make of such a Job
        assert writes == 3 * WORKERS + 1, "a Secret, a Job, and whose the Secret is"

        end, rounds = time.monotonic() + _HOME, 0
        while True:
            statuses = await mine.outpost_list()
            rounds += 1
            assert {one.id for one in statuses} == set(orders)
            assert len(statuses) == WORKERS
            assert [one for one in statuses if not is_honest(one)] == []
            if all(one.state.terminal and mine.desk.keeping.of(one.id).secret_gone
                   for one in statuses):  # fmt: skip
                break
            assert time.monotonic() < end, Counter(one.detail for one in statuses)
            await asyncio.sleep(0.2)
        for one in statuses:
            assert one.digest == wire.digest(orders[one.id])
        assert kit.objects(lab, SECRETS, namespace) == []
        requests = asked.taken()
        took(f"home, {rounds} lists", requests.total())
        assert requests.total() <= 3 * WORKERS + _ROUND * (rounds + 1), (
            "many are asked for together"
        )
        again = await mine.outpost_list()
        assert all(one is two for one, two in zip(statuses, again, strict=True))
        requests = asked.taken()
        took("list", requests.total())
        assert requests == {
            ("GET", JOBS.format(namespace)): _PAGES,
            ("GET", PODS.format(namespace)): 1,
        }, "ended workers that are home cost nothing but the pages of their Jobs"

        async def clean(worker: str) -> None:
            cleaned = await mine.outpost_clean(worker=worker, force=False)
            assert cleaned.removed, cleaned.detail

        await each(clean, [*orders])
        requests = asked.taken()
        took("clean", requests.total())
        assert requests.total() <= 3 * WORKERS, "each is removed, and then looked for"
        assert await mine.outpost_list() == []

    with lab.namespace() as namespace:
        said = kit.options(lab, namespace, **KWOK)
        forget_peak()
        before = peak()
        kit.with_outpost(said, tmp_path, work)
        grown = peak() - before
        record_property("memory", f"{grown >> 20} MiB more at the peak")
        assert grown < _MEMORY
        assert list((tmp_path / "harvest").iterdir()) == []
        for path in (JOBS, SECRETS, PODS):
            lab.admin.until(
                path.format(namespace), lambda found: not found["items"],
                labelSelector=names.SELECTOR,
            )  # fmt: skip
