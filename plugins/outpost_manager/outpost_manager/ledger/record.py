"""What outposts say, taken over behind fences."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from outpost_core.errors import UsageError
from outpost_core.types import Json, Result, State, Usage, WorkerStatus, split_worker_id
from outpost_manager.ledger import breakers, clock, doubtful, money, parking, rows, values

if TYPE_CHECKING:
    import sqlite3


#: Seconds that a list may be old when it is taken over; a clock that was set back shows as more.
_OLDEST_LIST: Final = 900.0


def take(
    db: sqlite3.Connection, outpost: str, status: WorkerStatus, asked_at: float | None = None
) -> bool:
    """Take one status over, inside a write transaction; False when that is no news."""
    now = clock.now()
    found = db.execute(
        "SELECT outpost, digest, state, detail, started_at, told_at, spawned_at, ended_at,"
        " cost_reserved, reserved_at, agent_reserved, agent_spent, usage, account FROM workers"
        " WHERE id = ?",
        (status.id,),
    ).fetchone()
    if found is None:
        found = _adopt(db, outpost, status, now)
    (
        where, digest, state, detail, started_at, told_at, spawned_at, ended_at, reserved, at,
        agent_reserved, seen_before, usage, account,
    ) = found  # fmt: skip
    at, told_at = values.number(at), values.number(told_at)
    reserved = values.nano(reserved)
    agent_reserved, seen_before = (
        None if amount is None else values.nano(amount) for amount in (agent_reserved, seen_before)
    )
    if ended_at is not None or where != outpost or (status.digest and status.digest != digest):
        return False
    if (
        asked_at is not None
        and at is not None
        and 0 < at - asked_at < _OLDEST_LIST
        and _renewed(db, status.id)
    ):
        return False
    if not status.state.terminal and status.updated_at and told_at and status.updated_at < told_at:
        return False
    seen = _seen(status, seen_before)
    news = (
        status.state.value,
        rows.text(status.detail),
        status.started_at or started_at,
        used(status) or usage,
        seen,
    )
    if news == (state, detail, started_at, usage, seen_before) and spawned_at is not None:
        return False
    db.execute(
        "UPDATE workers SET state = ?, detail = ?, started_at = ?, usage = ?, agent_spent = ?,"
        " updated_at = ?, told_at = coalesce(?, told_at), spawned_at = coalesce(spawned_at, ?)"
        " WHERE id = ?",
        (*news, status.updated_at or now, status.updated_at, now, status.id),
    )
    if status.state.terminal:
        status = _believed(db, replace(status, result=_readable(status)))
    if spawned_at is None and not (status.result and status.result.reason == "never_started"):
        rows.tell(db, "spawned", now, status.id, outpost, {"state": status.state.value})
    if status.state.terminal:
        _settle(db, status, _Held(reserved, agent_reserved, seen, news[3]), now)
    if news[:3] == (state, detail, started_at) and spawned_at is not None:
        return False  # what its agent uses is nothing to tell everybody
    if status.state != state:
        rows.tell(db, "state", now, status.id, outpost, _state(status))
        result = status.result
        breakers.heard(db, status.id, outpost, values.text(account), status.state, result)
        parking.heard(db, status.id, values.text(account), result, now)
    return True


def _state(status: WorkerStatus) -> dict[str, Json]:
    """Return what the event of a changed state says."""
    data: dict[str, Json] = {"state": status.state.value}
    if status.detail:
        data["detail"] = rows.text(status.detail)
    if status.result:
        data["reason"] = status.result.reason
    return data


def _believed(db: sqlite3.Connection, status: WorkerStatus) -> WorkerStatus:
    """Return the end of a worker; as lost where its branch is not one that its order could make."""
    branch = status.result.branch if status.result is not None else None
    if branch is None:
        return status
    found = db.execute(
        "SELECT body FROM events WHERE worker = ? AND body IS NOT NULL ORDER BY id DESC LIMIT 1",
        (status.id,),
    ).fetchone()
    delivery = values.data(found[0]).get("delivery") if found is not None else None
    wanted = delivery.get("branch") if isinstance(delivery, dict) else None
    # where the branch went another way, the work is beside it
    if not isinstance(wanted, str) or branch == wanted or branch.startswith(f"{wanted}-"):
        return status
    message = f"its outpost told of a branch that is not its own: {branch[:200]}"
    result = Result(state=State.LOST, reason=doubtful.BROKEN, message=message)
    return replace(status, state=State.LOST, result=result)


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
    return (outpost, status.digest, State.QUEUED.value, "", *[None] * 4, 0, 0.0, *[None] * 3, "")


def _renewed(db: sqlite3.Connection, worker: str) -> bool:
    """Whether another try was put in the place of one that failed before its agent began."""
    found = db.execute("SELECT 1 FROM events WHERE worker = ? AND kind = 'renewed'", (worker,))
    return found.fetchone() is not None


def used(status: WorkerStatus) -> str | None:
    """Return what the agent has used so far as the ledger keeps it; None when nothing is said."""
    from outpost_core import wire

    if not isinstance(status.usage, Usage):
        return None
    try:
        text = wire.dumps(status.usage)
        wire.from_json(Usage, json.loads(text))
    except (UsageError, TypeError, ValueError):
        return None  # no listing could ever read it again
    return text


def _seen(status: WorkerStatus, before: int | None) -> int | None:
    """Return what is known of an agent's spending now; what was seen once is never unseen."""
    now = money.counted(status.usage.cost_usd) if used(status) and status.usage else None
    return before if now is None else max(now, before or 0)


