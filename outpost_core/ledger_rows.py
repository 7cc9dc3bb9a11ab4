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
TABLES: Final = "workers w LEFT JOIN results r ON r.worker = w.id"
#: The same without results, for rows that have none: SQLite then looks at one table only.
OPEN_COLUMNS: Final = COLUMNS.replace("w.ended_at", "NULL").replace("r.body", "NULL")
OPEN_TABLES: Final = "workers w"

# Listings build 10,000 workers at once: filling the slots takes half the time of `Worker(...)`.
_new: Final = object.__new__
_PUT: Final = tuple(getattr(Worker, name).__set__ for name in Worker.__dataclass_fields__)
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
    open_ = ended_at is None
    values = (
        worker_id, issue, attempt, outpost, digest, _STATES[state], detail, title, priority, rig,
        agent, created_at, started_at, updated_at, finished_at,
        unreachable.get(outpost) if open_ else None,
        reserved / _NANO if open_ else 0.0,
        None if settled is None else settled / _NANO,
        _result(body) if body else None,
    )  # fmt: skip
    built = _new(Worker)
    for put, value in zip(_PUT, values, strict=True):
        put(built, value)
    return built


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
    *,
    body: str | None = None,
    explanation: str | None = None,
) -> None:
    """Write an event, inside a write transaction; `data` may be JSON text already.

    Args:
        db: the connection.
        kind: see `types.Event`.
        at: when it happened.
        worker_id: the worker concerned, or "".
        outpost: the outpost concerned, or "".
        data: more.
        body: the order, as JSON text, when this event decides on it.
        explanation: why it goes there, as JSON text.
    """
    if not isinstance(data, str):
        from outpost_core import wire

        data = wire.dumps(data)
    db.execute(
        "INSERT INTO events (worker, n, at, kind, outpost, data, body, explanation) VALUES"
        " (?1, (SELECT coalesce(max(n), 0) + 1 FROM events WHERE worker = ?1),"
        " ?2, ?3, ?4, ?5, ?6, ?7)",
        (worker_id, at, kind, outpost, data, body, explanation),
    )
