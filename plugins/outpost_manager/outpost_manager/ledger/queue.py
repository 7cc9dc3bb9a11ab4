"""The queue: orders that wait for a place, one entry an issue.

An entry goes `waiting` → `running` → `settling` → `waiting` again or `ended`. The first two steps
are made by triggers of the ledger, in the transaction in which a worker is reserved or its end is
written, by whatever process; the last one by whoever decides what comes after an end. Each change
here is one transaction, and names what it expects to find: a second caller changes nothing.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from outpost_core.errors import ConflictError, NotFoundError, UsageError
from outpost_manager.config.queue import AGING, QueueRules
from outpost_manager.ledger import rows, values
from outpost_shared import faults

if TYPE_CHECKING:
    import sqlite3

    from outpost_core.types import Json, Order
    from outpost_manager.ledger.store import Store

WAITING, RUNNING, SETTLING, ENDED = "waiting", "running", "settling", "ended"
#: How an entry can end.
OUTCOMES: Final = ("done", "failed", "stopped", "lost", "removed")
#: An entry that may be placed, as far as its row says; the partial index has the same words.
_READY: Final = "state = 'waiting' AND held = 0 AND waits_for = 0"
_COLUMNS: Final = (
    "issue, seq, state, worker, digest, kind, place, avoid, title, priority, turn, rig, agent,"
    " account, model, share, labels, batch, not_before, held, waits_for, tries, why, added_at,"
    " moved_at, outcome, retries"
)
#: So many entries of a share are looked at in one question.
_PAGE: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueItem:
    """What is to be put into the queue.

    Args:
        order: what is to be done; of its secrets the names alone are kept.
        kind: orders of the same kind are placed alike, so that one that finds no room speaks for
            all; "" makes it from the order.
        place: the one outpost that it has to go to; None lets the policy choose.
        share: what it counts as where the queue is shared fairly, such as its rig.
        account: whose credentials its agent needs; "" where nobody counts.
        model: the model that its agent asks, where that is known.
        batch: the name of what it belongs to; "" for nothing.
        after: issues that have to be done first.
        not_before: moment before which it is not placed; 0 for none.
        aging: seconds that a step of priority weighs; see `AGING`.
        retries: how often an attempt is repeated whose agent judged itself that it failed.
    """

    order: Order
    kind: str = ""
    place: str | None = None
    share: str = ""
    account: str = ""
    model: str = ""
    batch: str = ""
    after: tuple[str, ...] = ()
    not_before: float = 0.0
    aging: float = AGING
    retries: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of the queue.

    Args:
        issue: the issue's id.
        seq: its place in the order of arrival.
        state: `waiting`, `running`, `settling` or `ended`.
        worker: the attempt that waits, runs, or ran last.
        digest: of that attempt's order.
        kind: entries of the same kind are placed alike.
        place: the one outpost that it has to go to, or None.
        avoid: an outpost that it must not go to; "" for none.
        title: the issue's title.
        priority: 0 to 4.
        turn: when its turn comes: the least is the next.
        rig: URL or path of its repository; "" for none.
        agent: the agent's name.
        account: whose credentials it needs; "" where nobody counts.
        model: the model that it asks; "" where nobody knows.
        share: what it counts as where the queue is shared.
        labels: of the issue.
        batch: what it belongs to; "" for nothing.
        not_before: moment before which it is not placed; 0 for none.
        held: it was paused by hand.
        waits_for: how many issues have to be done first.
        tries: attempts that have ended since it was added.
        why: why it waits, or what became of it, in words.
        added_at: when it was added.
        moved_at: when it came into its state.
        outcome: how it ended: one of `OUTCOMES`; "" while it has not.
        retries: how often an attempt is repeated whose agent judged itself that it failed.
    """

    issue: str
    seq: int
    state: str
    worker: str
    digest: str
    kind: str
    place: str | None
    avoid: str
    title: str
    priority: int
    turn: float
    rig: str
    agent: str
    account: str
    model: str
    share: str
    labels: tuple[str, ...]
    batch: str
    not_before: float
    held: bool
    waits_for: int
    tries: int
    why: str
    added_at: float
    moved_at: float
    outcome: str
    retries: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Added:
    """What became of an item.

    Args:
        entry: as it is in the queue now.
        new: it was not there before.
    """

    entry: Entry
    new: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """What was decided after an attempt had ended.

    Args:
        at: when.
        worker: the attempt.
        data: of the event: `what` (retry, park or end), `why`, `reason`, `next` …
    """

    at: float
    worker: str
    data: Mapping[str, Json]

    def text(self, key: str) -> str:
        """Return a text of the data; "" where there is none."""
        found = self.data.get(key)
        return found if isinstance(found, str) else ""


