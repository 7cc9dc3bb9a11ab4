"""What is left to do for workers whose end is kept here: their output comes, their Secrets go.

A command that ends soon has some time for it; what takes longer goes on behind, comes when it is
asked for, or before the worker is removed. Of many workers the cluster is asked together.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final, TypeVar

from outpost_core.errors import OutpostError
from outpost_k8s.near import look, seen
from outpost_k8s.near.look import ALONE, Seen
from outpost_shared import faults

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from outpost_k8s.near.behind import Behind
    from outpost_k8s.near.collecting import Collecting
    from outpost_k8s.near.desk import Desk
    from outpost_k8s.near.ending import Ending
    from outpost_k8s.near.harvest import Harvest
    from outpost_k8s.near.kept import Kept
    from outpost_k8s.near.look import Look
    from outpost_k8s.near.pod import Pods
    from outpost_k8s.near.seen import Object

T = TypeVar("T")

#: Seconds that a list waits for output to come and for Secrets to go.
_PATIENCE: Final = 3.0
#: Logs that come, and Secrets that go, at once: more than an API server does at a time.
_AT_ONCE: Final = 24
#: Seconds after a worker's end for which other containers of its pod may go on.
_OTHERS: Final = 60.0
#: Seconds between two looks for Secrets of spawns that were never finished.
_SWEEP: Final = 3600.0
_SECRETS: Final = "secrets of ended workers"


class Aftercare:
    """Sees to ended workers.

    Args:
        desk: of the outpost.
        pods: the channels into its pods.
        look: asks its cluster.
        harvest: brings output home.
        ending: removes Secrets.
        collecting: talks to pods that wait for their work to be fetched.
        behind: where this goes on.
    """

    def __init__(
        self,
        desk: Desk,
        pods: Pods,
        look: Look,
        harvest: Harvest,
        ending: Ending,
        collecting: Collecting,
        behind: Behind,
    ) -> None:
        self._desk = desk
        self._pods = pods
        self._look = look
        self._harvest = harvest
        self._ending = ending
        self._collecting = collecting
        self._behind = behind
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._swept = 0.0
        self._round = 0

    # --- output and Secrets -----------------------------------------------------------------------

    async def take_home(
        self, kept: Sequence[Kept], jobs: Mapping[str, Object], pods: Mapping[str, Object]
    ) -> None:
        """Have the output of ended workers come here, and their Secrets go from the cluster.

        Args:
            kept: what is kept of workers, whether they have ended or not.
            jobs: the Jobs that are at the cluster, by worker.
            pods: pods of ended workers that this list has seen.
        """
        ended = {
            one.worker: one
            for one in kept
            if one.result is not None and one.digest and one.worker in jobs  # it was ordered here
        }
        logs = [one for one in ended.values() if not one.has_log and _log(one) not in self._behind]
        unseen = [one.worker for one in logs if one.worker not in pods]
        later: Awaitable[dict[str, list[Object]]] | None = None
        if unseen:
            self._round += 1
            asking = self._look.ended_pods(unseen)
            later = self._behind.start(f"pods of ended workers {self._round}", asking)
        for one in logs:
            bringing = self._bring(one, jobs[one.worker], pods.get(one.worker), later)
            self._behind.start(_log(one), bringing)
        secrets = [one for one in ended.values() if not one.secret_gone]
        if secrets and _SECRETS not in self._behind:
            self._behind.start(_SECRETS, self._forget_secrets(secrets))
        await self._behind.wait([_SECRETS, *map(_log, logs)], _PATIENCE)

    async def _bring(
        self,
        kept: Kept,
        job: Object,
        pod: Object | None,
        later: Awaitable[dict[str, list[Object]]] | None,
    ) -> None:
        if pod is None and later is not None:
            pod = look.pod_of(job, (await later).get(kept.worker, []))
        async with self._slots:
            await self._harvest.log(kept, Seen(kept.worker, job, pod))

    async def _forget_secrets(self, ended: Sequence[Kept]) -> None:
        """Remove the Secrets of ended workers: nobody reads their orders any more.

        Of many, two lists say which there are, and that they are gone.
        """
        if len(ended) <= ALONE:
            await self._each(ended, self._ending.forget_secret)
            return
        there = await self._look.secrets()
        wanted = [there[one.worker] for one in ended if one.worker in there]
        await self._each(wanted, self._ending.delete_secret)
        left = await self._look.secrets()
        faults.point("kube.secret_deleted")
        gone = [one for one in ended if one.worker not in left]
        await asyncio.to_thread(lambda: [one.watch(secret_gone=True) for one in gone])

    async def _each(self, things: Iterable[T], do: Callable[[T], Awaitable[None]]) -> None:
        """Do something with each, not too many at once; what fails is tried by the next list."""

        async def one(thing: T) -> None:
            async with self._slots:
                with contextlib.suppress(OutpostError):
                    await do(thing)

        await asyncio.gather(*map(one, things))

    # --- pods that stay -------------------------------------------------------------------------

    async def let_go(
        self,
        kept: Sequence[Kept],
        jobs: Mapping[str, Object],
        live: Mapping[str, list[Object]],
    ) -> None:
        """Tell pods that they need not stay, which a program that was killed has not told.

        Args:
            kept: what is kept of workers.
            jobs: the Jobs that are at the cluster, by worker.
            live: pods that have not ended, by worker.
        """
        told = []
        for one in kept:
            job, name = jobs.get(one.worker), f"{one.worker} pod"
            if one.result is None or job is None:
                continue
            pod = look.pod_of(job, live.get(one.worker, []))
            if pod is None or name in self._behind:
                continue
            if seen.is_running(pod):
                inside = self._pods.of(one.worker, pod)
                self._behind.start(name, self._collecting.again(one.worker, inside))
            elif one.digest and one.has_log and not seen.is_going(pod) and seen.has_ended(pod):
                self._behind.start(name, self._end_others(pod))
            told.append(name)
        await self._behind.wait(told, _PATIENCE)

    async def _end_others(self, pod: Object) -> None:
        """End a pod in which only others' containers run on, such as a service mesh's."""
        now, ended = await self._desk.cluster_now(), seen.terminated(pod)
        if now is None or now - (seen.moment(ended, "finishedAt") or now) < _OTHERS:
            return
        with contextlib.suppress(OutpostError):
            await self._desk.cluster().delete(
                self._desk.path("pods", seen.name(pod)), uid=seen.uid(pod)
            )

    # --- what spawns have left ------------------------------------------------------------------

    async def tidy(self, jobs: Mapping[str, Object], kept: Sequence[Kept]) -> None:
        """Now and then, remove what spawns have left that were never finished.

        Args:
            jobs: the Jobs that are at the cluster.
            kept: what is kept of workers.
        """
        now = time.monotonic()
        if self._swept and now - self._swept < _SWEEP:
            return
        self._swept = now
        if any(one.hosted for one in kept):
            from outpost_exec import rigs

            await asyncio.to_thread(rigs.sweep, self._desk.context.state_dir)
        orders = [one.order for one in kept]
        owners = {order.owner for order in orders if order is not None and order.owner}
        if owners:
            with contextlib.suppress(OutpostError):
                await self._ending.sweep(owners, {seen.name(job) for job in jobs.values()})


def _log(kept: Kept) -> str:
    return f"{kept.worker} log"