class _Held(NamedTuple):
    """What a row holds of money, in nano-dollars, and what was seen of its agent's usage."""

    machine: int
    agent: int | None
    seen: int | None
    usage: str | None


def _settle(db: sqlite3.Connection, status: WorkerStatus, held: _Held, now: float) -> None:
    """End a row: what the outpost charged and the agent spent is what it cost.

    Where that is not known, the worst case counts that was reserved.
    """
    from outpost_core import wire

    result = status.result
    charged = money.counted(result.cost_usd) if result is not None else None
    finished_at = result.finished_at if result is not None else None
    db.execute(
        "UPDATE workers SET ended_at = ?, finished_at = ?, cost_settled = ?, agent_settled = ?"
        " WHERE id = ?",
        (
            now,
            finished_at or now,
            held.machine if charged is None else charged,
            _agent_settled(result, held),
            status.id,
        ),
    )
    if result is not None:
        if held.usage is not None and result.usage == Usage():  # its end was seen by nobody
            last = doubtful.parsed(Usage, held.usage) or Usage()
            result = replace(result, usage=replace(last, partial=True))
        db.execute("INSERT INTO results VALUES (?, ?)", (status.id, wire.dumps(result)))


def _agent_settled(result: Result | None, held: _Held) -> int | None:
    """Return what the agent spent; None when nobody knows and nothing was reserved for it.

    Its own final word counts as it is, also beyond its limit and below what was seen of it. A
    partial count is what was seen until it was ended: at most the answer that it waited for is
    missing, so that counts, and not the whole worst case. Without any word the worst case stands,
    unless the agent never ran.
    """
    usage = result.usage if result is not None else Usage()
    told = money.counted(usage.cost_usd)
    if told is not None:
        return max(told, held.seen or 0) if usage.partial else told
    if result is not None and _never_ran(result):
        return 0
    if held.agent is None:
        return held.seen
    return max(held.agent, held.seen or 0)


#: Reasons of results whose agent was not started, where an older far side does not say so.
_BEFORE: Final = frozenset(
    {
        *("never_started", "workspace_failed", "base_not_found", "command_not_found"),
        *("wrapper_not_found", "no_fence"),
    }
)


def _never_ran(result: Result) -> bool:
    """Whether the agent was certainly not started."""
    return result.reason in _BEFORE if result.agent_began is None else not result.agent_began


def _readable(status: WorkerStatus) -> Result | None:
    """Return the result, or when a listing could never read it again, one that says so."""
    from outpost_core import wire

    if status.result is None:
        return None
    try:
        return wire.from_json(Result, json.loads(wire.dumps(status.result)))
    except (UsageError, TypeError, ValueError) as error:
        message = f"its outpost told a result that cannot be read: {error}"
        return Result(state=status.state, reason="internal", message=message)