#: Seconds of the window in which retries are counted over all issues.
DAY: Final = 86_400.0
#: What a step of an entry tells besides: kind of the event, and its data.
Told: TypeAlias = "tuple[str, Mapping[str, Json]]"


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
        ready, now = drafts(items), time.time()
        with self._store.write(only_here=True) as db:
            added = [put(db, draft, now) for draft in ready]
            issues = {item.order.issue.id for item in items}
            for item in items:
                _need(db, item.order.issue.id, item.after, issues)
            _refuse_circles(db, issues)
            answers = [
                Added(entry=_load(db, item.order.issue.id), new=new)
                for item, new in zip(items, added, strict=True)
            ]
        faults.point("queue.added")
        return answers

    # --- looking ------------------------------------------------------------------------------

    def entry(self, issue: str) -> Entry | None:
        """Return the entry of an issue, ended ones too; None when there is none."""
        found = self._store.read(f"SELECT {_COLUMNS} FROM queue WHERE issue = ?", (issue,))  # noqa: S608
        return _entry(found[0]) if found else None

    def entries(
        self,
        *,
        states: Collection[str] = (WAITING, RUNNING, SETTLING),
        batch: str = "",
        limit: int = -1,
    ) -> list[Entry]:
        """Return entries in the order of their turns.

        Args:
            states: only those in these.
            batch: only those of this batch; "" for all.
            limit: at most so many; -1 for all.
        """
        marks = ",".join("?" * len(states))
        found = self._store.read(
            f"SELECT {_COLUMNS} FROM queue WHERE state IN ({marks})"  # noqa: S608
            f"{' AND batch = ?' if batch else ''} ORDER BY turn, seq LIMIT ?",
            (*states, *([batch] if batch else []), limit),
        )
        return [_entry(row) for row in found]

    def counts(self) -> dict[str, int]:
        """Return how many entries are in each state."""
        found = self._store.read("SELECT state, count(*) FROM queue GROUP BY state")
        return {values.text(state): number for state, number in found}

    def order(self, issue: str) -> Order | None:
        """Return the order of an entry's attempt, its secrets without values.

        None when there is no entry, or what is kept of it cannot be read.
        """
        from outpost_core.types import Order
        from outpost_manager.ledger import doubtful

        found = self._store.read("SELECT body FROM queue WHERE issue = ?", (issue,))
        return doubtful.parsed(Order, found[0][0]) if found else None

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
        heads = {share: _Head(self._store, share, now, skip) for share in self._shares()}
        running = _Running(self._store.read(_RUNNING))
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

    def next_moment(self, now: float) -> float | None:
        """Return the first moment after `now` at which a deferred entry may start; None: none."""
        ((found,),) = self._store.read(
            f"SELECT min(not_before) FROM queue WHERE {_READY} AND not_before > ?",  # noqa: S608
            (now,),
        )
        return values.number(found)

    def settling(self, limit: int = 100) -> list[Entry]:
        """Return entries whose worker has ended and of which nobody has decided, oldest first."""
        found = self._store.read(
            f"SELECT {_COLUMNS} FROM queue WHERE state = 'settling' ORDER BY moved_at LIMIT ?",  # noqa: S608
            (limit,),
        )
        return [_entry(row) for row in found]

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

    def _shares(self) -> list[str]:
        """Return the shares of which something is ready, by as many steps in the index."""
        first = f"SELECT min(share) FROM queue WHERE {_READY}"  # noqa: S608
        return [
            share
            for (share,) in self._store.read(
                f"WITH RECURSIVE s (share) AS ({first} UNION ALL SELECT"  # noqa: S608
                f" ({first} AND share > s.share) FROM s WHERE s.share IS NOT NULL)"
                " SELECT share FROM s WHERE share IS NOT NULL"
            )
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
        most_a_day: int | None = None,
    ) -> bool:
        """Have an entry that settles wait for another attempt; False when it was decided already.

        Args:
            entry: as it was seen.
            order: of the next attempt.
            not_before: when it may start.
            why: why it waits.
            place: the one outpost that it has to go to.
            avoid: the one that it must not go to.
            told: the event that says so, written in the same transaction.
            most_a_day: so many retries may be decided in 24 hours, of all entries; where that is
                reached, the entry stays as it is. None for no limit.
        """
        from outpost_core import wire

        digest, body, now = wire.digest(order), wire.dumps(order), time.time()
        # placed alike no longer, where its place is another matter than that of the others
        kind = entry.kind.partition("/")[0]
        if (place, avoid, order.resume_at) != (None, "", ""):
            kind = f"{kind}/{order.issue.id}"
        with self._store.write(only_here=True) as db:
            if most_a_day is not None and _retried(db, now) >= most_a_day:
                return False
            changed = db.execute(
                "UPDATE queue SET state = 'waiting', worker = ?, digest = ?, body = ?, kind = ?,"
                " place = ?, avoid = ?, not_before = ?, why = ?, tries = tries + 1, moved_at = ?"
                " WHERE issue = ? AND state = 'settling' AND worker = ? AND moved_at = ?",
                (order.worker, digest, body, kind, place, avoid, not_before, rows.text(why), now,
                 entry.issue, entry.worker, entry.moved_at),
            ).rowcount  # fmt: skip
            if changed and told is not None:
                rows.tell(db, told[0], now, entry.worker, "", told[1])
            return changed == 1

    def end(self, entry: Entry, outcome: str, why: str = "", told: Told | None = None) -> bool:
        """End an entry that settles; False when it was decided already.

        Args:
            entry: as it was seen.
            outcome: one of `OUTCOMES`.
            why: in words.
            told: the event that says so, written in the same transaction.
        """
        now = time.time()
        with self._store.write(only_here=True) as db:
            changed = db.execute(
                "UPDATE queue SET state = 'ended', outcome = ?, why = ?, tries = tries + 1,"
                " moved_at = ? WHERE issue = ? AND state = 'settling' AND worker = ?"
                " AND moved_at = ?",
                (outcome, rows.text(why), now, entry.issue, entry.worker, entry.moved_at),
            ).rowcount
            if changed and told is not None:
                rows.tell(db, told[0], now, entry.worker, "", told[1])
            if changed and outcome != "done":  # one that is done has freed them already
                db.execute(
                    "UPDATE queue SET why = ? WHERE state = 'waiting' AND issue IN"
                    " (SELECT issue FROM queue_after WHERE needs = ?)",
                    (f"after {entry.issue}, which ended as {outcome}", entry.issue),
                )
            return changed == 1

    def explain(self, why: Mapping[str, str]) -> None:
        """Write down why entries wait, by issue; those that do not wait stay as they are."""
        if not why:
            return
        with self._store.write(durable=False) as db:
            db.executemany(
                "UPDATE queue SET why = ? WHERE issue = ? AND state = 'waiting' AND why <> ?",
                [(rows.text(said), issue, rows.text(said)) for issue, said in why.items()],
            )

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

        order = self.order(issue)
        if order is None:
            raise _unknown(issue)
        order = replace(order, issue=replace(order.issue, priority=priority))
        with self._store.write(only_here=True) as db:
            entry = _waiting(db, issue)
            turn = entry.turn + (priority - entry.priority) * aging
            db.execute(
                "UPDATE queue SET priority = ?, turn = ?, digest = ?, body = ? WHERE issue = ?"
                " AND worker = ?",
                (priority, turn, wire.digest(order), wire.dumps(order), issue, order.worker),
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
                rows.tell(db, "held" if held else "resumed", time.time(), entry.worker, "")

    def remove(self, issues: Iterable[str]) -> list[Entry]:
        """Take waiting entries out; they are `ended`, and say that they were removed.

        Raises:
            NotFoundError: one is not in the queue; nothing was changed.
            ConflictError: one runs; nothing was changed.
        """
        now = time.time()
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
                db.execute("INSERT INTO switches VALUES (?, ?, ?)", (name, value, time.time()))
            kind = "held" if value else "resumed"
            rows.tell(db, kind, time.time(), "", "", {"what": name, "as": value})


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
        for counts, key, most in (
            (self.rig, entry.rig, rules.per_rig),
            (self.account, entry.account, rules.per_account),
        ):
            limit = most.get(key, most.get("")) if key else None
            if limit is not None and counts.get(key, 0) >= limit:
                return False
        return True


class _Head:
    """The first entries of one share that may be placed."""

    def __init__(self, store: Store, share: str, now: float, skip: Collection[str]) -> None:
        self._store, self._share, self._now, self._skip = store, share, now, [*skip]
        self._page: list[Entry] = []
        self._at: tuple[float, int] = (-math.inf, -1)
        self._more, self._size = True, 1

    def peek(self, may: Any) -> Entry | None:
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
            f"SELECT {_COLUMNS} FROM queue INDEXED BY queue_waiting"  # noqa: S608
            f" WHERE {_READY} AND share = ? AND turn >= ? AND not_before <= ?"
            f" AND (turn, seq) > (?, ?){f' AND kind NOT IN ({marks})' if marks else ''}"
            " ORDER BY turn, seq LIMIT ?",
            (self._share, self._at[0], self._now, *self._at, *self._skip, self._size),
        )
        self._more = len(found) == self._size
        self._size = _PAGE  # mostly the first one is enough
        self._page = [_entry(row) for row in found]
        if self._page:
            self._at = (self._page[-1].turn, self._page[-1].seq)


