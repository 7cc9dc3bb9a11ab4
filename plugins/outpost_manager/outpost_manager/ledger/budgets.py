"""Budgets: what any hour, day, week or month may hold of reserved and spent money.

A window ends now and has a fixed length (3,600 s, 24 h, 7 d, 30 d). It holds what open workers have
reserved (or spent, where that is more), what ended workers cost whose end was heard of within it,
and what outposts cost in so long a time without a worker, or their machines in the time in which
they are up. A reservation is checked in its own
transaction, so that no window ever holds more than its budget, however many processes reserve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from outpost_core.types import Json
from outpost_manager.config import patterns
from outpost_manager.ledger import machines, money, rows, values

if TYPE_CHECKING:
    import sqlite3

    from outpost_manager.ledger.values import Ask

#: The lengths of windows, in seconds.
WINDOWS: Final = {"hour": money.HOUR, "day": 86_400.0, "week": 7 * 86_400.0, "month": 30 * 86_400.0}
#: The part of a budget at which a warning is told, and the one below which it may be told again.
WARN_AT: Final = 0.8
CALM_AT: Final = 0.7

_OPEN_ROWS: Final = (
    f"coalesce(sum({values.counted('w.cost_reserved')} + max({values.counted('w.agent_reserved')},"
    f" {values.counted('w.agent_spent')})), 0)"
)
_SPENT: Final = f"{values.counted('w.cost_settled')} + {values.counted('w.agent_settled')}"
#: Workers that have not ended, and those that ended since a moment and cost something. The indexes
#: are named, since SQLite would walk through all workers that there ever were.
OPEN: Final = "workers w INDEXED BY workers_open WHERE w.ended_at IS NULL"
ENDED: Final = (
    "workers w INDEXED BY workers_spent"
    " WHERE (w.cost_settled > 0 OR w.agent_settled > 0) AND w.ended_at > ?"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """A budget as reservations are held to it.

    Args:
        name: what messages call it.
        window: a key of `WINDOWS`.
        usd: USD that any window may hold.
        outpost: patterns of outposts that count; none: all. The others likewise.
        rig: of repositories (see `patterns.of_rig`).
        label: of labels of issues.
        account: of accounts.
        standing: USD an hour that each of those outposts costs without a worker, whatever is up of
            it.
    """

    name: str
    window: str
    usd: float
    outpost: tuple[str, ...] = ()
    rig: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    account: tuple[str, ...] = ()
    standing: tuple[tuple[str, float], ...] = ()

    @property
    def seconds(self) -> float:
        """The length of its window."""
        return WINDOWS[self.window]

    def counts(self, outpost: str, rig: str | None, labels: Sequence[str], account: str) -> bool:
        """Whether a worker counts in it."""
        return (
            (not self.outpost or patterns.fits(outpost, self.outpost))
            and (not self.account or patterns.fits(account, self.account))
            and (not self.label or any(patterns.fits(label, self.label) for label in labels))
            and (not self.rig or patterns.fits(rig or "", _rigs(self.rig)))
        )

    def counts_places(self, outpost: str) -> bool:
        """Whether what an outpost costs without a worker counts; that is of no rig, say."""
        if self.rig or self.label or self.account:
            return False
        return not self.outpost or patterns.fits(outpost, self.outpost)


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What a window of a budget holds now, in nano-dollars.

    Args:
        cap: what it may hold.
        reserved: what open workers hold.
        spent: what ended workers cost.
        standing: what outposts cost in so long a time without a worker, and what machines that are
            brought up and down have cost and may cost in the next hour.
    """

    cap: int
    reserved: int
    spent: int
    standing: int

    @property
    def used(self) -> int:
        """All of it."""
        return self.reserved + self.spent + self.standing

    @property
    def left(self) -> int:
        """What may be reserved still."""
        return max(0, self.cap - self.used)


