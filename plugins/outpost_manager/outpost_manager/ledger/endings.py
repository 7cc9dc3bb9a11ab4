"""How entries of the queue end, inside a write transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from outpost_manager.ledger import rows, values
from outpost_manager.ledger.entries import Entry

if TYPE_CHECKING:
    import sqlite3

    from outpost_core.types import Json
    from outpost_manager.ledger.values import Ask

#: Seconds of the window in which retries are counted over all issues.
DAY: Final = 86_400.0
#: What a step of an entry tells besides: kind of the event, and its data.
Told: TypeAlias = "tuple[str, Mapping[str, Json]]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How an entry ends that settles.

    Args:
        entry: as it was seen.
        outcome: one of `OUTCOMES`.
        why: in words.
        told: the event that says so.
    """

    entry: Entry
    outcome: str
    why: str = ""
    told: Told | None = None


def end(db: sqlite3.Connection, ending: Ending, now: float) -> bool:
    """End one entry, inside a write transaction; False when it was decided already."""
    entry, outcome = ending.entry, ending.outcome
    changed = db.execute(
        "UPDATE queue SET state = 'ended', outcome = ?, why = ?, tries = tries + 1,"
        " moved_at = ? WHERE issue = ? AND state = 'settling' AND worker = ?"
        " AND moved_at = ?",
        (outcome, rows.text(ending.why), now, entry.issue, entry.worker, entry.moved_at),
    ).rowcount
    if changed and ending.told is not None:
        rows.tell(db, ending.told[0], now, entry.worker, "", ending.told[1])
    if changed and outcome != "done":  # one that is done has freed them already
        db.execute(
            "UPDATE queue SET why = ? WHERE state = 'waiting' AND issue IN"
            " (SELECT issue FROM queue_after WHERE needs = ?)",
            (f"after {entry.issue}, which ended as {outcome}", entry.issue),
        )
    return changed == 1


def next_retry(ask: Ask, now: float, most: int) -> float | None:
    """Return when one more retry may be decided; None when it may now.

    Args:
        ask: asks the ledger, inside a write transaction where something depends on it.
        now: seconds since the epoch.
        most: so many may be in 24 hours.
    """
    if not most:
        return now + DAY
    found = ask(
        "SELECT at FROM events WHERE kind = 'decided' AND at > ? AND at <= ?"
        " AND json_extract(data, '$.what') = 'retry' ORDER BY at DESC LIMIT 1 OFFSET ?",
        (now - DAY, now, most - 1),
    )
    return (values.number(found[0][0]) or now) + DAY if found else None
