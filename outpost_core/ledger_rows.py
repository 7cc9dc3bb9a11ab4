"""Rows of the ledger as values of `types`, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import UsageError
from outpost_core.types import Json, Result, State, Worker

if TYPE_CHECKING:
    import sqlite3

_NANO: Final = 1_000_000_000

#: What `worker()` reads, in its order.
COLUMNS: Final = (
    "w.id, w.issue, w.attempt, w.outpost, w.digest, w.state, w.detail, w.title, w.priority, w.rig,"
    " w.agent, w.created_at, w.started_at, w.updated_at, w.finished_at, w.ended_at,"
    " w.cost_reserved, w.cost_settled, r.body"
)
TABLES: Final = "workers w LEFT JOIN results r ON r.n = w.n"
#: The same without results, for rows that have none: SQLite then looks at one table only.
OPEN_COLUMNS: Final = COLUMNS.replace("r.body", "NULL")
OPEN_TABLES: Final = "workers w"

_STATES: Final = {state.value: state for state in State}


def nano(usd: float, what: str) -> int:
    """Turn dollars into whole nano-dollars.

    Raises:
        UsageError: not a finite amount from 0 to a billion; the message begins with `what`.
    """
    if not (math.isfinite(usd) and 0 <= usd <= _NANO):
        raise UsageError(f"{what} is {usd!r} USD, which is not an amount of money")
    return round(usd * _NANO)


def dollars(amount: int) -> float:
    """Turn nano-dollars into dollars."""
    return amount / _NANO


def worker(row: tuple[Any, ...], unreachable: Mapping[str, float]) -> Worker:
    """Build a worker from a row of `COLUMNS`.

    Args:
        row: the row.
        unreachable: since when each outpost that does not answer has not answered.
    """
    (
        worker_id, issue, attempt, outpost, digest, state, detail, title, priority, rig, agent,
        created_at, started_at, updated_at, finished_at, ended_at, reserved, settled, body,
    ) = row  # fmt: skip
    return Worker(
        id=worker_id,
        issue=issue,
        attempt=attempt,
        outpost=outpost,
        digest=digest,
        state=_STATES[state],
        detail=detail,
        title=title,
        priority=priority,
        rig=rig,
        agent=agent,
        created_at=created_at,
        started_at=started_at,
        updated_at=updated_at,
        finished_at=finished_at,
        unreachable_since=unreachable.get(outpost) if ended_at is None else None,
        cost_reserved=reserved / _NANO if ended_at is None else 0.0,
        cost_settled=None if settled is None else settled / _NANO,
        result=_result(body) if body else None,
    )


def _result(body: str) -> Result:
    import json

    from outpost_core import wire

    return wire.from_json(Result, json.loads(body))


def load(db: sqlite3.Connection, worker_id: str) -> Worker:
    """Return a worker that is there, inside a write transaction."""
    row = db.execute(
        f"SELECT {COLUMNS} FROM {TABLES} WHERE w.id = ?",  # noqa: S608
        (worker_id,),
    ).fetchone()
    unreachable = dict(db.execute("SELECT name, since FROM outposts WHERE NOT reachable"))
    return worker(row, unreachable)


def tell(
    db: sqlite3.Connection,
    kind: str,
    at: float,
    worker_id: str,
    outpost: str,
    data: Mapping[str, Json] | str = "{}",
) -> None:
    """Write an event, inside a write transaction; `data` may be JSON text already."""
    if not isinstance(data, str):
        from outpost_core import wire

        data = wire.dumps(data)
    db.execute(
        "INSERT INTO events (at, kind, worker, outpost, data) VALUES (?, ?, ?, ?, ?)",
        (at, kind, worker_id, outpost, data),
    )
