"""What is at the cluster of one worker, or of all: Jobs, pods, and what happened to them."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from outpost_core.errors import NotFoundError, OutpostError, UsageError
from outpost_core.types import split_worker_id
from outpost_k8s.near import seen
from outpost_k8s.objects import names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from outpost_k8s.near.desk import Desk
    from outpost_k8s.near.seen import Object

#: Label of a Job's pods (kubernetes.io/docs/reference/labels-annotations-taints).
JOB_NAME: Final = "batch.kubernetes.io/job-name"
#: Pods that have not ended, as a field selector.
_LIVE: Final = "status.phase!=Succeeded,status.phase!=Failed"
#: Things of which each is asked for alone; more are asked for together.
ALONE: Final = 8
#: Seconds for which the events of a thing are believed to be all.
_FRESH: Final = 20.0
#: Events of pods that a cluster takes away, which it counts as normal.
_TAKEN: Final = ("Preempted", "TaintManagerEviction")
#: What a pod can be called that a Job has made.
_POD: Final = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)
#: Workloads of Kueue, and what says their places (kueue.sigs.k8s.io/docs/tasks/manage).
_JOB_UID: Final = "kueue.x-k8s.io/job-uid"
_VISIBILITY: Final = "/apis/visibility.kueue.x-k8s.io/v1beta1"


@dataclass
class Seen:
    """What is at the cluster of one worker.

    Attributes:
        worker: its id.
        job: its Job; None when there is none.
        pod: its pod; None when there is none.
        events: of either, where they matter.
        workload: its Workload of Kueue.
        position: its place in the queue, from 0.
    """

    worker: str
    job: Object | None = None
    pod: Object | None = None
    events: list[Object] = field(default_factory=list)
    workload: Object | None = None
    position: int | None = None


def worker_of(thing: Object) -> str:
    """Return the id of the worker that a Job or a pod is of; "" where it does not say."""
    worker = seen.annotation(thing, names.ID)
    try:
        split_worker_id(worker)
    except UsageError:
        return ""
    return worker


class Look:
    """Asks the cluster of one outpost.

    Args:
        desk: of the outpost.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._events: dict[str, tuple[float, list[Object]]] = {}

    # --- one worker -----------------------------------------------------------------------------

    async def job(self, worker: str) -> Object | None:
        """Return a worker's Job; None when there is none.

        Raises:
            UnreachableError: nobody can say.
        """
        try:
            found = await self._desk.cluster().get(self._desk.path("jobs", names.job_name(worker)))
        except NotFoundError:
            return None
        return found if worker_of(found) == worker else None

    async def pods(self, worker: str) -> list[Object]:
        """Return a worker's pods, the newest first: one, or some of Jobs that were removed."""
        items = self._desk.cluster().items(
            self._desk.path("pods"), labels=names.worker_selector(worker)
        )
        found = [pod async for pod in items if worker_of(pod) == worker]
        return sorted(found, key=lambda pod: seen.created(pod) or 0.0, reverse=True)

    async def one(self, worker: str) -> Seen:
        """Return all that is at the cluster of one worker.

        Raises:
            UnreachableError: nobody can say.
        """
        job = await self.job(worker)
        found = Seen(worker, job, pod_of(job, await self.pods(worker)))
        await self.complete([found])
        return found

    # --- all of them ----------------------------------------------------------------------------

    async def jobs(self) -> dict[str, Object]:
        """Return the Jobs of all workers, by worker."""
        items = self._desk.cluster().items(self._desk.path("jobs"), labels=names.SELECTOR)
        return {
            worker: job
            async for job in items
            if (worker := worker_of(job)) and seen.name(job) == names.job_name(worker)
        }

    async def live_pods(self) -> dict[str, list[Object]]:
        """Return the pods of workers that have not ended, by worker."""
        return await self._pods(_LIVE)

    async def ended_pods(self, workers: Iterable[str]) -> dict[str, list[Object]]:
        """Return the pods of some workers, whatever their state: each alone, or all at once."""
        wanted = [*workers]
        if len(wanted) <= ALONE:
            found = await asyncio.gather(*map(self.pods, wanted))
            return dict(zip(wanted, found, strict=True))
        return await self._pods("")

    async def jobs_of(self, workers: Iterable[str]) -> dict[str, Object | None]:
        """Return the Jobs of some workers: each alone, or all at once."""
        wanted = [*workers]
        if len(wanted) <= ALONE:
            found = await asyncio.gather(*map(self.job, wanted))
            return dict(zip(wanted, found, strict=True))
        jobs = await self.jobs()
        return {worker: jobs.get(worker) for worker in wanted}

    async def secrets(self) -> dict[str, Object]:
        """Return the Secrets of all workers without what is in them, by worker."""
        items = self._desk.cluster().items(
            self._desk.path("secrets"), labels=names.SELECTOR, metadata_only=True
        )
        return {
            worker: secret
            async for secret in items
            if (worker := worker_of(secret)) and seen.name(secret) == names.job_name(worker)
        }

    async def _pods(self, fields: str) -> dict[str, list[Object]]:
        found: dict[str, list[Object]] = {}
        items = self._desk.cluster().items(
            self._desk.path("pods"), labels=names.SELECTOR, fields=fields
        )
        async for pod in items:
            if worker := worker_of(pod):
                found.setdefault(worker, []).append(pod)
        return found

    # --- what happened --------------------------------------------------------------------------

    async def complete(self, waiting: list[Seen]) -> None:
        """Find out what happened to workers that wait or whose pod is gone, as far as it is told.

        Nobody has to be allowed to read events or queues: then the words are fewer.
        """
        await self._add_events([one for one in waiting if _has_events(one)])
        queued = [one for one in waiting if _is_queued(one)]
        if queued:
            await self._add_queue(queued)

    async def _add_events(self, waiting: list[Seen]) -> None:
        if len(waiting) > ALONE:
            together = await self._events_of("type!=Normal")
            if any(one.pod is None and has_ended(one.job) for one in waiting):
                for reason in _TAKEN:  # as normal as anything, to a cluster
                    together = [*together, *await self._events_of(f"reason={reason}")]
            for one in waiting:
                mine = _about(one)
                one.events = [
                    event for event in together
                    if seen.text(event, "involvedObject", "uid") in mine
                    or (one.pod is None and _is_of_pod(event, one))
                ]  # fmt: skip
            return
        for one in waiting:
            for uid in _about(one):
                one.events += await self._events_of(f"involvedObject.uid={uid}")
            if one.pod is None and (pod := _gone_pod(one)):
                fields = f"involvedObject.kind=Pod,involvedObject.name={pod}"
                one.events += await self._events_of(fields)

    async def _events_of(self, fields: str) -> list[Object]:
        now = time.monotonic()
        known = self._events.get(fields)
        if known is not None and now - known[0] < _FRESH:
            return known[1]
        for old in [key for key, (at, _) in self._events.items() if now - at >= _FRESH]:
            del self._events[old]
        try:
            items = self._desk.cluster().items(self._desk.path("events"), fields=fields)
            found: list[Object] = [event async for event in items]
        except OutpostError:
            found = []
        self._events[fields] = (now, found)
        return found

    async def _add_queue(self, queued: list[Seen]) -> None:
        cluster = self._desk.cluster()
        by_job: dict[str, Object] = {}
        places: dict[str, int] = {}
        try:
            async for workload in cluster.items(self._desk.path("workloads")):
                by_job[seen.text(workload, "metadata", "labels", _JOB_UID)] = workload
            for queue in {seen.text(one.job, "metadata", "labels", names.QUEUE) for one in queued}:
                told = await cluster.get(
                    f"{_VISIBILITY}/namespaces/{cluster.namespace}/localqueues/{queue}"
                    "/pendingworkloads"
                )
                for item in seen.parts(told, "items"):
                    place = seen.number(item, "positionInLocalQueue")
                    if place is not None:
                        places[seen.name(item)] = place
        except OutpostError:
            pass  # its words are fewer
        for one in queued:
            one.workload = by_job.get(seen.uid(one.job))
            one.position = places.get(seen.name(one.workload)) if one.workload else None


