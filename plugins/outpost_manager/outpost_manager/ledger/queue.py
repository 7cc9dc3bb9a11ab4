"""The queue: orders that wait for a place, one entry an issue.

An entry goes `waiting` → `running` → `settling` → `waiting` again or `ended`. The first two steps
are made by triggers of the ledger, in the transaction in which a worker is reserved or its end is
written, by whatever process; the last one by whoever decides what comes after an end. Each change
here is one transaction, and names what it expects to find: a second caller changes nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from outpost_core.errors import ConflictError, NotFoundError
from outpost_manager.config.queue import AGING, QueueRules
from outpost_manager.ledger import clock, endings, listing, queueing, rows, turns, values
from outpost_manager.ledger.endings import Ending, Told
from outpost_manager.ledger.entries import (
    COLUMNS,
    LISTED,
    LIVE,
    RUNNING,
    SETTLING,
    WAITING,
    Added,
    Decided,
    Entry,
    QueueItem,
    by_batch,
    by_priority,
    from_row,
)
from outpost_shared import faults

if TYPE_CHECKING:
    import sqlite3

    from outpost_core.types import Order
    from outpost_manager.ledger.store import Store


class Queue:
    """The queue of one ledger.

    Args:
        store: the ledger's file.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    # --- putting in ---------------------------------------------------------------------------

    def add(self, items: Sequence[QueueItem]) -> list[Added]:
        """Put orders in, all or none, in one transaction.

        The same order for an issue that is in the queue already is that entry. An attempt that
        runs already is `running` at once.

        Raises:
            ConflictError: an issue is in the queue with another order, or that attempt has ended.
            UsageError: `after` names an issue that nobody knows, or makes a circle.
        """
        ready, now = queueing.drafts(items), clock.now()
        with self._store.write(only_here=True) as db:
            added = [queueing.put(db, draft, now) for draft in ready]
            issues = {item.order.issue.id for item in items}
            for item in items:
                queueing.need(db, item.order.issue.id, item.after, issues)
            queueing.refuse_circles(db, issues)
            answers = [
                Added(entry=_load(db, item.order.issue.id), new=new)
                for item, new in zip(items, added, strict=True)
            ]
        faults.point("queue.added")
        return answers

    # --- looking ------------------------------------------------------------------------------

    def entry(self, issue: str) -> Entry | None:
        """Return the entry of an issue, ended ones too; None when there is none."""
        found = self._store.read(f"SELECT {COLUMNS} FROM queue WHERE issue = ?", (issue,))  # noqa: S608
        return from_row(found[0]) if found else None

    def entries(
        self,
        *,
        states: Collection[str] = LIVE,
        batch: str = "",
        limit: int = -1,
        after: str | None = None,
    ) -> list[Entry]:
        """Return entries in the order of their turns.

        Args:
            states: only those in these.
            batch: only those of this batch; "" for all.
            limit: at most so many; -1 for all.
            after: only those behind the entry of this issue; none where there is none.
        """
        return listing.entries(self._store, states, batch, limit, after)

    def page(
        self,
        *,
        states: Collection[str] = LIVE,
        batch: str = "",
        limit: int = -1,
        after: str | None = None,
    ) -> tuple[list[Entry], int]:
        """Return entries as `entries` does, and how many more there are behind the last."""
        found = self.entries(states=states, batch=batch, limit=limit, after=after)
        if not found or len(found) != limit:
            return found, 0
        return found, listing.behind(self._store, states, batch, found[-1])

    def counts(self, batch: str = "") -> dict[str, int]:
        """Return how many entries are in each state.

        Args:
            batch: only of this batch; "" for all.
        """
        found = self._store.read(
            f"SELECT {LISTED}, count(*) FROM queue {'WHERE batch = ?' if batch else ''}"  # noqa: S608
            " GROUP BY 1",
            (batch,) if batch else (),
        )
        return {values.text(state): number for state, number in found}

    def batches(self) -> list[tuple[str, dict[str, int], float]]:
        """Return each batch, how many of it are in each state or ended how, and when it grew."""
        return by_batch(self._store)

    def ready(self) -> bool:
        """Whether the turn of any entry can come, as far as its row says. Cheap."""
        ((found,),) = self._store.read(
            f"SELECT EXISTS (SELECT 1 FROM queue WHERE {turns.READY})"  # noqa: S608
        )
        return bool(found)

    def levels(self) -> list[tuple[str, int, int, float]]:
        """Return state, priority, number and oldest moment of what has not ended, by both."""
        return by_priority(self._store)

    def order(self, issue: str) -> Order | None:
        """Return the order of an entry's attempt, its secrets without values.

        None when there is no entry, or what is kept of it cannot be read.
        """
        return self.orders([issue]).get(issue)

    def orders(self, issues: Sequence[str]) -> dict[str, Order]:
        """Return the orders of entries by issue, as `order` does; without those that it lacks."""
        from outpost_core.types import Order
        from outpost_manager.ledger import doubtful

        found = self._store.read(
            f"SELECT issue, body FROM queue WHERE issue IN ({','.join('?' * len(issues))})",  # noqa: S608
            issues,
        )
        orders = {issue: doubtful.parsed(Order, body) for issue, body in found}
        return {issue: order for issue, order in orders.items() if order is not None}

    def needs(self, issue: str) -> list[str]:
        """Return the issues that have to be done before an entry may start."""
        found = self._store.read("SELECT needs FROM queue_after WHERE issue = ?", (issue,))
        return sorted(values.text(needed) for (needed,) in found)

    def next(
        self, rules: QueueRules, now: float, limit: int = 1, *, skip: Collection[str] = ()
    ) -> list[Entry]:
        """Return the entries that are to be placed next, best first.

        First the highest priority, where each `aging` seconds of waiting count as a step; within
        that the share that has the fewest running for its weight; within that the oldest.

        Args:
            rules: see there.
            now: seconds since the epoch.
            limit: at most so many.
            skip: kinds that find no room now.
        """
        return turns.whose_turn(self._store, rules, now, limit, skip)

    def next_moment(self, now: float) -> float | None:
        """Return the first moment after `now` at which a deferred entry may start; None: none."""
        ((found,),) = self._store.read(
            "SELECT min(not_before) FROM queue INDEXED BY queue_deferred"  # noqa: S608
            f" WHERE not_before > 0 AND {turns.READY} AND not_before > ?",
            (now,),
        )
        return values.number(found)

    def settling(self, limit: int = 100) -> list[Entry]:
        """Return entries whose worker has ended and of which nobody has decided, oldest first."""
        found = self._store.read(
            f"SELECT {COLUMNS} FROM queue WHERE state = 'settling' ORDER BY moved_at LIMIT ?",  # noqa: S608
            (limit,),
        )
        return [from_row(row) for row in found]

    def tied(self) -> list[Entry]:
        """Return entries whose next attempt waits for one outpost alone."""
        return listing.tied(self._store)

    def decisions(self, issue: str, since: float = 0.0) -> list[Decided]:
        """Return what was decided after attempts at an issue, oldest first.

        Args:
            issue: the issue.
            since: moment from which on that counts.
        """
        found = self._store.read(
            "SELECT at, worker, data FROM events WHERE worker > ? AND worker < ? AND at >= ?"
            " AND kind = 'decided' ORDER BY id",
            (f"{issue}.", f"{issue}/", since),
        )
        attempt = re.compile(rf"{re.escape(issue)}\.[1-9][0-9]*", re.ASCII)
        return [
            Decided(at=values.number(at) or 0.0, worker=worker, data=values.data(data))
            for at, worker, data in found
            if isinstance(worker, str) and attempt.fullmatch(worker)
        ]

    # --- moving on ----------------------------------------------------------------------------

    def again(
        self,
        entry: Entry,
        order: Order,
        *,
        not_before: float = 0.0,
        why: str = "",
        place: str | None = None,
        avoid: str = "",
        told: Told | None = None,
        of: str = "",
        most_a_day: int | None = None,
    ) -> bool:
        """Have an entry wait for another attempt; False when that was not written down.

        It is not as it was seen any more, or it is too much for a day.

        Args:
            entry: as it was seen: it settles, or waits for an attempt that is to be another one.
            order: of the next attempt.
            not_before: when it may start.
            why: why it waits.
            place: the one outpost that it has to go to.
            avoid: the one that it must not go to.
            told: the event that says so, written in the same transaction.
            of: the attempt that the event is about; "" for the entry's.
            most_a_day: so many retries may be decided in 24 hours, of all entries; where that is
                reached, the entry stays as it is, and says so. None for no limit.
        """
        from outpost_core import wire

        digest, body, now = wire.digest(order), wire.dumps(order), clock.now()
        # placed alike no longer, where its place is another matter than that of the others
        kind = entry.kind.partition("/")[0]
        if (place, avoid, order.resume_at) != (None, "", ""):
            kind = f"{kind}/{order.issue.id}"
        with self._store.write(only_here=True) as db:
            if most_a_day is not None and endings.next_retry(values.asking(db), now, most_a_day):
                db.execute(
                    "UPDATE queue SET why = ? WHERE issue = ? AND state = ? AND worker = ?",
                    (f"{most_a_day} retries in 24 hours are all that per_day of retries allows",
                     entry.issue, entry.state, entry.worker),
                )  # fmt: skip
                return False
            changed = db.execute(
                "UPDATE queue SET state = 'waiting', worker = ?, digest = ?, body = ?, kind = ?,"
                " place = ?, avoid = ?, not_before = ?, why = ?, tries = tries + ?, moved_at = ?"
                " WHERE issue = ? AND state = ? AND worker = ? AND digest = ? AND moved_at = ?",
                (order.worker, digest, body, kind, place, avoid, not_before, rows.text(why),
                 int(entry.state == SETTLING), now, entry.issue, entry.state, entry.worker,
                 entry.digest, entry.moved_at),
            ).rowcount  # fmt: skip
            if changed and told is not None:
                rows.tell(db, told[0], now, of or entry.worker, "", told[1])
            return changed == 1

    def next_retry(self, most_a_day: int) -> float | None:
        """Return when one more retry may be decided; None when it may now.

        Args:
            most_a_day: so many may be in 24 hours, of all entries.
        """
        return endings.next_retry(self._store.read, clock.now(), most_a_day)

    def end(self, entry: Entry, outcome: str, why: str = "", told: Told | None = None) -> bool:
        """End an entry that settles; False when it was decided already.

        Args:
            entry: as it was seen.
            outcome: one of `OUTCOMES`.
            why: in words.
            told: the event that says so, written in the same transaction.
        """
        return self.end_all([Ending(entry=entry, outcome=outcome, why=why, told=told)]) == 1

    def end_all(self, items: Sequence[Ending]) -> int:
        """End entries that settle, all in one transaction; those that were decided already stay.

        Returns:
            how many ended.
        """
        if not items:
            return 0
        now = clock.now()
        with self._store.write(only_here=True) as db:
            return sum(endings.end(db, one, now) for one in items)

    def explain(
        self, why: Mapping[str, str], others: str = "", now: float = math.inf, behind: int = 0
    ) -> None:
        """Write down why entries wait.

        Args:
            why: by kind.
            others: why those of all other kinds do whose turn could be; "" leaves them as they are.
            now: seconds since the epoch.
            behind: only those that came behind this place, as `newest` said it; 0 for all.
        """
        some = f"queue INDEXED BY queue_seq SET why = ? WHERE seq > {behind:d} AND"
        those = some if behind else "queue SET why = ? WHERE"
        with self._store.write(durable=False) as db:
            for kind, said in why.items():
                text = rows.text(said)
                db.execute(
                    f"UPDATE {those} {LISTED} = 'waiting' AND kind = ? AND why <> ?",
                    (text, kind, text),
                )
            if others:
                text, marks = rows.text(others), ",".join("?" * len(why))
                db.execute(
                    f"UPDATE {those} {turns.READY} AND not_before <= ?"
                    f" AND why <> ? AND kind NOT IN ({marks})",
                    (text, now, text, *why),
                )

    def newest(self) -> int:
        """Return the place of the newest entry in the order of arrival; 0 when there is none."""
        ((seq,),) = self._store.read("SELECT coalesce(max(seq), 0) FROM queue")
        return int(seq)

    # --- by hand ------------------------------------------------------------------------------

    def move(self, issue: str, priority: int, aging: float = AGING) -> Entry:
        """Give a waiting entry another priority.

        Raises:
            NotFoundError: the issue is not in the queue.
            ConflictError: it does not wait.
            UsageError: there is no such priority.
        """
        from dataclasses import replace

        from outpost_core import wire
        from outpost_core.types import Order
        from outpost_manager.ledger import doubtful

        with self._store.write(only_here=True) as db:
            entry = _waiting(db, issue)
            # as it is in this transaction: somebody may have put another order in its place
            ((body,),) = db.execute("SELECT body FROM queue WHERE issue = ?", (issue,)).fetchall()
            order = doubtful.parsed(Order, body)
            if order is None:
                raise ConflictError(
                    f"what is kept of the order of {issue} cannot be read",
                    hint=f"outpost queue remove {issue}, and queue it again",
                )
            order = replace(order, issue=replace(order.issue, priority=priority))
            turn = entry.turn + (priority - entry.priority) * aging
            db.execute(
                "UPDATE queue SET priority = ?, turn = ?, digest = ?, body = ? WHERE issue = ?",
                (priority, turn, wire.digest(order), wire.dumps(order), issue),
            )
            return _load(db, issue)

    def hold(self, issues: Iterable[str], held: bool = True) -> None:
        """Pause entries, or (`held=False`) have them go on.

        Raises:
            NotFoundError: one is not in the queue; nothing was changed.
        """
        with self._store.write(only_here=True) as db:
            for issue in issues:
                entry = _load(db, issue)
                db.execute("UPDATE queue SET held = ? WHERE issue = ?", (int(held), issue))
                rows.tell(db, "held" if held else "resumed", clock.now(), entry.worker, "")

    def remove(self, issues: Iterable[str]) -> list[Entry]:
        """Take waiting entries out; they are `ended`, and say that they were removed.

        Raises:
            NotFoundError: one is not in the queue; nothing was changed.
            ConflictError: one runs; nothing was changed.
        """
        now = clock.now()
        with self._store.write(only_here=True) as db:
            found = []
            for issue in issues:
                entry = _waiting(db, issue)
                db.execute(
                    "UPDATE queue SET state = 'ended', outcome = 'removed', why = '', moved_at = ?"
                    " WHERE issue = ?",
                    (now, issue),
                )
                db.execute("DELETE FROM queue_after WHERE issue = ?", (issue,))
                db.execute("UPDATE queue SET waits_for = 0 WHERE issue = ?", (issue,))
                rows.tell(db, "dequeued", now, entry.worker, "")
                found.append(_load(db, issue))
        faults.point("queue.removed")
        return found

    def switch(self, name: str) -> str:
        """Return what was switched by hand under a name; "" for nothing."""
        found = self._store.read("SELECT value FROM switches WHERE name = ?", (name,))
        return values.text(found[0][0]) if found else ""

    def set_switch(self, name: str, value: str) -> None:
        """Switch something for all processes; "" switches it back."""
        with self._store.write(only_here=True) as db:
            db.execute("DELETE FROM switches WHERE name = ?", (name,))
            if value:
                db.execute("INSERT INTO switches VALUES (?, ?, ?)", (name, value, clock.now()))
            kind = "held" if value else "resumed"
            rows.tell(db, kind, clock.now(), "", "", {"what": name, "as": value})


def _load(db: sqlite3.Connection, issue: str) -> Entry:
    row = db.execute(f"SELECT {COLUMNS} FROM queue WHERE issue = ?", (issue,)).fetchone()  # noqa: S608
    if row is None:
        raise _unknown(issue)
    return from_row(row)


def _waiting(db: sqlite3.Connection, issue: str) -> Entry:
    entry = _load(db, issue)
    if entry.state != WAITING:
        hint = f"outpost {'stop' if entry.state == RUNNING else 'show'} {entry.worker}"
        raise ConflictError(f"{issue} does not wait: it is {entry.state}", hint=hint)
    return entry


def _unknown(issue: str) -> NotFoundError:
    return NotFoundError(f"{issue[:96]!a} is not in the queue", hint="outpost queue list")