def _retried(db: sqlite3.Connection, now: float) -> int:
    """Return how many retries were decided in the last 24 hours."""
    ((number,),) = db.execute(
        "SELECT count(*) FROM events WHERE kind = 'decided' AND at > ? AND at <= ?"
        " AND json_extract(data, '$.what') = 'retry'",
        (now - DAY, now),
    ).fetchall()
    return int(number)


#: An item with its order's digest and JSON text, made before a transaction begins.
Draft: TypeAlias = "tuple[QueueItem, str, str]"


def drafts(items: Sequence[QueueItem]) -> list[Draft]:
    """Return what `put` takes."""
    from outpost_core import wire

    return [(item, wire.digest(item.order), wire.dumps(item.order)) for item in items]


def put(db: sqlite3.Connection, draft: Draft, now: float) -> bool:
    """Write an item's row, inside a write transaction; False when it is there already.

    Raises:
        ConflictError: its issue is in the queue with another order, or that attempt has ended.
    """
    item, digest, body = draft
    order, issue = item.order, item.order.issue
    there = db.execute(
        "SELECT state, digest, worker FROM queue WHERE issue = ?", (issue.id,)
    ).fetchone()
    if there is not None and there[0] != ENDED:
        if there[1] == digest and there[2] == order.worker:
            return False
        raise ConflictError(
            f"{issue.id} is in the queue with another order ({there[2]} is {there[0]})",
            hint=f"outpost queue show {issue.id}; outpost queue remove {issue.id} takes it out",
        )
    state = _state_of(db, order, digest)
    ((seq,),) = db.execute("SELECT coalesce(max(seq), 0) + 1 FROM queue").fetchall()
    db.execute("DELETE FROM queue_after WHERE issue = ?", (issue.id,))
    db.execute(
        f"INSERT OR REPLACE INTO queue ({_COLUMNS}, body)"  # noqa: S608
        f" VALUES ({','.join('?' * 28)})",
        (issue.id, seq, state, order.worker, digest, rows.text(item.kind or _kind(item)),
         item.place, "", rows.text(issue.title), issue.priority, now + issue.priority * item.aging,
         order.rig or "", rows.text(order.agent.name), rows.text(item.account),
         rows.text(item.model), rows.text(item.share), _labels(issue.labels), rows.text(item.batch),
         item.not_before, 0, 0, 0, "", now, now, "", item.retries, body),
    )  # fmt: skip
    rows.tell(db, "queued", now, order.worker, "", {"batch": item.batch} if item.batch else {})
    return True


