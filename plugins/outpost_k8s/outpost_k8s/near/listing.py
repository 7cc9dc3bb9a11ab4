"""How all workers of an outpost are: a list of Jobs, one of pods that live, and what is kept here.

Ended workers whose end is kept here need nothing of the cluster. What has ended since the last look
is brought home, as far as that goes in the time that a list has. Pods that run are asked for what
only they know, a few at each look.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError
from outpost_core.types import Result, State, WorkerStatus
from outpost_k8s.near import look, seen
from outpost_k8s.near.aftercare import Aftercare
from outpost_k8s.near.answers import Answers
from outpost_k8s.near.behind import Behind
from outpost_k8s.near.ending import asked_grace
from outpost_k8s.near.look import Seen
from outpost_k8s.near.reasons import explain
from outpost_k8s.objects import names
from outpost_shared import border

if TYPE_CHECKING:
    from outpost_k8s.near.codes import Why
    from outpost_k8s.near.collecting import Collecting
    from outpost_k8s.near.desk import Desk
    from outpost_k8s.near.ending import Ending
    from outpost_k8s.near.harvest import Harvest
    from outpost_k8s.near.kept import Kept
    from outpost_k8s.near.look import Look
    from outpost_k8s.near.pod import Pods
    from outpost_k8s.near.seen import Object

#: Seconds that a list waits for what has ended to come home; the rest comes behind, or next time.
_HARVEST: Final = 5.0
#: How many come home at once; what git does for them is bounded by itself (`witness`).
_AT_ONCE: Final = 24
#: Seconds of a pod in which a worker that was not asked counts as not begun.
_PREPARES: Final = 15.0
#: Longest detail of a worker, in characters.
_DETAIL: Final = 500


class Listing:
    """Says how workers are.

    Args:
        desk: of the outpost.
        pods: the channels into its pods.
        look: asks its cluster.
        harvest: brings home how workers ended.
        ending: takes back what waits for too long.
        collecting: fetches the work of pods that wait for that.
    """

    def __init__(
        self,
        desk: Desk,
        pods: Pods,
        look: Look,
        harvest: Harvest,
        ending: Ending,
        collecting: Collecting,
    ) -> None:
        self._desk = desk
        self._look = look
        self._harvest = harvest
        self._ending = ending
        self._collecting = collecting
        self._behind = Behind()
        self._answers = Answers(pods, self._behind)
        self._after = Aftercare(desk, pods, look, harvest, ending, collecting, self._behind)
        self._told: dict[str, WorkerStatus] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._stopping: set[str] = set()  # uids whose stop was seen to

    @property
    def came_home(self) -> asyncio.Event:
        """Set whenever something has been found out that a list did not wait for."""
        return self._behind.done

    async def aclose(self) -> None:
        """Break off what comes home behind; it is taken up again by the next list."""
        await self._behind.aclose()

    # --- all of them ----------------------------------------------------------------------------

    async def all(self) -> list[WorkerStatus]:
        """Return the status of each worker; the same object where nothing has changed.

        Raises:
            UnreachableError: the cluster cannot be asked.
        """
        jobs = await self._look.jobs()
        kept = await asyncio.to_thread(self._all_kept)
        live = await self._look.live_pods()
        statuses: dict[str, WorkerStatus] = {}
        open_: list[Seen] = []
        for worker in [*jobs, *(name for name in kept if name not in jobs)]:
            mine = kept.get(worker)
            if mine is not None and mine.result is not None:
                statuses[worker] = self._ended(mine, mine.result, jobs.get(worker))
            elif worker in jobs:
                job = jobs[worker]
                open_.append(Seen(worker, job, look.pod_of(job, live.get(worker, []))))
            elif mine is not None and mine.server != self._desk.address():
                statuses[worker] = _of_another_place(mine, self._desk.address())
            else:
                open_.append(Seen(worker, None, look.pod_of(None, live.get(worker, []))))
        await self._find(open_)
        await self._look.complete(open_)
        answers = await self._answers.ask(open_)
        found = await self._settled(open_, answers)
        statuses |= {worker: status for worker, status in found.items() if status is not None}
        seen_now = [self._desk.keeping.of(one.worker) for one in open_]
        pods = {one.worker: one.pod for one in open_ if one.pod and seen.has_ended(one.pod)}
        await self._after.take_home([*kept.values(), *seen_now], jobs, pods)
        await self._after.let_go([*kept.values()], jobs, live)
        await self._after.tidy(jobs, [*kept.values()])
        return self._same(statuses)

    async def one(self, worker: str, one: Seen) -> WorkerStatus | None:
        """Return the status of one worker, by what is at the cluster of it."""
        kept = self._desk.keeping.of(worker)
        if kept.result is not None:
            return self._ended(kept, kept.result, one.job)
        return await self._status(kept, one, None)

    def _all_kept(self) -> dict[str, Kept]:
        return {one.worker: one for one in self._desk.keeping.all()}

    def _same(self, statuses: dict[str, WorkerStatus]) -> list[WorkerStatus]:
        before, self._told = self._told, {}
        for worker, status in sorted(statuses.items()):
            known = before.get(worker)
            self._told[worker] = known if known == status and known is not None else status
        return [*self._told.values()]

    async def _find(self, open_: list[Seen]) -> None:
        """Find what the two lists did not show: pods that have ended, Jobs that came meanwhile."""
        gone = [one for one in open_ if one.job is None]
        if gone:  # the second answer in a row that lacks it, or shows it after all
            jobs = await self._look.jobs_of(one.worker for one in gone)
            for one in gone:
                one.job = jobs[one.worker]
        wanted = [
            one for one in open_ if one.pod is None and (one.job is None or _had_pod(one.job))
        ]
        pods = await self._look.ended_pods(one.worker for one in wanted)
        for one in wanted:
            one.pod = look.pod_of(one.job, pods.get(one.worker, []))

    # --- one of them ------------------------------------------------------------------------------

    async def _settled(
        self, open_: list[Seen], answers: dict[str, WorkerStatus]
    ) -> dict[str, WorkerStatus | None]:
        """Return the status of each worker, as far as that is known in time."""
        found: dict[str, WorkerStatus | None] = {}

        async def settle(one: Seen) -> None:
            async with self._slots:
                kept = self._desk.keeping.of(one.worker)
                found[one.worker] = await self._status(kept, one, answers.get(one.worker))

        begun = []
        for one in open_:
            if one.worker in self._behind:
                found[one.worker] = self._slow(one)
                continue
            self._behind.start(one.worker, settle(one))
            begun.append(one.worker)
        await self._behind.wait(begun, _HARVEST)
        for one in open_:
            if one.worker not in found:
                found[one.worker] = self._slow(one)
        return found

    def _slow(self, one: Seen) -> WorkerStatus:
        """Return the status of a worker about which something is still being found out."""
        why = explain(one.job, one.pod, one.events)
        if why.state.terminal:
            why = replace(why, state=State.WORKING, detail="it has ended, and is brought home")
        return self._plain(one, why)

    async def _status(
        self, kept: Kept, one: Seen, answer: WorkerStatus | None
    ) -> WorkerStatus | None:
        """Return the status of a worker that has no result here yet; None for none of ours."""
        try:
            back = await self._ending.taken_back(kept, one)
            if back is not None:
                return self._of_end(kept, one, back)
            why = explain(
                one.job, one.pod, one.events, workload=one.workload, position=one.position
            )
            if why.state.terminal:
                if one.job is None and not kept.exists:
                    return None  # another machine's, which has removed it
                return self._of_end(kept, one, await self._harvest.end(kept, one, why))
            if await self._stopped(kept, one, answer):
                return await self._status(kept, await self._look.one(one.worker), None)
            if answer is not None and not seen.is_going(one.pod):
                return await self._of_answer(kept, one, why, answer)
            if answer is None and why.state is State.WORKING and not why.detail:
                why = await self._begun(why)
            if await self._is_late(why):
                return await self._late(kept, one, why)
        except OutpostError as error:  # of this worker; the others are told of
            why = replace(explain(one.job, one.pod), detail=border.line(error.message, _DETAIL))
            if why.state.terminal:
                why = replace(why, state=State.WORKING)
        return self._plain(one, why)

    def _of_end(self, kept: Kept, one: Seen, end: Result | str) -> WorkerStatus:
        if isinstance(end, str):
            why = replace(explain(one.job, one.pod, one.events), state=State.WORKING, detail=end)
            return self._plain(one, why)
        return self._ended(kept, end, one.job)

    async def _of_answer(
        self, kept: Kept, one: Seen, why: Why, answer: WorkerStatus
    ) -> WorkerStatus:
        """Return the status of a worker whose pod has answered."""
        if kept.hosted:
            answer = await self._collecting.home(one, answer)
        if answer.result is not None:
            end = await self._collecting.collect(kept, one, answer)
            if isinstance(end, Result):
                return self._ended(kept, end, one.job)
            return replace(self._plain(one, replace(why, detail=end)), tree=answer.tree)
        # its pod runs, so that it begins: what was shown as starting before never waits again
        state = State.STARTING if answer.state is State.QUEUED else answer.state
        return replace(
            answer, id=one.worker, digest=_digest(kept, one), state=state,
            detail=border.line(answer.detail, _DETAIL),
            started_at=answer.started_at or why.started,
        )  # fmt: skip

    def _plain(self, one: Seen, why: Why) -> WorkerStatus:
        detail = why.detail
        if why.reason and why.hint and not why.state.terminal:
            detail = f"{detail}; {why.hint.replace('{outpost}', self._desk.name)}"
        if seen.annotation(one.job, names.STOP) and why.state is State.WORKING and not detail:
            detail = "is being stopped"
        return WorkerStatus(
            id=one.worker,
            state=why.state,
            digest=_digest(self._desk.keeping.of(one.worker), one),
            detail=border.line(detail, _DETAIL),
            started_at=why.started,
            updated_at=why.started or why.since,
        )

    def _ended(self, kept: Kept, result: Result, job: Object | None) -> WorkerStatus:
        known = self._told.get(kept.worker)
        if known is not None and known.result is result:
            return known
        return WorkerStatus(
            id=kept.worker,
            state=result.state,
            digest=kept.digest or seen.annotation(job, names.DIGEST),
            detail=result.reason,
            started_at=result.started_at,
            updated_at=result.finished_at,
            result=result,
            fence=result.fence,
        )

    async def _stopped(self, kept: Kept, one: Seen, answer: WorkerStatus | None) -> bool:
        """See to it that a stop that stands at a Job is done; whether there is something new.

        Whoever asked for it may have been killed before the pod was told.
        """
        grace = seen.annotation(one.job, names.STOP)
        uid = seen.uid(one.pod) or seen.uid(one.job)
        if not grace or one.job is None or uid in self._stopping:
            return False
        if seen.is_going(one.job) or seen.has_ended(one.pod):
            return False
        if answer is not None and answer.state.terminal:
            return False
        self._stopping.add(uid)
        await self._ending.carry_on(kept, one.job, asked_grace(one.job))
        return True

    async def _begun(self, why: Why) -> Why:
        """Return how a worker is whose pod runs and was not asked: at first it only prepares."""
        now = await self._desk.cluster_now()
        if now is None or why.started is None or now - why.started > _PREPARES:
            return why
        return replace(why, state=State.STARTING, detail="its program begins")

    # --- patience -------------------------------------------------------------------------------

    async def _is_late(self, why: Why) -> bool:
        """Whether a worker waits for longer than it may."""
        patience = self._desk.options.patience
        if not patience or why.since is None or why.state is not State.STARTING:
            return False
        now = await self._desk.cluster_now()
        return now is not None and now - why.since > patience

    async def _late(self, kept: Kept, one: Seen, why: Why) -> WorkerStatus:
        """Take a worker back that has not begun in time, so that another outpost can have it."""
        assert one.job is not None or one.pod is not None
        reason = why.reason or "k8s_unschedulable"
        hint = why.hint.replace("{outpost}", self._desk.name)
        message = f"it did not begin within {self._desk.options.patience:g} s: {why.detail}"
        result = Result(
            state=State.FAILED, reason=reason, message=message + (f"; {hint}" if hint else ""),
            agent_began=why.began,
        )  # fmt: skip
        if one.job is not None and await self._ending.take_back(kept, one.job, one.pod, result):
            after = Seen(one.worker, None, look.pod_of(None, await self._look.pods(one.worker)))
            back = await self._ending.taken_back(kept, after)
            if back is not None:
                return self._of_end(kept, after, back)
        return self._plain(one, replace(why, detail=f"{why.detail}; it is being taken back"))


def _had_pod(job: Object) -> bool:
    """Whether a Job has or had a pod, by its counters; only then is one looked for."""
    status = seen.part(job, "status")
    counted = any(
        seen.number(status, name) for name in ("active", "failed", "succeeded", "terminating")
    )
    return counted or look.has_ended(job) or bool(seen.part(status, "uncountedTerminatedPods"))


def _digest(kept: Kept, one: Seen) -> str:
    thing = one.job if one.job is not None else one.pod
    return seen.annotation(thing, names.DIGEST) or kept.digest


def _of_another_place(kept: Kept, address: str) -> WorkerStatus:
    detail = f"it was ordered at {kept.server}, and this outpost is {address} now"
    return WorkerStatus(
        id=kept.worker, state=State.WORKING, digest=kept.digest,
        detail=border.line(detail, _DETAIL),
    )  # fmt: skip
