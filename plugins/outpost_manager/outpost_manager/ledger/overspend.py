"""Telling that a budget is nearly used up when spend is seen, not only when it is reserved.

An agent can spend more than was reserved for it, and what ended costs what it cost. So whoever
takes over what outposts say looks at the budgets in that same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from outpost_manager.ledger import budgets, values

if TYPE_CHECKING:
    import sqlite3

    from outpost_core.types import WorkerStatus
    from outpost_manager.ledger.budgets import Budget


def told(
    db: sqlite3.Connection, some: Sequence[Budget], statuses: Sequence[WorkerStatus], now: float
) -> None:
    """Look at the budgets in which workers count that have ended, or spent more than is reserved.

    Args:
        db: the connection, inside the write transaction that has taken the statuses over.
        some: all budgets that are configured.
        statuses: what was said of workers.
        now: seconds since the epoch.
    """
    meters: dict[Budget, str] = {}
    for status in statuses:
        if not (status.state.terminal or status.usage is not None):
            continue
        found = db.execute(
            "SELECT outpost, rig, account FROM workers WHERE id = ?"
            " AND (ended_at IS NOT NULL OR agent_spent > coalesce(agent_reserved, 0))",
            (status.id,),
        ).fetchone()
        if found is None:
            continue
        outpost, rig, account = (values.text(one) for one in found)
        labels = [
            values.text(label)
            for (label,) in db.execute(
                "SELECT label FROM worker_labels WHERE worker = ?", (status.id,)
            )
        ]
        for budget in some:
            if budget.counts(outpost, rig, labels, account):
                meters[budget] = status.id
    for budget, worker in meters.items():
        meter = budgets.meter(budget)
        use = meter.use(values.asking(db), now)
        budgets.warn(db, meter, use.used, now, worker)
