"""Whose turn it is in the queue."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from outpost_manager.config.queue import QueueRules
from outpost_manager.ledger import values
from outpost_manager.ledger.entries import COLUMNS, Entry, from_row

if TYPE_CHECKING:
    import sqlite3

    from outpost_manager.ledger.store import Store
    from outpost_manager.ledger.values import Ask

#: The switch of the whole queue, and the words at which nothing of it is placed.
SWITCH: Final = "queue"
PAUSED: Final = ("paused", "draining")

#: An entry that may be placed, as far as its row says; the partial index has the same words.
READY: Final = "state = 'waiting' AND held = 0 AND waits_for = 0"
#: So many entries of a share are looked at in one question.
_PAGE: Final = 64


def whose_turn(
    store: Store, rules: QueueRules, now: float, limit: int, skip: Collection[str]
) -> list[Entry]:
    """Return the entries that are to be placed next, best first; see `Queue.next`."""
    heads = {share: _Head(store, share, now, skip) for share in _shares(store)}
    running = _Running(store.read(_RUNNING))
    found: list[Entry] = []
    while heads and len(found) < limit:
        best, head = None, None
        for share, at in [*heads.items()]:
            entry = at.peek(lambda one: running.has_room(one, rules))
            if entry is None:
                del heads[share]
                continue
            weight = rules.weights.get(share, 1.0)
            level = max(0, math.ceil((entry.turn - now) / rules.aging)) if rules.aging else 0
            key = (level, running.share.get(share, 0) / weight, entry.turn, entry.seq)
            if best is None or key < best:
                best, head = key, at
        if head is not None:
            entry = head.take()
            running.count(entry)
            found.append(entry)
    return found


def over(db: sqlite3.Connection, worker: str, digest: str, rules: QueueRules | None) -> str:
    """Return why the entry of an attempt may not be placed any more; "" when it may.

    Since it was seen it was taken out of the queue, paused or moved, or the queue itself was, or
    others have placed as many as the rules allow. Asked inside a write transaction.

    Args:
        db: the connection.
        worker: the attempt.
        digest: of its order, as the entry had it when it was seen.
        rules: see there; None for no limits.
    """
    ask = values.asking(db)
    words = ",".join("?" * len(PAUSED))
    found = ask(
        f"SELECT rig, account FROM queue WHERE worker = ? AND digest = ? AND {READY}"  # noqa: S608
        f" AND NOT EXISTS (SELECT 1 FROM switches WHERE name = ? AND value IN ({words}))",
        (worker, digest, SWITCH, *PAUSED),
    )
    if not found:
        return f"{worker} waits no longer"
    if rules is None or not (rules.per_rig or rules.per_account):
        return ""
    ((rig, account),) = found
    why = crowded(ask, values.text(rig), values.text(account), rules)
    return f"{worker} waits: {why}" if why else ""


def crowded(ask: Ask, rig: str, account: str, rules: QueueRules) -> str:
    """Return why the rules allow no more to run beside what does; "" when they do.

    Args:
        ask: asks the ledger, inside a write transaction where something depends on it.
        rig: of the entry.
        account: of the entry.
        rules: see there.
    """
    for column, key, limit in _limits(rig, account, rules):
        ((number,),) = ask(
            f"SELECT count(*) FROM queue WHERE state = 'running' AND {column} = ?",  # noqa: S608
            (key,),
        )
        if number >= limit:
            return f"{number} of {limit} workers of the queue run for {column} {key} (per_{column})"
    return ""


def _limits(rig: str, account: str, rules: QueueRules) -> Iterator[tuple[str, str, int]]:
    """Yield the limits that an entry counts in: the column of its row, what that says, how many."""
    for column, key, most in ("rig", rig, rules.per_rig), ("account", account, rules.per_account):
        limit = most.get(key, most.get("")) if key else None
        if limit is not None:
            yield column, key, limit


def _shares(store: Store) -> list[str]:
    """Return the shares of which something is ready, by as many steps in the index."""
    first = f"SELECT min(share) FROM queue WHERE {READY}"  # noqa: S608
    return [
        share
        for (share,) in store.read(
            f"WITH RECURSIVE s (share) AS ({first} UNION ALL SELECT"  # noqa: S608
            f" ({first} AND share > s.share) FROM s WHERE s.share IS NOT NULL)"
            " SELECT share FROM s WHERE share IS NOT NULL"
        )
    ]


_RUNNING: Final = (
    "SELECT share, rig, account, count(*) FROM queue WHERE state = 'running'"
    " GROUP BY share, rig, account"
)


class _Running:
    """How many entries run, by share, rig and account."""

    def __init__(self, found: Iterable[tuple[Any, ...]]) -> None:
        self.share: dict[str, int] = {}
        self.rig: dict[str, int] = {}
        self.account: dict[str, int] = {}
        for share, rig, account, number in found:
            self._add(share, rig, account, number)

    def _add(self, share: str, rig: str, account: str, number: int) -> None:
        for counts, key in (self.share, share), (self.rig, rig), (self.account, account):
            counts[key] = counts.get(key, 0) + number

    def count(self, entry: Entry) -> None:
        """Count one that will run."""
        self._add(entry.share, entry.rig, entry.account, 1)

    def has_room(self, entry: Entry, rules: QueueRules) -> bool:
        """Whether the rules allow one more on its rig and its account."""
        counts = {"rig": self.rig, "account": self.account}
        return all(
            counts[column].get(key, 0) < limit
            for column, key, limit in _limits(entry.rig, entry.account, rules)
        )


class _Head:
    """The first entries of one share that may be placed."""

    def __init__(self, store: Store, share: str, now: float, skip: Collection[str]) -> None:
        self._store, self._share, self._now, self._skip = store, share, now, [*skip]
        self._page: list[Entry] = []
        self._at: tuple[float, int] = (-math.inf, -1)
        self._more, self._size = True, 1

    def peek(self, may: Callable[[Entry], bool]) -> Entry | None:
        """Return the first that `may` be placed; those that may not are passed over for good."""
        while True:
            while self._page:
                if may(self._page[0]):
                    return self._page[0]
                self._page.pop(0)
            if not self._more:
                return None
            self._read()

    def take(self) -> Entry:
        """Take the first one."""
        return self._page.pop(0)

    def _read(self) -> None:
        marks = ",".join("?" * len(self._skip))
        found = self._store.read(
            f"SELECT {COLUMNS} FROM queue INDEXED BY queue_waiting"  # noqa: S608
            f" WHERE {READY} AND share = ? AND turn >= ? AND not_before <= ?"
            f" AND (turn, seq) > (?, ?){f' AND kind NOT IN ({marks})' if marks else ''}"
            " ORDER BY turn, seq LIMIT ?",
            (self._share, self._at[0], self._now, *self._at, *self._skip, self._size),
        )
        self._more = len(found) == self._size
        self._size = _PAGE  # mostly the first one is enough
        self._page = [from_row(row) for row in found]
        if self._page:
            self._at = (self._page[-1].turn, self._page[-1].seq)
