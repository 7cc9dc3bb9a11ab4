"""The work of the past as a workload: what came, how long it took and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from outpost_mayor.simulate.workload import Job, Stream, Try

if TYPE_CHECKING:
    from outpost_core.types import Order, Worker
    from outpost_manager.manager import Manager

#: An attempt of which nobody knows how long it worked counts as so long, in seconds.
_UNKNOWN: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Past:
    """Orders that were there, each with what its attempts did.

    What comes after the last attempt that there was is like that one.

    Args:
        begins: the moment at which the first came.
        orders: each with its attempts, in the order of their coming.
    """

    begins: float
    orders: tuple[tuple[Job, tuple[Try, ...]], ...]
    _tries: dict[str, tuple[Try, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tries = {job.issue: attempts for job, attempts in self.orders}
        object.__setattr__(self, "_tries", tries)

    def jobs(self) -> Iterator[Job]:
        """Yield every order, by the moment at which it came."""
        return iter([job for job, _ in self.orders])

    def attempt(self, job: Job, number: int) -> Try:
        """Return what the attempt of that number did."""
        tries = self._tries[job.issue]
        return tries[min(number, len(tries)) - 1]


async def read_past(manager: Manager, since: float) -> Past:
    """Return the work that was ordered since a moment and has ended.

    Args:
        manager: an open one.
        since: seconds since the epoch.
    """
    every = await manager.ledger.workers(cleaned=True, active=False)
    by_issue: dict[str, list[Worker]] = {}
    for worker in every:
        if worker.created_at >= since:
            by_issue.setdefault(worker.issue, []).append(worker)
    found: list[tuple[float, Worker, tuple[Try, ...], Order | None]] = []
    for issue, workers in by_issue.items():
        workers.sort(key=lambda worker: worker.attempt)
        entry = await manager.ledger.queue.entry(issue)
        came = workers[0].created_at
        if entry is not None and since <= entry.added_at < came:
            came = entry.added_at
        order = await manager.ledger.order(workers[0].id)
        found.append((came, workers[0], tuple(map(_try, workers)), order))
    found.sort(key=lambda one: (one[0], one[1].id))
    begins = found[0][0] if found else since
    return Past(
        begins=begins,
        orders=tuple(
            (_job(came - begins, first, order), tries) for came, first, tries, order in found
        ),
    )


def _job(at: float, worker: Worker, order: Order | None) -> Job:
    limits, issue = (order.limits, order.issue) if order is not None else (None, None)
    stream = Stream(
        name="past",
        rig=worker.rig,
        agent=worker.agent or "command",
        labels=issue.labels if issue is not None else (),
        kind=issue.kind if issue is not None else "task",
        estimate=issue.estimate if issue is not None else None,
        timeout=(limits.timeout if limits is not None else None) or Stream.timeout,
        max_cost=limits.max_agent_cost_usd if limits is not None else None,
    )
    return Job(at=at, issue=worker.issue, priority=worker.priority, stream=stream)


def _try(worker: Worker) -> Try:
    result = worker.result
    began = (result.started_at if result is not None else None) or worker.started_at
    ended = (result.finished_at if result is not None else None) or worker.finished_at
    seconds = _UNKNOWN if began is None or ended is None else max(1.0, ended - began)
    retry_at = result.retry_at if result is not None else None
    return Try(
        seconds=seconds,
        reason=result.reason if result is not None else "lost_process",
        cost=worker.agent_cost or 0.0,
        retry_after=None if retry_at is None or ended is None else max(1.0, retry_at - ended),
    )
