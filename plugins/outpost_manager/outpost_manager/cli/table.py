"""The table of workers, and the words for what is in it."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from outpost_core.types import State
from outpost_manager.cli import render

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from outpost_core.types import Worker

#: Characters of a worker's detail in a table.
_COLUMN = 80


def worker_lines(workers: Sequence[Worker], now: float | None = None) -> Iterator[str]:
    """Yield the table of workers.

    Args:
        workers: in the order in which they are shown.
        now: the moment that counts as now.
    """
    if not workers:
        yield "no workers"
        return
    now = time.time() if now is None else now
    yield from render.table(
        ("worker", "status", "outpost", "when", "took", "cost", "detail", "title"),
        [
            (
                worker.id,
                worker.state.value,
                _where(worker),
                render.ago(worker.finished_at or worker.created_at, now),
                took(worker, now) or "-",
                cost(worker) or "-",
                _detail(worker),
                worker.title or "-",
            )
            for worker in workers
        ],
        keep=("worker", "status", "when"),
        colour=("status",),
        drop=("title", "took", "cost", "outpost", "detail"),
    )


def counts(workers: Iterable[Worker]) -> str:
    """Return how many workers there are of each state: `2 working · 1 failed`, or ""."""
    found = Counter(worker.state for worker in workers)
    return " · ".join(
        f"{found[state]} {render.tint(state.value)}" for state in State if found[state]
    )


def took(worker: Worker, now: float) -> str:
    """Return how long a worker ran, or has run until now; "" when it never began."""
    if worker.started_at is None:
        return ""
    end = now if not worker.state.terminal else worker.finished_at
    return "" if end is None else render.span(max(0.0, end - worker.started_at))


def cost(worker: Worker) -> str:
    """Return what a worker cost so far, machine and agent, for people; "" if unknown."""
    from outpost_manager.cli.cost import approximate

    usd = worker.cost
    # a machine that costs nothing says nothing of an agent that nobody knows of
    known = usd if usd or worker.agent_cost is not None else None
    return approximate(known, worker.cost_estimated)


def _where(worker: Worker) -> str:
    since = worker.unreachable_since
    return f"{worker.outpost} (unreachable for {render.age(since)})" if since else worker.outpost


def short(detail: str) -> str:
    """Return as much of a worker's detail as a column shows; `outpost show` has all of it."""
    head = detail.partition("; ")[0]
    if len(head) <= _COLUMN:
        return head
    remark = head.rfind(" (", 0, _COLUMN)
    return head[:remark] if remark > 0 else f"{head[: _COLUMN - 1]}…"


def _detail(worker: Worker) -> str:
    result = worker.result
    if result is None:
        return short(worker.detail) or "-"
    if result.reason == "ok":
        return result.branch or "ok"
    return result.reason
