"""Stops, and what removes workers from the cluster: each step can be the last, and is repeated.

What was never begun is taken away whole: it is written down here first how it counts, then its Job
is deleted by its uid, and once it is seen to be gone the result stands.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from outpost_core.errors import ConflictError, NotFoundError, OutpostError, UnreachableError
from outpost_core.types import Cleaned, Result, State
from outpost_k8s.near import look, seen
from outpost_k8s.near.desk import who_asks
from outpost_k8s.near.look import Seen
from outpost_k8s.near.pod import NoPodError
from outpost_k8s.near.reasons import explain
from outpost_k8s.objects import names, told
from outpost_shared import faults
from outpost_shared.backoff import Backoff
from outpost_worker.record.kinds import RecordRefusedError

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_k8s.near.codes import Why
    from outpost_k8s.near.desk import Desk
    from outpost_k8s.near.harvest import Harvest
    from outpost_k8s.near.kept import Kept
    from outpost_k8s.near.look import Look
    from outpost_k8s.near.pod import Pods
    from outpost_k8s.near.seen import Object

#: Seconds for a stop to reach the program in the pod.
_REACH: Final = 15.0
#: Seconds that a pod has to push its work, beside the agent's grace (`objects.job`).
_PUSH: Final = 60.0
#: Seconds for which a worker is taken back that may just begin.
_TAKEN: Final = 10.0
#: Seconds until a deleted Job must be gone.
_GONE: Final = 30.0
#: Why a worker stays whose Job is another one by now.
_ANOTHER: Final = "somebody has made another Job of that name at the cluster; --force removes it"
#: Why a worker of another machine stays.
_THEIRS: Final = (
    "another machine ordered it, and would not learn how it ended any more: clean it there;"
    " --force removes it here"
)
#: Seconds without an owner after which a Secret is one of a spawn that was never finished.
ORPHANED: Final = 3600.0


class Ending:
    """Ends workers and removes them.

    Args:
        desk: of the outpost.
        pods: the channels into its pods.
        look: asks its cluster.
        harvest: brings home how they ended.
    """

    def __init__(self, desk: Desk, pods: Pods, look: Look, harvest: Harvest) -> None:
        self._desk = desk
        self._pods = pods
        self._look = look
        self._harvest = harvest

    # --- stop -----------------------------------------------------------------------------------

    async def stop(self, worker: str, grace: float) -> None:
        """Have a worker end; returns once that is durable at the cluster.

        Args:
            worker: its id; an unknown or ended one is fine.
            grace: seconds between TERM and KILL.

        Raises:
            UnreachableError: the cluster cannot be asked.
        """
        kept = self._desk.keeping.of(worker)
        if kept.result is not None:
            return
        job = await self._look.job(worker)
        if job is None or look.has_ended(job):
            return
        if seen.annotation(job, names.STOP) == "" or grace < asked_grace(job):
            marks = {names.STOP: f"{grace:g}", names.STOPPED_BY: who_asks()}
            body = {"metadata": {"uid": seen.uid(job), "annotations": marks}}
            with contextlib.suppress(NotFoundError, ConflictError):  # gone meanwhile
                await self._desk.cluster().patch(self._desk.path("jobs", seen.name(job)), body)
        kept.watch(stop=grace)
        faults.point("kube.stop_noted")
        await self.carry_on(kept, job, grace)

    async def carry_on(self, kept: Kept, job: Object, grace: float) -> None:
        """Do what a stop that stands at a Job asks for; may be done again.

        Args:
            kept: what is kept of the worker.
            job: its Job.
            grace: seconds between TERM and KILL.

        Raises:
            UnreachableError: the cluster cannot be asked.
        """
        async for _ in Backoff(0.2, 2.0, within=_TAKEN).rounds():
            pod = look.pod_of(job, await self._look.pods(kept.worker))
            if seen.has_ended(pod):
                return
            if pod is not None and seen.is_running(pod):
                await self._stop_running(kept.worker, pod, grace)
                return
            result = Result(
                state=State.STOPPED, reason="stopped", message="stopped before it began",
                agent_began=explain(job, pod).began,
            )  # fmt: skip
            if await self.take_back(kept, job, pod, result):
                return

    async def _stop_running(self, worker: str, pod: Object, grace: float) -> None:
        """Tell the program in the pod; where it cannot be told, have the cluster end the pod."""
        try:
            async with asyncio.timeout(_REACH):
                await self._pods.of(worker, pod).outpost_stop(worker=worker, grace=grace)
            return
        except NoPodError:
            return
        except (OutpostError, TimeoutError):
            pass
        with contextlib.suppress(ConflictError):
            await self._desk.cluster().delete(
                self._desk.path("pods", seen.name(pod)), uid=seen.uid(pod), grace=grace + _PUSH
            )

    # --- what never began -------------------------------------------------------------------------

    async def take_back(self, kept: Kept, job: Object, pod: Object | None, result: Result) -> bool:
        """Remove the Job of a worker that has not begun; return whether it is seen to be gone.

        Args:
            kept: what is kept of the worker.
            job: its Job.
            pod: its pod, where it has one.
            result: how it counts then.

        Raises:
            UnreachableError: the cluster cannot be asked.
        """
        cluster, path = self._desk.cluster(), self._desk.path
        if kept.result is None:
            result = replace(result, cost_usd=await self._spent(kept, pod))
            await asyncio.to_thread(kept.note_ending, seen.uid(job), result)
        if pod is not None and not seen.text(pod, "spec", "nodeName"):
            # as it was seen: a pod that has got a node meanwhile stays
            version = seen.text(pod, "metadata", "resourceVersion")
            try:
                await cluster.delete(
                    path("pods", seen.name(pod)), uid=seen.uid(pod), version=version, grace=0
                )
            except ConflictError:
                await asyncio.to_thread(kept.drop_ending)
                return False
        with contextlib.suppress(ConflictError):
            await cluster.delete(path("jobs", seen.name(job)), uid=seen.uid(job))
        faults.point("kube.job_deleted")
        return await self._is_gone(kept.worker, seen.uid(job))

    async def _spent(self, kept: Kept, pod: Object | None) -> float | None:
        """Return what a worker has cost that has not begun: nothing, while no node has its pod."""
        if seen.moment(pod, "status", "startTime") is None:
            return 0.0
        now = await self._desk.cluster_now()
        return self._harvest.cost(look.Seen(kept.worker, None, pod), kept.order, now)

    async def taken_back(self, kept: Kept, one: Seen) -> Result | str | None:
        """Return how a worker counts whose Job is being taken back; None where none is.

        Args:
            kept: what is kept of it.
            one: what is at the cluster of it.
        """
        ending = kept.ending_result()
        if ending is None:
            return None
        began = one.pod is not None and (seen.is_running(one.pod) or seen.terminated(one.pod))
        other = one.job is not None and seen.uid(one.job) != (kept.ending or {}).get("uid")
        if began or other:  # then nothing must say later that it had not begun
            await asyncio.to_thread(kept.drop_ending)
            return None
        if one.job is not None and not seen.is_going(one.job):
            return None  # whoever takes it back has not deleted it yet, or was killed before
        if one.job is not None or (one.pod is not None and not seen.has_ended(one.pod)):
            return "it is being taken back"
        why = _why(ending, one)
        return await self._harvest.end(kept, one, why)

    async def _is_gone(self, worker: str, uid: str) -> bool:
        """Wait until a Job is seen to be gone."""
        pauses = Backoff(0.1, 2.0, within=_GONE)
        async for _ in pauses.rounds():
            job = await self._look.job(worker)
            if job is None or seen.uid(job) != uid:
                return True
        return False

    # --- clean ----------------------------------------------------------------------------------

    async def clean(self, worker: str, *, force: bool) -> Cleaned:
        """Remove an ended worker, here and at the cluster, once all of it is here.

        Args:
            worker: its id; an unknown one counts as removed.
            force: also when it cannot be said how it ended, its work cannot be had, or another
                machine ordered it that could not learn its end any more.

        Raises:
            UnreachableError: the cluster cannot be asked.
        """
        kept = self._desk.keeping.of(worker)
        known = kept.result is not None and bool(kept.uid and kept.digest)
        # of one that was ordered here, the answer to its removal says the rest
        one = Seen(worker) if known else await self._look.one(worker)
        if kept.result is None and (one.job is not None or one.pod is not None or kept.exists):
            why = explain(one.job, one.pod, one.events)
            if not why.state.terminal:
                detail = why.detail or why.state.value
                return Cleaned(removed=False, detail=f"it has not ended: {detail}")
            ended = await self._harvest.end(kept, one, why)
            if isinstance(ended, str) and not force:
                return Cleaned(removed=False, detail=ended)
        theirs = one.job is not None and not await self._is_mine(kept, one.job)
        if (why_not := self._stays(kept, one, theirs=theirs)) and not force:
            return Cleaned(removed=False, detail=why_not)
        rescued = kept.result.checkpoint if kept.result is not None else None
        await self._pods.leave(worker)
        uid = kept.uid if known else seen.uid(one.job)
        if uid and not await self._removed(worker, uid, force=force):
            return Cleaned(removed=False, detail=_ANOTHER)
        detail = await self._forgotten(kept, one, theirs=theirs)
        if kept.hosted:
            from outpost_exec import rigs

            await asyncio.to_thread(rigs.forget, self._desk.context.state_dir, worker)
        await asyncio.to_thread(self._desk.keeping.forget, kept)
        return Cleaned(removed=True, rescued=rescued, detail=detail)

    def _stays(self, kept: Kept, one: Seen, *, theirs: bool) -> str:
        """Return why a worker that has ended is better not removed; "" where nothing says that."""
        if kept.uid and one.job is not None and seen.uid(one.job) != kept.uid:
            return _ANOTHER
        return _THEIRS if theirs and not self._record_of(kept, one) else ""

    def _record_of(self, kept: Kept, one: Seen) -> Order | None:
        """Return the order of a worker that has a record; None where it has none."""
        order = kept.order or (told.order_of(one.job) if one.job is not None else None)
        return order if order is not None and self._harvest.has_record(kept, order) else None

    async def _forgotten(self, kept: Kept, one: Seen, *, theirs: bool) -> str:
        """Remove a worker's Secret and, where it was ordered here, its record; return what stays.

        Whoever ordered it may not have seen its end yet, and finds that on the record.
        """
        detail = ""
        if not kept.secret_gone:
            try:
                await self.forget_secret(kept)
            except UnreachableError as error:
                detail = f"its Secret may still be there: {error.message}"
        order = self._record_of(kept, one)
        if order is not None and theirs:
            detail = detail or "another machine ordered it, and finds its end on its record"
        elif order is not None and kept.result is not None:
            try:
                await self._desk.witness.forget(order)
            except (UnreachableError, RecordRefusedError) as error:
                detail = error.message
        return detail

    async def _is_mine(self, kept: Kept, job: Object) -> bool:
        """Whether this machine has ordered a worker, by what is kept here or by its ledger."""
        if kept.digest:
            return True
        ordered = self._desk.context.ordered
        order = await ordered(kept.worker) if ordered is not None else None
        return order is not None and order.owner == seen.annotation(job, names.OWNER)

    async def _removed(self, worker: str, uid: str, *, force: bool) -> bool:
        """Remove a worker's Job and see that it is gone; False where another has its name.

        Args:
            worker: its id.
            uid: of its Job.
            force: remove another one of that name, too.

        Raises:
            UnreachableError: the cluster cannot be asked, or it is still there.
        """
        path = self._desk.path("jobs", names.job_name(worker))
        try:
            there = await self._desk.cluster().delete(path, uid=uid)
        except ConflictError:
            job = await self._look.job(worker)
            if job is None:  # gone meanwhile, or none of a worker
                return True
            if not force:
                return False
            there = await self._desk.cluster().delete(path, uid=seen.uid(job))
            uid = seen.uid(job)
        faults.point("kube.job_deleted")
        if there and not await self._is_gone(worker, uid):
            raise UnreachableError(f"the Job of {worker} is not removed yet", hint="try again")
        return True

    async def forget_secret(self, kept: Kept) -> None:
        """Remove the Secret of a worker that has ended: nobody reads its order any more.

        Raises:
            UnreachableError: the cluster cannot be asked.
        """
        path = self._desk.path("secrets", names.job_name(kept.worker))
        for _ in range(2):  # the second answer is that it is not there
            try:
                found = await self._desk.cluster().get(path)
            except NotFoundError:
                break
            if look.worker_of(found) != kept.worker:
                break
            await self.delete_secret(found)
        else:
            return
        faults.point("kube.secret_deleted")
        if kept.result is not None and kept.digest:
            await asyncio.to_thread(kept.watch, secret_gone=True)

    async def delete_secret(self, secret: Object) -> None:
        """Remove a Secret, this one and no other of its name.

        Raises:
            UnreachableError: the cluster cannot be asked.
        """
        with contextlib.suppress(ConflictError):
            await self._desk.cluster().delete(
                self._desk.path("secrets", seen.name(secret)), uid=seen.uid(secret)
            )

    # --- Secrets without a Job --------------------------------------------------------------------

    async def sweep(self, owners: set[str], jobs: set[str]) -> int:
        """Remove Secrets of spawns that were never finished; return how many.

        Args:
            owners: ids of the ledgers of this machine: others see to their own.
            jobs: names of the Jobs that are there.
        """
        cluster, path = self._desk.cluster(), self._desk.path
        now = await self._desk.cluster_now()
        if now is None:
            return 0
        removed = 0
        async for secret in cluster.items(
            path("secrets"), labels=names.SELECTOR, metadata_only=True
        ):
            old = now - (seen.created(secret) or now) > ORPHANED
            mine = seen.annotation(secret, names.OWNER) in owners
            owned = seen.parts(secret, "metadata", "ownerReferences")
            if not (old and mine) or owned or seen.name(secret) in jobs:
                continue
            if await self._look.job(look.worker_of(secret)) is None:
                with contextlib.suppress(ConflictError):
                    await cluster.delete(path("secrets", seen.name(secret)), uid=seen.uid(secret))
                    removed += 1
        return removed


def asked_grace(job: Object) -> float:
    """Return the grace of a stop that was asked for before."""
    try:
        return float(seen.annotation(job, names.STOP))
    except ValueError:
        return 0.0


def _why(result: Result, one: Seen) -> Why:
    """Return how a worker counts that was taken back, as what the cluster tells."""
    told = explain(one.job, one.pod)
    return replace(
        told, state=result.state, reason=result.reason, message=result.message,
        began=result.agent_began,
    )  # fmt: skip