class Meter:
    """Reads how much a budget's window holds. Made once for a budget: see `meter`."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.cap = money.nano(budget.usd, f"the budget {budget.name}")
        usd = sum(usd for _, usd in budget.standing) * budget.seconds / money.HOUR
        self.standing = money.nano(usd, f"what stands in {budget.name}")
        where, args = _conditions(budget)
        self._args = args
        self._rows = f"SELECT {_OPEN_ROWS} FROM {OPEN} AND w.id <> ?{where}"  # noqa: S608
        self._held = ""
        if not (budget.rig or budget.label or budget.account):
            self._held = (
                f"SELECT coalesce(sum({values.counted('w.cost')}), 0) FROM held w"  # noqa: S608
                f" WHERE w.slots > 0{where}"
            )
        self._ended = f"SELECT coalesce(sum({_SPENT}), 0) FROM {ENDED}{where}"  # noqa: S608
        self._leaving = f"SELECT w.ended_at, {_SPENT} FROM {ENDED}{where} ORDER BY w.ended_at"  # noqa: S608

    def use(self, ask: Ask, now: float, besides: str = "") -> Use:
        """Return what the window that ends now holds.

        Args:
            ask: asks the ledger, inside a write transaction where something depends on it.
            now: seconds since the epoch.
            besides: a worker whose own reservation does not count.
        """
        if self._held and not besides:
            ((reserved,),) = ask(self._held, self._args)
        else:
            ((reserved,),) = ask(self._rows, [besides, *self._args])
        spent = self.spent(ask, now - self.budget.seconds)
        budget = self.budget
        up = machines.cost(
            ask, budget.counts_places, budget.seconds, now, lambda name: standing_of(budget, name)
        )
        return Use(cap=self.cap, reserved=reserved, spent=spent, standing=self.standing + up)

    def spent(self, ask: Ask, since: float) -> int:
        """Return what ended workers cost of whose end was heard since a moment."""
        ((spent,),) = ask(self._ended, [since, *self._args])
        return int(spent)

    def until(self, ask: Ask, now: float, more: int) -> float | None:
        """Return when so much has left the window; None when ends of workers have to come first."""
        for ended_at, spent in ask(self._leaving, [now - self.budget.seconds, *self._args]):
            more -= spent
            if more <= 0:
                return values.number(ended_at) and ended_at + self.budget.seconds
        return None


@lru_cache(maxsize=256)
def meter(budget: Budget) -> Meter:
    """Return the meter of a budget.

    Raises:
        UsageError: it has no amount of money.
    """
    return Meter(budget)


def standing_of(budget: Budget, outpost: str) -> int:
    """Return the nano-dollars an hour that an outpost costs in a budget, whatever is up of it."""
    usd = next((usd for name, usd in budget.standing if name == outpost), 0.0)
    return money.nano(usd, f"what {outpost} costs by itself")


def refusal(meter: Meter, use: Use, worst: int, ask: Ask, now: float) -> tuple[str, float | None]:
    """Say why a worst case does not fit, and when it may; "" when it fits.

    Args:
        meter: of the budget.
        use: what its window holds.
        worst: nano-dollars that are wanted.
        ask: asks the ledger.
        now: seconds since the epoch.
    """
    if use.used + worst <= use.cap:
        return "", None
    budget, show = meter.budget, money.show
    said = (
        f"budget {budget.name}: {show(use.used)} of {show(use.cap)} are reserved or spent in the"
        f" last {SAID[budget.window]}, and this may cost {show(worst)}"
    )
    if up := use.standing - meter.standing:
        said += f" ({show(up)} for machines that are or were up)"
    if meter.standing + worst > use.cap:
        return f"{said}, which is more than it ever holds", None
    until = meter.until(ask, now, use.used + worst - use.cap)
    if until is None:
        return f"{said}; it goes when workers have ended for less", None
    return said, until


def warn(db: sqlite3.Connection, meter: Meter, used: int, now: float, worker: str) -> None:
    """Tell that a budget is nearly used up, once until it has fallen well below, in a transaction.

    Args:
        db: the connection.
        meter: of the budget.
        used: nano-dollars that its window holds now.
        now: seconds since the epoch.
        worker: who made it so.
    """
    name = meter.budget.name
    if used < WARN_AT * meter.cap:
        if used < CALM_AT * meter.cap:
            db.execute("DELETE FROM warned WHERE budget = ?", (name,))
        return
    if db.execute("INSERT OR IGNORE INTO warned VALUES (?, ?)", (name, now)).rowcount:
        told: dict[str, Json] = {
            "budget": name,
            "window": meter.budget.window,
            "used_usd": money.dollars(used),
            "usd": meter.budget.usd,
            "share": round(used / meter.cap, 4),
        }
        rows.tell(db, "budget", now, worker, "", told)


#: A window in words.
SAID: Final = {"hour": "hour", "day": "24 hours", "week": "7 days", "month": "30 days"}


@lru_cache(maxsize=256)
def _rigs(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(pattern for word in words for pattern in patterns.of_rig(word))


def _conditions(budget: Budget) -> tuple[str, list[str]]:
    """Return the SQL of `Budget.counts` for a table `w`, each part after an AND; its arguments."""
    found = ""
    args: list[str] = []
    for column, words in (
        ("w.outpost", budget.outpost),
        ("w.account", budget.account),
        ("coalesce(w.rig, '')", _rigs(budget.rig)),
    ):
        if words:
            said, more = patterns.sql(column, words)
            found, args = f"{found} AND {said}", args + more
    if budget.label:
        said, more = patterns.sql("l.label", budget.label)
        found += f" AND EXISTS (SELECT 1 FROM worker_labels l WHERE l.worker = w.id AND {said})"  # noqa: S608
        args += more
    return found, args
