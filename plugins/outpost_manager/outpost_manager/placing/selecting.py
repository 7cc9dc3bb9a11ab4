"""Which workers somebody wants to see."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outpost_core.types import State, Worker


def selected(
    workers: Iterable[Worker],
    *,
    outpost: str | None = None,
    issue: str | None = None,
    states: Collection[State] = (),
    oldest: float | None = None,
    limit: int | None = None,
    after: str | None = None,
) -> list[Worker]:
    """Return some of the workers, in their order.

    Args:
        workers: newest first.
        outpost: only those there.
        issue: only attempts at it.
        states: only those in these; empty for all.
        oldest: of those that have ended, only those that did so then or later.
        limit: at most so many.
        after: only those behind the worker with this id; none where it is not among them.
    """
    wanted = (
        worker
        for worker in workers
        if outpost in (None, worker.outpost)
        and issue in (None, worker.issue)
        and (not states or worker.state in states)
        and (oldest is None or not worker.state.terminal or _ended_at(worker) >= oldest)
    )
    if after is not None:
        for worker in wanted:
            if worker.id == after:
                break
    return [*islice(wanted, limit)]


def _ended_at(worker: Worker) -> float:
    return worker.finished_at or worker.created_at
