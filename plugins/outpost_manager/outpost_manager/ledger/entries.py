"""What an entry of the queue is: what goes in, what a row says, and what was decided of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from outpost_manager.config.queue import AGING
from outpost_manager.ledger import values

if TYPE_CHECKING:
    from outpost_core.types import Json, Order
    from outpost_manager.ledger.store import Store

WAITING, RUNNING, SETTLING, ENDED = "waiting", "running", "settling", "ended"
STATES: Final = (WAITING, RUNNING, SETTLING, ENDED)
#: Those of entries that have not ended.
LIVE: Final = (WAITING, RUNNING, SETTLING)
#: How an entry can end.
OUTCOMES: Final = ("done", "failed", "stopped", "lost", "removed")
#: The state of an entry, for who lists the queue: the index of that name is found by these very
#: words, and by no statement that looks for a few entries and has a better one.
LISTED: Final = "state || ''"
#: What `from_row()` reads, in its order.
COLUMNS: Final = (
    "issue, seq, state, worker, digest, kind, place, avoid, title, priority, turn, rig, agent,"
    " account, model, share, labels, batch, not_before, held, waits_for, tries, why, added_at,"
    " moved_at, outcome, retries"
)


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


def waits(entry: Entry, now: float) -> str:
    """Return why an entry waits, in a few words."""
    if entry.state != "waiting":
        return entry.why
    if entry.held:
        return f"paused; {entry.why}" if entry.why else "paused: outpost queue resume"
    if entry.waits_for:
        return entry.why or f"after {entry.waits_for} other{'s' if entry.waits_for > 1 else ''}"
    if entry.not_before > now:
        soon = f"not before {_moment(entry.not_before, now)}"
        return f"{soon}; {entry.why}" if entry.why else soon
    return entry.why


def _moment(moment: float, now: float) -> str:
    """Return a moment of this day or of another one."""
    form = "%H:%M" if abs(moment - now) < 20 * 3600 else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(moment))


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


def from_row(row: tuple[Any, ...]) -> Entry:
    """Build an entry from a row of `COLUMNS`."""
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


def by_batch(store: Store) -> list[tuple[str, dict[str, int], float]]:
    """Return the batches, that to which something was added last first; see `Queue.batches`."""
    found: dict[str, dict[str, int]] = {}
    grew: dict[str, float] = {}
    for batch, word, number, at in store.read(
        "SELECT batch, CASE state WHEN 'ended' THEN outcome ELSE state END, count(*), max(added_at)"
        " FROM queue WHERE batch <> '' GROUP BY 1, 2"
    ):
        name = values.text(batch)
        found.setdefault(name, {})[values.text(word)] = number
        grew[name] = max(grew.get(name, 0.0), values.number(at) or 0.0)
    return [(name, found[name], grew[name]) for name in sorted(grew, key=grew.__getitem__)[::-1]]


def by_priority(store: Store) -> list[tuple[str, int, int, float]]:
    """Return state, priority, number and oldest `added_at` of entries; see `Queue.levels`."""
    found = store.read(
        "SELECT state, priority, count(*), min(added_at) FROM queue WHERE state <> 'ended'"
        " GROUP BY 1, 2 ORDER BY 1, 2"
    )
    return [
        (values.text(state), priority, number, values.number(at) or 0.0)
        for state, priority, number, at in found
        if isinstance(priority, int)
    ]


def _words(labels: object) -> tuple[str, ...]:
    if labels == "[]":
        return ()
    import json

    try:
        found = json.loads(values.text(labels))
    except ValueError:
        return ()
    return tuple(values.text(word) for word in found) if isinstance(found, list) else ()
