"""The event log: what happened to workers and outposts, in the order in which it was written.

A row is written in the transaction of the change that it tells of, so that neither is there
without the other. Its id is its place in the log: ids ascend in the order of the commits of all
processes. After a power cut the last events may be gone together with what they told of; cursors
that are kept in the ledger go back with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from outpost_core.types import Event
from outpost_manager.ledger import values

if TYPE_CHECKING:
    import sqlite3

    from outpost_manager.ledger.store import Store

_COLUMNS: Final = "id, kind, at, worker, outpost, data"


def last(store: Store) -> int:
    """Return the id of the newest event; 0 when there is none."""
    ((newest,),) = store.read("SELECT coalesce(max(id), 0) FROM events")
    return int(newest)


def after(store: Store, id: int, limit: int) -> list[Event]:  # noqa: A002
    """Return the oldest `limit` events behind an id, oldest first."""
    found = store.read(
        f"SELECT {_COLUMNS} FROM events WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608
        (id, limit),
    )
    return [*map(_event, found)]


def newest(store: Store, worker: str | None, limit: int) -> list[Event]:
    """Return the newest `limit` events, of one worker or of all, oldest first."""
    where, args = ("1", ()) if worker is None else ("worker = ?", (worker,))
    found = store.read(
        f"SELECT {_COLUMNS} FROM events WHERE {where} ORDER BY id DESC LIMIT ?",  # noqa: S608
        (*args, limit),
    )
    return [*map(_event, reversed(found))]


def first_after(db: sqlite3.Connection, id: int) -> Event | None:  # noqa: A002
    """Return the first event behind an id, inside a transaction."""
    row = db.execute(
        f"SELECT {_COLUMNS} FROM events WHERE id > ? ORDER BY id LIMIT 1",  # noqa: S608
        (id,),
    ).fetchone()
    return None if row is None else _event(row)


def _event(row: tuple[Any, ...]) -> Event:
    id_, kind, at, worker, outpost, data = row
    return Event(
        id=id_,
        kind=values.text(kind),
        at=values.number(at) or 0.0,
        worker=values.text(worker),
        outpost=values.text(outpost),
        data=values.data(data),
    )
