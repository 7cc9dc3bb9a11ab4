"""How far each observer was told what happened.

One process at a time tells an observer: its row is held under the word of that process. The row
says that an event has begun before it is told, and that it was told afterwards. So an event is told
once. Only where a process ended in between nobody knows whether the observer was done with it: then
it is told once more, with the same id, and never a third time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from outpost_manager.ledger import events, values
from outpost_shared import identity

if TYPE_CHECKING:
    from outpost_core.types import Event
    from outpost_manager.ledger.store import Store

#: How often telling an observer one event is begun, where the process ends while it is told.
TRIES: Final = 2
#: Seconds after which an event is news to nobody: whoever installs an observer again after a year
#: does not want that year.
STALE: Final = 7 * 86400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ObserverNote:
    """How far an observer was told.

    Args:
        name: of its plugin, in pluggy.
        told: id of the last event that it was told.
        waiting: events that it was not told yet.
    """

    name: str
    told: int
    waiting: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The next thing to do for an observer.

    Args:
        event: is to be told now, and has begun; None when there is nothing to tell, or another
            process tells it. Nothing is held then.
        given_up: kinds of the events that were begun `TRIES` times and are passed over now.
    """

    event: Event | None = None
    given_up: tuple[str, ...] = ()


class Cursors:
    """The cursors of one ledger.

    Args:
        store: the ledger's file.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def register(self, names: Iterable[str]) -> None:
        """Make observers known: one that is new is told what happens from now on."""
        known = {row[0] for row in self._store.read("SELECT name FROM observers")}
        new = [name for name in dict.fromkeys(names) if name not in known]
        if not new:
            return
        with self._store.write(durable=False) as db:
            db.executemany(
                "INSERT OR IGNORE INTO observers (name, told)"
                " SELECT ?, coalesce(max(id), 0) FROM events",
                [(name,) for name in new],
            )

    def is_behind(self, name: str) -> bool:
        """Whether an observer was not told all. Cheap, and takes no lock."""
        found = self._store.read(
            "SELECT told < (SELECT coalesce(max(id), 0) FROM events) FROM observers WHERE name = ?",
            (name,),
        )
        return bool(found and found[0][0])

    def step(self, name: str, owner: str, told: int = 0) -> Step:
        """Write down that an event was told, and begin the next one.

        Args:
            name: the observer's.
            owner: word of who tells it, see `identity`.
            told: id of the event that this owner has just told; 0 for none.
        """
        with self._store.write(durable=False) as db:
            row = db.execute(
                "SELECT told, begun, tries, owner FROM observers WHERE name = ?", (name,)
            ).fetchone()
            if row is None:
                return Step()
            cursor, begun, tries, theirs = row
            if theirs not in ("", owner) and identity.alive(theirs):
                return Step()
            cursor = max(cursor, told)
            given_up = []
            oldest = time.time() - STALE
            while (event := events.first_after(db, cursor)) is not None:
                if event.id == begun and tries >= TRIES:
                    given_up.append(event.kind)
                elif event.at > oldest:
                    break
                cursor = event.id
            if event is None:
                begun, tries, owner = 0, 0, ""
            else:
                begun, tries = event.id, tries + 1 if event.id == begun else 1
            db.execute(
                "UPDATE observers SET told = ?, begun = ?, tries = ?, owner = ? WHERE name = ?",
                (cursor, begun, tries, owner, name),
            )
            return Step(event=event, given_up=tuple(given_up))

    def leave(self, name: str, owner: str, told: int) -> None:
        """Write down that an event was told, and leave the rest to whoever comes."""
        with self._store.write(durable=False) as db:
            db.execute(
                "UPDATE observers SET told = max(told, ?), begun = 0, tries = 0, owner = ''"
                " WHERE name = ? AND owner = ?",
                (told, name, owner),
            )

    def notes(self) -> list[ObserverNote]:
        """Return how far every observer was told that was ever known, by name."""
        found = self._store.read(
            "SELECT name, told, (SELECT count(*) FROM events WHERE id > told) FROM observers"
            " ORDER BY name"
        )
        return [
            ObserverNote(name=values.text(name), told=told, waiting=waiting)
            for name, told, waiting in found
        ]
