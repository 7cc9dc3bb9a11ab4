"""A thousand workers at a real API server, on nodes that kwok plays, beside the bare requests."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from peers.kubelab import Cluster as Lab

from benchmarks.harness import Row, ms
from outpost_core.backend import BuildContext
from outpost_core.types import Agent, Issue, Limits, Order
from outpost_k8s.api.paths import path
from outpost_k8s.objects import job as objects
from outpost_k8s.objects import names
from outpost_k8s.options import K8sOptions
from outpost_k8s.outpost import K8sOutpost

#: Workers of ours, and of the bare client; how many at once, and in how many turns.
WORKERS, BARE, AT_ONCE, TURNS = 1000, 500, 32, 5
PATIENCE = 600.0

Work = Callable[[str], Awaitable[object]]


def order(name: str) -> Order:
    return Order(
        issue=Issue(id=name), agent=Agent(argv=("true",)), limits=Limits(timeout=300.0),
        owner="ab" * 8,
    )  # fmt: skip


def options(lab: Lab, namespace: str) -> K8sOptions:
    return K8sOptions(
        kubeconfig=lab.kubeconfig, namespace=namespace, image="localhost/none:1",
        image_pull_policy="Never", cpu=0.01, memory=64 << 20, ephemeral_storage=64 << 20,
        node_selector={"kubelab/node": "kwok"}, tolerations=("kwok.x-k8s.io/node",),
    )  # fmt: skip


class Bare:
    """The requests that a worker needs at the least, by aiohttp with dicts.

    Args:
        session: the connections.
        server: URL of the API server.
        options: of the workers.
    """

    def __init__(self, session: aiohttp.ClientSession, server: str, options: K8sOptions) -> None:
        self._session = session
        self._server = server
        self._options = options
        self._pods: dict[str, str] = {}

    async def ask(
        self, method: str, resource: str, name: str = "", sub: str = "", **more: Any
    ) -> Any:
        where = self._server + path(resource, self._options.namespace, name, sub)
        async with self._session.request(method, where, **more) as answer:
            if answer.content_type != "application/json":
                return await answer.read()
            return await answer.json()

    async def items(self, resource: str) -> list[Any]:
        found, proceed = [], ""
        while True:
            query = {"limit": "500", "labelSelector": names.SELECTOR}
            if proceed:
                query["continue"] = proceed
            said = await self.ask("GET", resource, params=query)
            found += said["items"] or []
            if not (proceed := said["metadata"].get("continue")):
                return found

    async def place(self, worker: str) -> None:
        wanted = order(worker)
        secret = await self.ask("POST", "secrets", json=objects.secret(self._options, wanted, ""))
        made = await self.ask("POST", "jobs", json=objects.job(self._options, wanted, hosted=False))
        await self.ask(
            "PATCH", "secrets", secret["metadata"]["name"],
            json=objects.owned(secret, made["metadata"]["uid"]),
            headers={"Content-Type": "application/merge-patch+json"},
        )  # fmt: skip

    async def look(self) -> None:
        """List what there is, as `home` needs it."""
        await self.items("jobs")
        for pod in await self.items("pods"):
            job = pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]
            self._pods[job] = pod["metadata"]["name"]

    async def home(self, worker: str) -> None:
        name = names.job_name(f"{worker}.1")
        await self.ask("GET", "pods", self._pods[name], "log")
        await self.ask("DELETE", "secrets", name)

    async def clean(self, worker: str) -> None:
        name = names.job_name(f"{worker}.1")
        await self.ask("DELETE", "jobs", name, json={"propagationPolicy": "Background"})
        await self.ask("GET", "jobs", name)


async def each(work: Work, workers: Sequence[str]) -> float:
    """Do something for each worker, some at once; return the seconds."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(worker: str) -> None:
        async with slots:
            await work(worker)

    begun = time.perf_counter()
    await asyncio.gather(*map(one, workers))
    return time.perf_counter() - begun


def turns(workers: Sequence[str]) -> Iterator[Sequence[str]]:
    size = len(workers) // TURNS
    return (workers[at : at + size] for at in range(0, len(workers), size))


