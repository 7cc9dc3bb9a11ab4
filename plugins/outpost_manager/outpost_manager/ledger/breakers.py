"""Circuit breakers of outposts and accounts: what fails again and again is left alone for a while.

A breaker is *closed* while all is well. After some failures in a row it is *open*: nothing is
reserved there until its pause is over. Then the first reservation is the one *probe* (half-open):
all others stay refused until it has begun its work, which closes the breaker, or failed, which
opens it again for twice as long. All of it is in the ledger, so that every process sees the same.

Clocks jump: a pause that seems longer than it was made is over, and a probe of which nothing is
heard for `PROBE_PATIENCE` seconds, in either direction, makes room for another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from outpost_core.types import State
from outpost_manager.ledger import clock, rows, values

if TYPE_CHECKING:
    import sqlite3

    from outpost_core.types import Result
    from outpost_manager.ledger.store import Store
    from outpost_manager.ledger.values import Ask

OUTPOST, ACCOUNT = "outpost", "account"
CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """When a breaker opens, and for how long.

    Args:
        failures: so many in a row open it.
        first: seconds of its first pause; each failed probe doubles it.
        most: seconds of its longest pause.
        counts: what counts as a failure, in words.
    """

    failures: int
    first: float
    most: float
    counts: str

    def pause(self, failures: int) -> float:
        """Return the seconds of the pause after so many failures in a row."""
        doubled = min(max(0, failures - self.failures), 30)
        return float(min(self.most, self.first * 2**doubled))


#: THE table of breakers; the configuration reference shows it.
RULES: Final[Mapping[str, Rule]] = {
    OUTPOST: Rule(
        failures=5,
        first=30.0,
        most=900.0,
        counts="it cannot be reached or built when a worker is to be spawned; a worker there ends"
        " as `never_started`, `workspace_failed`, `disk_full`, `wrapper_not_found`, `no_fence` or"
        " `internal` before its agent began",
    ),
    ACCOUNT: Rule(
        failures=3,
        first=60.0,
        most=3600.0,
        counts="an agent ends as `not_logged_in`, or the value of a secret of the account cannot"
        " be had",
    ),
}
#: Seconds without news after which another probe may go.
PROBE_PATIENCE: Final = 900.0
#: Reasons that are the outpost's fault, where the agent did not begin.
_OUTPOSTS_FAULT: Final = frozenset(
    {
        *("never_started", "workspace_failed", "disk_full", "wrapper_not_found", "no_fence"),
        "internal",
    }
)
_ACCOUNTS_FAULT: Final = frozenset({"not_logged_in"})
_COLUMNS: Final = "kind, name, state, failures, since, retry_at, probe, detail"


@dataclass(frozen=True, kw_only=True, slots=True)
class Breaker:
    """A breaker of which something is known.

    Args:
        kind: `outpost` or `account`.
        name: of the outpost or account.
        state: `closed` (some failures, and not enough), `open` or `half-open`.
        failures: how many in a row.
        since: when it came into that state.
        retry_at: when a probe may go; 0 while it is closed.
        probe: the worker that is the probe; "" for none.
        detail: what failed last.
    """

    kind: str
    name: str
    state: str
    failures: int
    since: float
    retry_at: float = 0.0
    probe: str = ""
    detail: str = ""

    def waits(self, now: float) -> float | None:
        """Return until when it refuses, as far as time alone decides; None when a probe may go."""
        if self.state == OPEN:
            pause = RULES[self.kind].pause(self.failures)
            return self.retry_at if 0 < self.retry_at - now <= pause else None
        if self.state == HALF_OPEN:
            over = self.since + PROBE_PATIENCE
            return over if 0 <= now - self.since < PROBE_PATIENCE else None
        return None

    def why(self) -> str:
        """Return why nothing is placed there, in one line."""
        if self.state == HALF_OPEN and self.probe:
            return f"{self.kind} {self.name}: its breaker is half-open, and {self.probe} tries it"
        return (
            f"{self.kind} {self.name}: its breaker is open after {self.failures} failures in a row"
            f" ({self.detail or 'no reason given'})"
        )


class Breakers:
    """The breakers in the ledger.

    Args:
        store: the ledger's file.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> list[Breaker]:
        """Return those of which something is known."""
        return [_breaker(row) for row in self._store.read(f"SELECT {_COLUMNS} FROM breakers")]  # noqa: S608

    def failed(self, kind: str, name: str, detail: str, worker: str = "") -> None:
        """Count a failure that no worker's end tells of.

        Args:
            kind: `OUTPOST` or `ACCOUNT`.
            name: which.
            detail: what failed, in one line.
            worker: whose spawn it was.
        """
        with self._store.write(durable=False) as db:
            failed(db, kind, name, detail, worker)

    def reset(self, kind: str, name: str) -> bool:
        """Close a breaker by hand; False when nothing was known of it."""
        with self._store.write(durable=False) as db:
            found = db.execute(
                "DELETE FROM breakers WHERE kind = ? AND name = ? RETURNING state", (kind, name)
            ).fetchall()
            if found:
                _tell(db, kind, name, CLOSED, clock.now(), "", "closed by hand")
            return bool(found)