def _state_of(db: sqlite3.Connection, order: Order, digest: str) -> str:
    """Return the state of a new entry, by the worker that may be there already."""
    found = db.execute(
        "SELECT digest, ended_at, outpost FROM workers WHERE id = ?", (order.worker,)
    ).fetchone()
    if found is None:
        return WAITING
    if found[0] != digest:
        raise ConflictError(
            f"{order.worker} exists with another order, at {values.text(found[2])}",
            hint=f"outpost show {order.worker} shows it; --again queues the next attempt",
        )
    if found[1] is None:
        return RUNNING
    if rows.load(db, order.worker).unbegun:
        return WAITING
    raise ConflictError(
        f"{order.worker} has ended", hint="--again queues the next attempt at the issue"
    )


def _kind(item: QueueItem) -> str:
    """Return what all orders have in common that are placed alike."""
    import hashlib

    order, issue, limits = item.order, item.order.issue, item.order.limits
    said = (
        item.place, order.rig, order.agent.name, order.agent.argv[:1], item.account, item.model,
        issue.priority, issue.estimate, sorted(issue.labels), issue.kind, limits.cpu, limits.memory,
        limits.timeout, limits.max_agent_cost_usd, order.resume_at, order.agent.interactive,
        sorted(order.secrets),
    )  # fmt: skip
    return hashlib.sha256(repr(said).encode("utf-8", "replace")).hexdigest()[:16]


