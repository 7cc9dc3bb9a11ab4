"""Rows of the ledger as values of `types`, and back."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from outpost_core.errors import UsageError
from outpost_core.types import Json, Result, State, Usage, Worker
from outpost_manager.ledger import values
from outpost_manager.ledger.money import dollars

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")


#: What `worker()` reads, in its order.
COLUMNS: Final = (
    "w.id, w.issue, w.attempt, w.outpost, w.digest, w.state, w.detail, w.title, w.priority, w.rig,"
    " w.agent, w.created_at, w.started_at, w.updated_at, w.finished_at, w.ended_at,"
    " w.cost_reserved, w.cost_settled, w.agent_reserved, w.agent_spent, w.agent_settled, w.usage,"
    " r.body"
)
TABLES: Final = "workers w LEFT JOIN results r ON r.worker = w.id"
#: The sum of what workers cost that have ended, machine and agent.
SETTLED: Final = (
    f"coalesce(sum({values.counted('cost_settled')} + {values.counted('agent_settled')}), 0)"
)
#: That sum for those of an outpost (first) that have ended since a moment (second), by the index of
#: what ended with a cost.
SETTLED_AT: Final = (
    f"(SELECT {SETTLED} FROM workers WHERE outpost = ?"  # noqa: S608
    " AND (cost_settled > 0 OR agent_settled > 0) AND ended_at > ?)"
)
#: The order of listings in SQL, and the key that gives it (reversed) for rows of `COLUMNS`.
NEWEST_FIRST: Final = "w.created_at DESC, w.id DESC"
age: Final = itemgetter(11, 0)


def plain_age(row: tuple[Any, ...]) -> tuple[float, str]:
    """Return the same key for a row that says what cannot be."""
    return values.number(row[11]) or 0.0, values.text(row[0])


#: The same for rows that have no result yet: SQLite then looks at one table only.
OPEN_COLUMNS: Final = COLUMNS.replace("w.ended_at", "NULL").replace("r.body", "NULL")
OPEN_TABLES: Final = "workers w"

# Listings build 10,000 workers at once: filling the slots takes half the time of `Worker(...)`.
_new: Final = object.__new__
(
    _id, _issue, _attempt, _outpost, _digest, _state, _detail, _title, _priority, _rig, _agent,
    _created_at, _started_at, _updated_at, _finished_at, _unreachable_since, _cost_reserved,
    _cost_settled, _agent_reserved, _agent_cost, _usage, _result,
) = (getattr(Worker, name).__set__ for name in Worker.__dataclass_fields__)  # fmt: skip
_NAMES: Final = tuple(name.strip().partition(".")[2] for name in COLUMNS.split(","))
_PRIORITIES: Final = frozenset(range(5))

_STATES: Final = {state.value: state for state in State}


def worker(row: tuple[Any, ...], unreachable: Mapping[str, float]) -> Worker:
    """Build a worker from a row of `COLUMNS`.

    Args:
        row: the row.
        unreachable: since when each outpost that does not answer has not answered.
    """
    try:
        built = _build(row, unreachable)
        if _can_be(row, built):
            return built
    except (UsageError, TypeError, ValueError, KeyError, OverflowError, RecursionError):
        pass
    from outpost_manager.ledger import doubtful

    return doubtful.worker(_NAMES, row, unreachable)


def _can_be(row: tuple[Any, ...], built: Worker) -> bool:
    """Whether all that a row says can be shown and counted."""
    moment, amount = values.moment, values.amount
    worker_id, issue, attempt, outpost, digest, _, detail, title, priority, rig, agent = row[:11]
    texts = (worker_id, issue, outpost, digest, detail, title, agent, rig or "")
    told = built.result or built.usage
    return (
        all(type(text) is str for text in texts)
        and max(map(len, texts)) <= values.LONGEST
        and type(attempt) is int
        and priority in _PRIORITIES
        and moment(row[11])
        and moment(row[12])
        and moment(row[13])
        and moment(row[14])
        and moment(row[15])
        and amount(row[16])
        and amount(row[17])
        and amount(row[18])
        and amount(row[19])
        and amount(row[20])
        and (told is None or not values.oddity(told))
    )


def _build(row: tuple[Any, ...], unreachable: Mapping[str, float]) -> Worker:
    (
        worker_id, issue, attempt, outpost, digest, state, detail, title, priority, rig, agent,
        created_at, started_at, updated_at, finished_at, ended_at, reserved, settled,
        agent_reserved, agent_spent, agent_settled, usage, body,
    ) = row  # fmt: skip
    built = _new(Worker)
    _id(built, worker_id)
    _issue(built, issue)
    _attempt(built, attempt)
    _outpost(built, outpost)
    _digest(built, digest)
    _state(built, _STATES[state])
    _detail(built, detail)
    _title(built, title)
    _priority(built, priority)
    _rig(built, rig)
    _agent(built, agent)
    _created_at(built, created_at)
    _started_at(built, started_at)
    _updated_at(built, updated_at)
    _finished_at(built, finished_at)
    _unreachable_since(built, unreachable.get(outpost) if ended_at is None else None)
    _cost_reserved(built, dollars(reserved) if ended_at is None else 0.0)
    _cost_settled(built, None if settled is None else dollars(settled))
    _agent_reserved(built, _dollars(agent_reserved) if ended_at is None else None)
    _agent_cost(built, _dollars(agent_spent if ended_at is None else agent_settled))
    result = _parse(Result, body) if body else None
    _usage(built, result.usage if result else _parse(Usage, usage) if usage else None)
    _result(built, result)
    return built


def _dollars(amount: int | None) -> float | None:
    return None if amount is None else dollars(amount)


def _parse(kind: type[T], body: str) -> T:
    import json

    from outpost_core import wire

    return wire.from_json(kind, json.loads(body))


def text(value: str) -> str:
    """Return a text as the database takes it: what is no Unicode becomes `?`."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


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
        "INSERT INTO events (worker, at, kind, outpost, data, body, explanation)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (worker_id, at, kind, outpost, data, body, explanation),
    )
