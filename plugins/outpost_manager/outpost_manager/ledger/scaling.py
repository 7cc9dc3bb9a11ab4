"""What is up of outposts that can be brought up and down, so that each step survives a crash.

A row says in which phase an outpost is. All but `up` refuse reservations, in the transaction of the
reservation itself: so once `draining` is written down, no worker can be on its way there, and
`stopping` is written down only while the ledger knows of none. No row: nobody has scaled it, and it
is used as any other.

Each change names the phase that it changes: of two who act at once, one finds that it was done.
Clocks jump: a pause that seems longer than it was made is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from outpost_manager.ledger import affording, clock, machines, money, rows, values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outpost_core.types import Json
    from outpost_manager.ledger.budgets import Budget
    from outpost_manager.ledger.store import Store
    from outpost_manager.ledger.values import Ask

#: Seconds until what could not be brought up is tried again: at first, and at most.
AGAIN, AGAIN_MOST = 30.0, 1800.0


class Phase(StrEnum):
    """Where an outpost is between off and on."""

    DOWN = "down"
    STARTING = "starting"
    UP = "up"
    DRAINING = "draining"  # it gets no more workers; what is there is looked at
    STOPPING = "stopping"  # nothing is there, and it is told to stop


#: Phases in which an outpost is meant not to answer.
ASLEEP: Final = (Phase.DOWN, Phase.STARTING, Phase.STOPPING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaled:
    """How an outpost that is scaled stands.

    Args:
        outpost: its name.
        phase: where it is.
        desired: units that are wanted.
        running: units that were up when it was last looked at.
        since: since when it is in that phase.
        decision: who decided: `mayor` or `hand`.
        reason: why, in one line.
        price: USD an hour of the units that are up or on their way; None when nobody knows.
        failures: how often in a row it could not be brought there.
        retry_at: when that may be tried again; 0 while nothing has failed.
        error: what failed last, or what keeps it up.
        busy_at: when it last had something to do.
    """

    outpost: str
    phase: Phase
    desired: int
    running: int
    since: float
    decision: str = ""
    reason: str = ""
    price: float | None = None
    failures: int = 0
    retry_at: float = 0.0
    error: str = ""
    busy_at: float = 0.0

    def waits(self, now: float) -> bool:
        """Whether it is too soon to try again what has failed."""
        return 0 < self.retry_at - now <= pause(self.failures)

    def why(self) -> str:
        """Return why nothing is placed there, in one line."""
        if self.phase is Phase.DOWN:
            return f"{self.outpost} is down{f': {self.error}' if self.error else _WHEN}"
        return f"{self.outpost} is {self.phase.value}: {self.reason}"


#: What is said of a place that is down and well.
_WHEN: Final = " (starts when needed)"
_COLUMNS: Final = (
    "outpost, phase, desired, running, since, decision, reason, price, failures, retry_at, error,"
    " busy_at"
)


def pause(failures: int) -> float:
    """Return the seconds until something that failed so often in a row is tried again."""
    return float(min(AGAIN * 2 ** min(max(0, failures - 1), 30), AGAIN_MOST))


class Scaling:
    """What the ledger knows of outposts that are scaled.

    Args:
        store: the ledger's file.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> dict[str, Scaled]:
        """Return the outposts of which it is known how far they are up, by name."""
        found = self._store.read(f"SELECT {_COLUMNS} FROM scaling")  # noqa: S608
        return {one.outpost: one for one in map(_scaled, found)}

    def seen(
        self, outpost: str, running: int, now: float, *, always: bool, price: float | None = None
    ) -> bool:
        """Take over what an outpost says of itself; return whether that is news.

        What is under way is left to whoever is at it.

        Args:
            outpost: its name.
            running: units that are up.
            now: seconds since the epoch.
            always: it takes work at 0, too, so it is never down.
            price: USD an hour of them; None when nobody knows.
        """
        phase = Phase.UP if running or always else Phase.DOWN
        cost = _nano(outpost, price)
        known = self.all().get(outpost)
        if phase is Phase.DOWN and self._store.read(
            "SELECT 1 FROM workers WHERE outpost = ? AND ended_at IS NULL LIMIT 1", (outpost,)
        ):
            return False  # it does not answer: whoever works there is no less there (law 2)
        if known is not None and known.phase not in (Phase.UP, Phase.DOWN):
            return False
        if known is not None and (known.phase, known.running) == (phase, running):
            if _nano(outpost, known.price) != cost:
                with self._store.write(durable=False) as db:
                    before = machines.hourly(db, outpost)
                    db.execute(
                        "UPDATE scaling SET price = ? WHERE outpost = ? AND phase = ?",
                        (cost, outpost, phase),
                    )
                    machines.tell(db, "", now, outpost, {}, before)
            return False
        with self._store.write(durable=False) as db:
            before = machines.hourly(db, outpost)
            fresh = db.execute(
                "INSERT OR IGNORE INTO scaling (outpost, phase, desired, running, since, busy_at,"
                " price) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (outpost, phase, running, running, now, now, cost),
            ).rowcount
            if not fresh:
                fresh = db.execute(
                    "UPDATE scaling SET running = ?, desired = ?, since = iif(phase = ?, since, ?),"
                    " busy_at = iif(phase = ?, busy_at, ?), phase = ?, failures = 0, retry_at = 0,"
                    " error = '', price = ? WHERE outpost = ? AND phase IN ('up', 'down')",
                    (running, running, phase, now, phase, now, phase, cost, outpost),
                ).rowcount
            word = "scaled_up" if phase is Phase.UP else "scaled_down"
            if not fresh or (known is not None and known.phase is phase):
                word = ""
            data: dict[str, Json] = {"running": running, "reason": "it was found so"}
            machines.tell(db, word, now, outpost, data, before)
            return bool(fresh)

    def busy(self, outpost: str, now: float) -> None:
        """Take note that an outpost has something to do."""
        with self._store.write(durable=False) as db:
            db.execute("UPDATE scaling SET busy_at = ? WHERE outpost = ?", (now, outpost))

    def begin(
        self,
        outpost: str,
        before: Phase,
        to: int,
        *,
        now: float,
        reason: str,
        price: float | None,
        decision: str,
        more: bool,
        always: bool = False,
        cap: float | None = None,
        budgets: Sequence[Budget] = (),
    ) -> bool:
        """Write down what was decided, before anything is done; False when somebody was faster.

        From here on its price counts within the cap of its outpost and within budgets, in each
        reservation's own transaction, and until it is down.

        Args:
            outpost: its name.
            before: the phase that it is in.
            to: units that are wanted.
            now: seconds since the epoch.
            reason: why.
            price: USD an hour of them; None when nobody knows.
            decision: `mayor` or `hand`.
            more: it is to have more than before, else less.
            always: it takes work while it changes.
            cap: USD that the outpost, its workers included, may cost in any hour; None for any.
            budgets: all that are configured.

        Raises:
            PlacementError: with what its workers hold, or have spent in this hour, it would cost
                more than the cap, or a budget would be passed.
        """
        phase = Phase.UP if always else Phase.STARTING if more else Phase.DRAINING
        cost = _nano(outpost, price)
        with self._store.write(only_here=True) as db:
            before_cost = machines.hourly(db, outpost)
            if more and cost:
                affording.within_cap(db, outpost, cost, cap, now)
                affording.within_budgets(db, outpost, cost, budgets, now)
            # what goes down costs as before until it is down
            done = db.execute(
                "UPDATE scaling SET phase = ?, desired = ?, since = ?, decision = ?, reason = ?,"
                " price = iif(?, ?, price), error = '' WHERE outpost = ? AND phase = ?",
                (phase, to, now, decision, rows.text(reason), more, cost, outpost, before),
            ).rowcount
            if done:
                data: dict[str, Json] = {"to": to, "reason": reason, "decision": decision}
                machines.tell(db, "scaling", now, outpost, data | {"price": price}, before_cost)
            return bool(done)

    def empty(self, outpost: str, now: float) -> bool:
        """Move on from draining to stopping, if the ledger knows of no worker there."""
        with self._store.write(only_here=True) as db:
            return bool(
                db.execute(
                    "UPDATE scaling SET phase = 'stopping', since = ? WHERE outpost = ?"
                    " AND phase IN ('draining', 'stopping') AND NOT EXISTS"
                    " (SELECT 1 FROM workers WHERE outpost = ? AND ended_at IS NULL)",
                    (now, outpost, outpost),
                ).rowcount
            )

    def done(
        self,
        outpost: str,
        running: int,
        now: float,
        *,
        always: bool = False,
        price: float | None = None,
        why: str = "",
    ) -> bool:
        """Write down that an outpost is where it was to be; False when it was not on its way.

        Args:
            outpost: its name.
            running: units that are up now.
            now: seconds since the epoch.
            always: it takes work at 0, too.
            price: USD an hour of them; None when nobody knows.
            why: how that came, in one line; "" for the reason of the decision.
        """
        phase = Phase.UP if running or always else Phase.DOWN
        with self._store.write(only_here=True) as db:
            found = db.execute(
                f"SELECT {_COLUMNS} FROM scaling WHERE outpost = ?",  # noqa: S608
                (outpost,),
            ).fetchone()
            if found is None:
                return False
            before, cost = _scaled(found), machines.hourly(db, outpost)
            reason = rows.text(why) or before.reason
            db.execute(
                "UPDATE scaling SET phase = ?, running = ?, since = ?, busy_at = ?, failures = 0,"
                " retry_at = 0, error = '', price = ?, reason = ? WHERE outpost = ?",
                (phase, running, now, now, _nano(outpost, price), reason, outpost),
            )
            word = "scaled_up" if running > before.running or phase is Phase.UP else "scaled_down"
            if always and running < before.running:
                word = "scaled_down"
            machines.tell(db, word, now, outpost, {"running": running, "reason": reason}, cost)
            return True

    def refused(self, outpost: str, back: Phase, error: str, now: float) -> None:
        """Write down that something could not be done; it is told each time that it was tried.

        Args:
            outpost: its name.
            back: the phase that it is in again.
            error: why.
            now: seconds since the epoch.
        """
        error = rows.text(" ".join(error.split()))[:500]
        with self._store.write(durable=False) as db:
            found = db.execute(
                "SELECT failures, error FROM scaling WHERE outpost = ?", (outpost,)
            ).fetchone()
            if found is None:
                return
            failures = (found[0] if isinstance(found[0], int) else 0) + 1
            cost = machines.hourly(db, outpost)
            db.execute(
                "UPDATE scaling SET phase = ?, since = ?, failures = ?, retry_at = ?, error = ?"
                " WHERE outpost = ?",
                (back, now, failures, now + pause(failures), error, outpost),
            )
            data: dict[str, Json] = {"reason": error, "failures": failures, "phase": back.value}
            machines.tell(db, "scale_refused", now, outpost, data, cost)

    def forget(self, outpost: str, *, gone: bool = False) -> bool:
        """Have an outpost be used as any other again; not while something is under way there.

        Args:
            outpost: its name.
            gone: there is none of that name any more, so nothing is under way.
        """
        with self._store.write(durable=False) as db:
            cost = machines.hourly(db, outpost)
            done = db.execute(
                "DELETE FROM scaling WHERE outpost = ? AND (? OR phase IN ('up', 'down'))",
                (outpost, gone),
            ).rowcount
            machines.tell(db, "", clock.now(), outpost, {}, cost)
            return bool(done)


def _nano(outpost: str, price: float | None) -> int | None:
    return None if price is None else money.nano(price, f"what {outpost} costs an hour")


def obstacle(ask: Ask, outpost: str) -> str:
    """Return why nothing may be reserved at an outpost, by what is up of it; "" for nothing."""
    found = ask(
        f"SELECT {_COLUMNS} FROM scaling WHERE outpost = ? AND phase <> 'up'",  # noqa: S608
        (outpost,),
    )
    return _scaled(found[0]).why() if found else ""


def _scaled(row: tuple[Any, ...]) -> Scaled:
    (
        outpost, phase, desired, running, since, decision, reason, price, failures, retry_at, error,
        busy_at,
    ) = row  # fmt: skip
    return Scaled(
        outpost=values.text(outpost),
        phase=Phase(phase),
        desired=desired if isinstance(desired, int) else 0,
        running=running if isinstance(running, int) else 0,
        since=values.number(since) or 0.0,
        decision=values.text(decision),
        reason=values.text(reason),
        price=money.dollars(price) if isinstance(price, int) else None,
        failures=failures if isinstance(failures, int) else 0,
        retry_at=values.number(retry_at) or 0.0,
        error=values.text(error),
        busy_at=values.number(busy_at) or 0.0,
    )