def pod_of(job: Object | None, pods: list[Object]) -> Object | None:
    """Return the pod of a Job among a worker's pods; without a Job the newest.

    A Job under the same name that was made anew has pods of its own.
    """
    if job is None:
        return pods[0] if pods else None
    uid = seen.uid(job)
    for pod in pods:
        owners = seen.parts(pod, "metadata", "ownerReferences")
        if any(seen.text(owner, "uid") == uid for owner in owners):
            return pod
    return None


def has_ended(job: Object | None) -> bool:
    """Whether a Job has ended."""
    return bool(seen.condition(job, "Complete") or seen.condition(job, "Failed"))


def _has_events(one: Seen) -> bool:
    """Whether the events of a worker say what nothing else does."""
    if one.pod is None:
        return (
            one.job is not None and not _is_queued(one) and not seen.condition(one.job, "Complete")
        )
    return not seen.is_running(one.pod) and not seen.has_ended(one.pod)


def _is_queued(one: Seen) -> bool:
    suspended = seen.part(one.job, "spec").get("suspend") is True
    return suspended and bool(seen.text(one.job, "metadata", "labels", names.QUEUE))


def _gone_pod(one: Seen) -> str:
    """Return the name of the pod that a Job had, by its events; "" where they do not say."""
    created = seen.text(seen.latest(one.events, "SuccessfulCreate"), "message")
    name = created.rpartition(" ")[2]
    return name if _POD.fullmatch(name) and name.startswith(seen.name(one.job) + "-") else ""


def _is_of_pod(event: Object, one: Seen) -> bool:
    """Whether an event is of a pod that a Job had: it is named after the Job."""
    about = seen.part(event, "involvedObject")
    name, job = seen.text(about, "name"), seen.name(one.job)
    return seen.text(about, "kind") == "Pod" and bool(job) and name.startswith(f"{job}-")


def _about(one: Seen) -> list[str]:
    return [seen.uid(thing) for thing in (one.job, one.pod) if thing is not None]