def look(ask: Ask, kind: str, name: str) -> Breaker | None:
    """Return a breaker that is not closed; None where nothing is in the way."""
    found = ask(
        f"SELECT {_COLUMNS} FROM breakers WHERE kind = ? AND name = ? AND state <> 'closed'",  # noqa: S608
        (kind, name),
    )
    return _breaker(found[0]) if found else None


def refuses(ask: Ask, breaker: Breaker, worker: str, now: float) -> tuple[bool, float | None]:
    """Say whether a breaker refuses a reservation, and until when if that is known.

    Args:
        ask: asks the ledger.
        breaker: of the outpost, or the account.
        worker: who wants to go there; the probe itself is let through again.
        now: seconds since the epoch.
    """
    until = breaker.waits(now)
    if until is None:
        return False, None
    if breaker.state == OPEN:
        return True, until
    if breaker.probe == worker:
        return False, None
    alive = ask(
        f"SELECT 1 FROM workers WHERE id = ? AND ended_at IS NULL AND {breaker.kind} = ?",  # noqa: S608
        (breaker.probe, breaker.name),
    )
    return bool(alive), None


def probe(db: sqlite3.Connection, breaker: Breaker, worker: str, now: float) -> None:
    """Let a worker be the one probe, in the transaction of its reservation."""
    db.execute(
        "UPDATE breakers SET state = 'half-open', probe = ?, since = ? WHERE kind = ? AND name = ?",
        (worker, now, breaker.kind, breaker.name),
    )
    if breaker.probe != worker:
        _tell(db, breaker.kind, breaker.name, HALF_OPEN, now, worker, breaker.detail)


def failed(db: sqlite3.Connection, kind: str, name: str, detail: str, worker: str) -> None:
    """Count a failure, inside a write transaction; the one that is enough opens the breaker.

    Only the probe counts while it is half-open, and nobody while it is open: who was sent there
    before says nothing new.
    """
    rule, now = RULES[kind], clock.now()
    found = db.execute(
        f"SELECT {_COLUMNS} FROM breakers WHERE kind = ? AND name = ?",  # noqa: S608
        (kind, name),
    ).fetchone()
    before = _breaker(found) if found is not None else None
    detail = rows.text(" ".join(detail.split()))[:300]
    if before is not None and before.state == OPEN:
        return
    if before is not None and before.state == HALF_OPEN and before.probe not in ("", worker):
        return
    failures = (before.failures if before is not None else 0) + 1
    opens = failures >= rule.failures
    db.execute(
        "INSERT OR REPLACE INTO breakers VALUES (?, ?, ?, ?, ?, ?, '', ?)",
        (
            kind,
            name,
            OPEN if opens else CLOSED,
            failures,
            now,
            now + rule.pause(failures) if opens else 0.0,
            detail,
        ),
    )
    if opens:
        _tell(db, kind, name, OPEN, now, worker, detail)


def worked(db: sqlite3.Connection, kind: str, name: str, worker: str) -> None:
    """Take note that something worked there, inside a write transaction."""
    found = db.execute(
        "DELETE FROM breakers WHERE kind = ? AND name = ? AND (state = 'closed' OR probe = ?)"
        " RETURNING state",
        (kind, name, worker),
    ).fetchall()
    if found and found[0][0] != CLOSED:
        _tell(db, kind, name, CLOSED, clock.now(), worker, "its probe worked")


def heard(
    db: sqlite3.Connection,
    worker: str,
    outpost: str,
    account: str,
    state: State,
    result: Result | None,
) -> None:
    """Take over what the state of a worker says of its outpost and account, in the transaction.

    Args:
        db: the connection.
        worker: its id.
        outpost: where it is.
        account: whose credentials its agent uses; "" when nobody knows.
        state: what it is now.
        result: how it ended, if it did.
    """
    if not state.terminal:
        if state in (State.WORKING, State.IDLE):
            worked(db, OUTPOST, outpost, worker)
        return
    reason = result.reason if result is not None else ""
    began = result is not None and result.agent_began is not False
    if reason in _OUTPOSTS_FAULT and not (result is not None and result.agent_began):
        if state is not State.STOPPED:  # given up by hand says nothing
            said = result.message if result is not None else ""
            failed(db, OUTPOST, outpost, f"{reason}: {said}", worker)
    elif began and state is not State.LOST:
        worked(db, OUTPOST, outpost, worker)
    if not account:
        return
    if reason in _ACCOUNTS_FAULT:
        failed(db, ACCOUNT, account, f"{reason}: {result.message if result else ''}", worker)
    elif began and state is State.DONE:
        worked(db, ACCOUNT, account, worker)


def _tell(
    db: sqlite3.Connection, kind: str, name: str, state: str, now: float, worker: str, detail: str
) -> None:
    outpost = name if kind == OUTPOST else ""
    data = {"kind": kind, "name": name, "state": state, "detail": detail}
    rows.tell(db, "breaker", now, worker, outpost, data)


def _breaker(row: tuple[Any, ...]) -> Breaker:
    kind, name, state, failures, since, retry_at, probe_, detail = row
    return Breaker(
        kind=OUTPOST if kind == OUTPOST else ACCOUNT,
        name=values.text(name),
        state=values.text(state),
        failures=failures if isinstance(failures, int) else 0,
        since=values.number(since) or 0.0,
        retry_at=values.number(retry_at) or 0.0,
        probe=values.text(probe_),
        detail=values.text(detail),
    )