async def beside(
    ours: Work, bare: Work, mine: Sequence[str], theirs: Sequence[str]
) -> tuple[float, float]:
    """Return workers a second, ours and with the bare client, by turns: load hits both."""
    spent = [0.0, 0.0]
    for some, others in zip(turns(mine), turns(theirs), strict=True):
        spent[0] += await each(ours, some)
        spent[1] += await each(bare, others)
    return len(mine) / spent[0], len(theirs) / spent[1]


async def over(bare: Bare) -> None:
    """Wait until the cluster has ended all Jobs."""
    async with asyncio.timeout(PATIENCE):
        while True:
            jobs = await bare.items("jobs")
            if all(job["status"].get("completionTime") for job in jobs):
                return
            await asyncio.sleep(2.0)


@asynccontextmanager
async def outpost(options: K8sOptions) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        mine = K8sOutpost("kube", options, BuildContext(state_dir=Path(folder) / "state"))
        try:
            yield mine
        finally:
            await mine.outpost_close()


def peak() -> float:
    """Return the most memory that this process had since the last call, in MiB."""
    said = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(said.split("VmHWM:")[1].split()[0]) / 1024


async def measured(
    lab: Lab, login: Callable[[Path], tuple[str, Any]], first: str, second: str
) -> list[Row]:
    server, context = login(lab.kubeconfig)
    mine, theirs = [f"w{n}" for n in range(WORKERS)], [f"w{n}" for n in range(BARE)]
    connector = aiohttp.TCPConnector(ssl=context, limit=0)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        outpost(options(lab, first)) as ours,
    ):
        bare = Bare(session, server, options(lab, second))
        peak()
        before = peak()

        async def place(worker: str) -> None:
            await ours.outpost_spawn(order=order(worker))

        async def clean(worker: str) -> None:
            cleaned = await ours.outpost_clean(worker=f"{worker}.1", force=False)
            assert cleaned.removed, cleaned.detail

        placed = await beside(place, bare.place, mine, theirs)
        await over(Bare(session, server, options(lab, first)))
        await over(bare)

        begun = time.perf_counter()
        kept = [ours.desk.keeping.of(f"{worker}.1") for worker in mine]
        async with asyncio.timeout(PATIENCE):
            while not all(one.result and one.has_log and one.secret_gone for one in kept):
                await ours.outpost_list()
        home = WORKERS / (time.perf_counter() - begun)
        begun = time.perf_counter()
        await bare.look()
        await each(bare.home, theirs)
        bare_home = BARE / (time.perf_counter() - begun)

        listed = []
        for _ in range(3):
            begun = time.perf_counter()
            assert len(await ours.outpost_list()) == WORKERS
            listed.append(time.perf_counter() - begun)
        cleaned = await beside(clean, bare.clean, mine, theirs)
        grown = peak() - before
    return [
        compared(f"{WORKERS:,} workers placed", placed, "the same three writes", 0.8),
        compared(
            f"{WORKERS:,} ended workers brought home", (home, bare_home),
            "lists, a log and a DELETE each", 0.5,
        ),
        Row(
            what=f"Kubernetes: list of these {WORKERS:,} workers, once they are home",
            ours=f"{ms(min(listed))}; {grown:.0f} MiB more at the peak of all this",
        ),
        compared(f"{WORKERS:,} workers cleaned", cleaned, "a DELETE and a look each", 0.8),
    ]  # fmt: skip


def compared(what: str, rates: tuple[float, float], against: str, goal: float) -> Row:
    ours, bare = rates
    return Row(
        what=f"Kubernetes: {what}",
        ours=f"{ours:,.0f} a second",
        against=f"aiohttp, {against}: {bare:,.0f}",
        ratio=ours / bare,
        goal=f"≥ {goal:g} ×",
        met=ours >= goal * bare,
    )


def measure(lab: Lab, login: Callable[[Path], tuple[str, Any]]) -> list[Row]:
    """Measure, in a cluster whose nodes kwok plays."""
    with lab.namespace() as first, lab.namespace() as second:
        return asyncio.run(measured(lab, login, first, second))
