"""What outposts say, taken over behind fences."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import UsageError
from outpost_core.ledger import money, rows
from outpost_core.types import Json, Result, State, WorkerStatus, split_worker_id

if TYPE_CHECKING:
    import sqlite3


#: Seconds that a list may be old when it is taken over; a clock that was set back shows as more.
_OLDEST_LIST: Final = 900.0


def take(
    db: sqlite3.Connection, outpost: str, status: WorkerStatus, asked_at: float | None = None
) -> bool:
    """Take one status over, inside a write transaction; False when a fence keeps it out."""
    now = time.time()
    found = db.execute(
        "SELECT outpost, digest, state, detail, started_at, told_at, spawned_at, ended_at,"
        " cost_reserved, reserved_at FROM workers WHERE id = ?",
        (status.id,),
    ).fetchone()
    if found is None:
        found = _adopt(db, outpost, status, now)
    where, digest, state, detail, started_at, told_at, spawned_at, ended_at, reserved, at = found
    if ended_at is not None or where != outpost or (status.digest and status.digest != digest):
        return False
    if asked_at is not None and 0 < at - asked_at < _OLDEST_LIST and _renewed(db, status.id):
        return False
    if not status.state.terminal and status.updated_at and told_at and status.updated_at < told_at:
        return False
    news = (status.state.value, rows.text(status.detail), status.started_at or started_at)
    if news == (state, detail, started_at) and spawned_at is not None:
        return False
    db.execute(
        "UPDATE workers SET state = ?, detail = ?, started_at = ?, updated_at = ?,"
        " told_at = coalesce(?, told_at), spawned_at = coalesce(spawned_at, ?) WHERE id = ?",
        (*news, status.updated_at or now, status.updated_at, now, status.id),
    )
    if status.state.terminal:
        status = replace(status, result=_readable(status))
    if spawned_at is None and not (status.result and status.result.reason == "never_started"):
        rows.tell(db, "spawned", now, status.id, outpost)
    if status.state.terminal:
        _settle(db, status, reserved, now)
    if status.state != state:
        data: dict[str, Json] = {"state": status.state.value}
        if status.result:
            data["reason"] = status.result.reason
        rows.tell(db, "state", now, status.id, outpost, data)
    return True


def _adopt(
    db: sqlite3.Connection, outpost: str, status: WorkerStatus, now: float
) -> tuple[Any, ...]:
    issue, attempt = split_worker_id(status.id)
    db.execute(
        "INSERT INTO workers (id, issue, attempt, outpost, digest, state, created_at, reserved_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (status.id, issue, attempt, outpost, status.digest, State.QUEUED.value,
         status.started_at or now, now),
    )  # fmt: skip
    rows.tell(db, "adopted", now, status.id, outpost)
    return (outpost, status.digest, State.QUEUED.value, "", None, None, None, None, 0, 0.0)


def _renewed(db: sqlite3.Connection, worker: str) -> bool:
    """Whether another try was put in the place of one that failed before its agent began."""
    found = db.execute("SELECT 1 FROM events WHERE worker = ? AND kind = 'renewed'", (worker,))
    return found.fetchone() is not None


def _settle(db: sqlite3.Connection, status: WorkerStatus, reserved: int, now: float) -> None:
    """End a row: what the outpost charged, else what was reserved, is what it cost."""
    from outpost_core import wire

    result = status.result
    settled = reserved
    if result is not None and result.cost_usd is not None:
        try:
            settled = money.nano(result.cost_usd, "cost_usd")
        except UsageError:
            settled = reserved  # an outpost that cannot count: the worst case stands
    finished_at = result.finished_at if result is not None else None
    db.execute(
        "UPDATE workers SET ended_at = ?, finished_at = ?, cost_settled = ? WHERE id = ?",
        (now, finished_at or now, settled, status.id),
    )
    if result is not None:
        db.execute("INSERT INTO results VALUES (?, ?)", (status.id, wire.dumps(result)))


def _readable(status: WorkerStatus) -> Result | None:
    """Return the result, or when a listing could never read it again, one that says so."""
    import json

    from outpost_core import wire

    if status.result is None:
        return None
    try:
        return wire.from_json(Result, json.loads(wire.dumps(status.result)))
    except (UsageError, TypeError, ValueError) as error:
        message = f"its outpost told a result that cannot be read: {error}"
        return Result(state=status.state, reason="internal", message=message)
