"""Parking: accounts of models whose provider takes no more for a while.

A worker that ends as `rate_limited` or `overloaded` parks its own account, for the model that its
order names, in the transaction in which its end is written and whoever writes it. Until the moment
that its agent named (else for a pause that doubles), nothing is reserved with that account. What
an agent says is a claim: it parks no account but its own, for seven days at the most, and a person
ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from outpost_core.types import Json, Order, State
from outpost_manager.ledger import clock, doubtful, rows, values

if TYPE_CHECKING:
    import sqlite3

    from outpost_core.types import Result
    from outpost_manager.ledger.store import Store

#: Seconds that a claim may park an account at the most: the longest window of a subscription.
LONGEST: Final = 7 * 86_400.0
#: Reason → seconds of the pause where no moment is named, and at the most: each further claim
#: doubles it until a worker of that account is done.
PAUSES: Final = {"rate_limited": (15 * 60.0, 5 * 3600.0), "overloaded": (120.0, 3600.0)}
#: Seconds that a named moment may be near at least, from the second claim in a row on, doubling.
_LEAST: Final = (60.0, 3600.0)
#: The account of commands that nobody knows as an agent: they have nothing in common.
_ANY_COMMAND: Final = "command"
#: Seconds by which one may have been written in the future; more was another clock's.
_SLACK: Final = 5.0
_COLUMNS: Final = "account, model, until, since, reason, worker, claims"


@dataclass(frozen=True, kw_only=True, slots=True)
class Parked:
    """An account that takes no more for a while.

    Args:
        account: which one.
        model: for what model; "" for whatever model.
        until: when it may be used again; in the past: it may, and claims are still counted.
        since: when that was last said.
        reason: why, in words.
        worker: whose end said so.
        claims: how often in a row.
    """

    account: str
    model: str
    until: float
    since: float
    reason: str
    worker: str
    claims: int


class Parking:
    """The parked accounts of one ledger.

    Args:
        store: the ledger's file.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self, now: float | None = None) -> list[Parked]:
        """Return what is parked, the first to be free first.

        Args:
            now: seconds since the epoch; None for the clock's.
        """
        now = clock.now() if now is None else now
        found = self._store.read(
            f"SELECT {_COLUMNS} FROM parked WHERE until > ? AND since <= ?"  # noqa: S608
            " ORDER BY until, account, model",
            (now, now + _SLACK),
        )
        return [_parked(row) for row in found]

    def free_at(self, accounts: Sequence[str], model: str, now: float) -> float:
        """Return when the first of some accounts may be used; 0 where one was never parked.

        Args:
            accounts: their names, at least one.
            model: that is asked for; "" for none in particular.
            now: seconds since the epoch.
        """
        found = self._store.read(
            "SELECT account, max(until) FROM parked WHERE model IN ('', ?) AND since <= ?"
            " GROUP BY account",
            (model, now + _SLACK),
        )
        until = {values.text(account): values.number(moment) or 0.0 for account, moment in found}
        return min(until.get(account, 0.0) for account in accounts)

    def unpark(self, account: str) -> int:
        """Let an account be used again; return how many of its models were parked."""
        now = clock.now()
        with self._store.write(only_here=True) as db:
            found = db.execute(
                "DELETE FROM parked WHERE account = ? RETURNING model, until", (account,)
            ).fetchall()
            freed = [values.text(model) for model, until in found if until > now]
            for model in freed:
                told: dict[str, Json] = {"account": account, "model": model, "why": "by hand"}
                rows.tell(db, "unparked", now, "", "", told)
            return len(freed)


def heard(
    db: sqlite3.Connection, worker: str, account: str, result: Result | None, now: float
) -> None:
    """Take over what the end of a worker says of its account, inside a write transaction.

    Args:
        db: the connection.
        worker: its id.
        account: whose credentials its agent used; "" when nobody knows.
        result: how it ended.
        now: seconds since the epoch.
    """
    if result is None or account in ("", _ANY_COMMAND):
        return
    if result.reason not in PAUSES:
        if result.state is State.DONE:  # what is still parked stays so
            db.execute("DELETE FROM parked WHERE account = ? AND until <= ?", (account, now))
        return
    if result.agent_began is False:
        return
    model = _model(db, worker)
    found = db.execute(
        "SELECT until, claims FROM parked WHERE account = ? AND model = ?", (account, model)
    ).fetchone()
    before, claims = (values.number(found[0]) or 0.0, found[1]) if found else (0.0, 0)
    if before > now:  # others that ran at the same time say the same, not one thing more
        claims = max(0, claims - 1)
    claims += 1
    until = end_of(result, claims, now)
    if before > now:
        until = max(until, min(before, now + LONGEST))
    said = "its limit is reached" if result.reason == "rate_limited" else "it is overloaded"
    reason = f"{said}, says {worker}"
    db.execute(
        f"INSERT OR REPLACE INTO parked ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (account, model, until, now, reason, worker, claims),
    )
    if until > before + 1.0:
        told: dict[str, Json] = {
            "account": account, "model": model, "until": until, "reason": result.reason,
            "named": result.retry_at is not None,
        }  # fmt: skip
        rows.tell(db, "parked", now, worker, "", told)


def end_of(result: Result, claims: int, now: float) -> float:
    """Return until when a result parks its account.

    Args:
        result: of the reason `rate_limited` or `overloaded`.
        claims: how often that was said in a row, this one included.
        now: seconds since the epoch.
    """
    doubled = 2.0 ** min(claims - 1, 20)
    named, ended = result.retry_at, result.finished_at
    if named is None or named <= (ended or now):
        first, most = PAUSES[result.reason]
        return now + min(first * doubled, most)
    first, most = _LEAST
    least = now + min(first * doubled / 2, most) if claims > 1 else now
    return min(max(named, least), now + LONGEST)


def _model(db: sqlite3.Connection, worker: str) -> str:
    """Return the model that a worker's order names; "" when it names none."""
    from outpost_manager.config.accounts import model_of

    found = db.execute(
        "SELECT body FROM events WHERE worker = ? AND body IS NOT NULL ORDER BY id DESC LIMIT 1",
        (worker,),
    ).fetchone()
    order = doubtful.parsed(Order, found[0]) if found is not None else None
    return model_of(order) if order is not None else ""


def _parked(row: tuple[Any, ...]) -> Parked:
    account, model, until, since, reason, worker, claims = row
    return Parked(
        account=values.text(account),
        model=values.text(model),
        until=values.number(until) or 0.0,
        since=values.number(since) or 0.0,
        reason=values.text(reason),
        worker=values.text(worker),
        claims=claims if isinstance(claims, int) else 1,
    )
