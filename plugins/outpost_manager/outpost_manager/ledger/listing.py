"""Listing entries of the queue, a page at a time."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from outpost_manager.ledger.entries import COLUMNS, LISTED, STATES, Entry, from_row
from outpost_manager.ledger.turns import READY

if TYPE_CHECKING:
    from outpost_manager.ledger.store import Store


def entries(
    store: Store,
    states: Collection[str],
    batch: str,
    limit: int,
    after: str | None,
) -> list[Entry]:
    """Return entries; see `Queue.entries`.

    Each state is asked for itself, with its own limit: an index has the order within a state, so
    that a page costs no more when ten thousand wait.
    """
    where, args = "", list[object]()
    if batch:
        where += " AND batch = ?"
        args.append(batch)
    if after is not None:
        where += " AND (turn, seq) > (SELECT turn, seq FROM queue WHERE issue = ?)"
        args.append(after)
    order = "ORDER BY turn, seq LIMIT ?"
    asked = [state for state in STATES if state in states]
    parts = [
        f"SELECT * FROM (SELECT {COLUMNS} FROM queue WHERE {LISTED} = '{state}'{where} {order})"  # noqa: S608
        for state in asked
    ]
    if not parts:
        return []
    found = store.read(
        f"{' UNION ALL '.join(parts)} {order}", [*([*args, limit] * len(parts)), limit]
    )
    return [from_row(row) for row in found]


def tied(store: Store) -> list[Entry]:
    """Return entries whose next attempt waits for one outpost alone; see `Queue.tied`."""
    found = store.read(
        f"SELECT {COLUMNS} FROM queue WHERE {READY} AND tries > 0"  # noqa: S608
        " AND place IS NOT NULL ORDER BY moved_at"
    )
    return [from_row(row) for row in found]


def behind(store: Store, states: Collection[str], batch: str, last: Entry) -> int:
    """Return how many entries are behind one, in the order of their turns."""
    number = 0
    for state in STATES:
        if state in states:
            ((found,),) = store.read(
                f"SELECT count(*) FROM queue WHERE {LISTED} = '{state}' AND (turn, seq) > (?, ?)"  # noqa: S608
                f"{' AND batch = ?' if batch else ''}",
                (last.turn, last.seq, *([batch] if batch else [])),
            )
            number += int(found)
    return number