def _labels(labels: Sequence[str]) -> str:
    import json

    return rows.text(json.dumps([*labels], ensure_ascii=False))


def _need(
    db: sqlite3.Connection, issue: str, after: Sequence[str], together: Collection[str]
) -> None:
    """Write down what an entry waits for, as far as that is not done."""
    unmet = 0
    for needed in dict.fromkeys(after):
        if needed == issue:
            raise UsageError(f"{issue} cannot wait for itself")
        known = db.execute(
            "SELECT state = 'done', ended_at IS NULL FROM workers WHERE issue = ?"
            " AND id > ? AND id < ? ORDER BY attempt DESC LIMIT 1",
            (needed, f"{needed}.", f"{needed}/"),
        ).fetchone()
        queued = db.execute(
            "SELECT state, outcome FROM queue WHERE issue = ?", (needed,)
        ).fetchone()
        if known is None and queued is None and needed not in together:
            raise UsageError(
                f"{issue} is to wait for {needed[:96]!a}, which was never ordered or queued",
                hint="put it into the queue first, or with the same command",
            )
        waits = queued is not None and queued[0] in (WAITING, RUNNING)
        if not waits and known is not None and known[0]:
            continue
        unmet += db.execute(
            "INSERT OR IGNORE INTO queue_after VALUES (?, ?)", (issue, needed)
        ).rowcount
    if unmet:
        db.execute("UPDATE queue SET waits_for = waits_for + ? WHERE issue = ?", (unmet, issue))


def _refuse_circles(db: sqlite3.Connection, issues: Collection[str]) -> None:
    from graphlib import CycleError, TopologicalSorter

    graph: dict[str, list[str]] = {}
    seen, look = set[str](), [*issues]
    while look:
        issue = look.pop()
        if issue not in seen:
            seen.add(issue)
            found = db.execute("SELECT needs FROM queue_after WHERE issue = ?", (issue,))
            graph[issue] = [needed for (needed,) in found]
            look += graph[issue]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise UsageError(f"a circle of orders: {' after '.join(error.args[1])}") from None


def _load(db: sqlite3.Connection, issue: str) -> Entry:
    row = db.execute(f"SELECT {_COLUMNS} FROM queue WHERE issue = ?", (issue,)).fetchone()  # noqa: S608
    if row is None:
        raise _unknown(issue)
    return _entry(row)


def _waiting(db: sqlite3.Connection, issue: str) -> Entry:
    entry = _load(db, issue)
    if entry.state != WAITING:
        hint = f"outpost {'stop' if entry.state == RUNNING else 'show'} {entry.worker}"
        raise ConflictError(f"{issue} does not wait: it is {entry.state}", hint=hint)
    return entry


def _unknown(issue: str) -> NotFoundError:
    return NotFoundError(f"{issue[:96]!a} is not in the queue", hint="outpost queue list")


def _entry(row: tuple[Any, ...]) -> Entry:
    (
        issue, seq, state, worker, digest, kind, place, avoid, title, priority, turn, rig, agent,
        account, model, share, labels, batch, not_before, held, waits_for, tries, why, added_at,
        moved_at, outcome, retries,
    ) = row  # fmt: skip
    text, number = values.text, values.number
    return Entry(
        issue=text(issue), seq=seq, state=text(state), worker=text(worker), digest=text(digest),
        kind=text(kind), place=None if place is None else text(place), avoid=text(avoid),
        title=text(title), priority=priority if priority in range(5) else 2,
        turn=turn if isinstance(turn, float) else 0.0, rig=text(rig), agent=text(agent),
        account=text(account), model=text(model), share=text(share), labels=_words(labels),
        batch=text(batch), not_before=number(not_before) or 0.0, held=bool(held),
        waits_for=waits_for if isinstance(waits_for, int) else 0,
        tries=tries if isinstance(tries, int) else 0, why=text(why),
        added_at=number(added_at) or 0.0, moved_at=number(moved_at) or 0.0, outcome=text(outcome),
        retries=retries if isinstance(retries, int) else 0,
    )  # fmt: skip


def _words(labels: object) -> tuple[str, ...]:
    if labels == "[]":
        return ()
    import json

    try:
        found = json.loads(values.text(labels))
    except ValueError:
        return ()
    return tuple(values.text(word) for word in found) if isinstance(found, list) else ()
