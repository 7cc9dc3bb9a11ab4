"""What is to be told to people: written down from the event log, delivered at least once.

A notice is made of an event for one target, in the transaction that moves the cursor on; its id is
made of both, so none is made twice. It is delivered, and then written down that it was: a mayor
that dies in between delivers it again, with the same id, by which whoever gets it can tell.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from outpost_manager.ledger import rows, values
from outpost_shared import faults

if TYPE_CHECKING:
    from outpost_core.types import Json
    from outpost_manager.ledger.store import Store

#: The cursor in the table of observers; no plugin has such a name.
CURSOR: Final = "mayor:notices"
#: Seconds after which nobody is told any more, and for which what was told is remembered.
STALE: Final = 86400.0
KEEP: Final = 30 * 86400.0
#: Seconds until the next try after the first that failed, and at most.
RETRY_FIRST: Final = 5.0
RETRY_MOST: Final = 900.0
#: Tries that fail until what came later is told first: after some three minutes.
PATIENCE: Final = 5
#: Target, event and body of a notice that is to be written down.
Made: TypeAlias = "tuple[str, int, Mapping[str, Json]]"
_WAITS: Final = "delivered_at IS NULL AND failed_at IS NULL"


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """One thing for one target.

    Args:
        id: the same however often it is delivered.
        target: name of the target.
        body: what is said.
        tries: tries that failed.
    """

    id: str
    target: str
    body: Mapping[str, Json]
    tries: int = 0


class Notices:
    """The notices of one ledger.

    Args:
        store: the ledger's file.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(self) -> int:
        """Return the event up to which notices are made; at first the newest that there is."""
        found = self._store.read("SELECT told FROM observers WHERE name = ?", (CURSOR,))
        if found:
            return int(found[0][0])
        with self._store.write(only_here=True) as db:
            db.execute(
                "INSERT OR IGNORE INTO observers (name, told)"
                " SELECT ?, coalesce(max(id), 0) FROM events",
                (CURSOR,),
            )
        return self.begin()

    def write(self, told: int, until: int, made: Sequence[Made]) -> bool:
        """Write notices down together with how far the log was read.

        Args:
            told: the cursor before.
            until: the cursor after.
            made: target, event and body of each.

        Returns:
            False when somebody else has read on meanwhile; nothing was written.
        """
        now = time.time()
        with self._store.write(only_here=bool(made), durable=bool(made)) as db:
            moved = db.execute(
                "UPDATE observers SET told = ? WHERE name = ? AND told = ?", (until, CURSOR, told)
            )
            if not moved.rowcount:
                return False
            db.execute("DELETE FROM notices WHERE written_at < ?", (now - KEEP,))
            db.executemany(
                "INSERT OR IGNORE INTO notices (id, target, event, body, written_at)"
                " VALUES (?, ?, ?, ?, ?)",
                [
                    (notice_id(target, event), target, event,
                     rows.text(json.dumps(body, ensure_ascii=False)), now)
                    for target, event, body in made
                ],
            )  # fmt: skip
        if made:
            faults.point("mayor.noticed")
        return True

    def due(self, now: float, targets: Collection[str], limit: int = 50) -> list[Notice]:
        """Return what is to be tried now, for each target in the order in which it happened.

        What is tried again later holds up what came after it, until it has failed `PATIENCE` times:
        a thing that a target never takes does not keep it from all others.

        Args:
            now: seconds since the epoch.
            targets: for these.
            limit: at most so many for each, so that one that hears nothing hides no other.
        """
        found: list[Notice] = []
        for target in targets:
            waiting = self._store.read(
                # what lies further ahead than any pause was written by a clock that went back since
                "SELECT id, target, body, tries, next_try <= ? OR next_try > ? AS due FROM notices"  # noqa: S608
                f" WHERE {_WAITS} AND target = ? AND (due OR tries < ?) ORDER BY event LIMIT ?",
                (now, now + RETRY_MOST, target, PATIENCE, limit),
            )
            found += [_notice(row[:4]) for row in itertools.takewhile(lambda row: row[4], waiting)]
        return found

    def delivered(self, id: str) -> None:  # noqa: A002
        """Write down that the target has it."""
        with self._store.write(durable=False) as db:
            db.execute(
                "UPDATE notices SET delivered_at = ?, error = '' WHERE id = ?", (time.time(), id)
            )

    def failed(self, notice: Notice, error: str, *, final: bool = False) -> None:
        """Write down that a try failed; after a day, or when it is final, it is given up."""
        now = time.time()
        pause = min(RETRY_MOST, RETRY_FIRST * 2.0 ** min(notice.tries, 10))
        with self._store.write(durable=False) as db:
            db.execute(
                f"UPDATE notices SET tries = tries + 1, error = ?, next_try = ?,"  # noqa: S608
                " failed_at = CASE WHEN ? OR written_at < ? THEN ? END"
                f" WHERE id = ? AND {_WAITS}",
                (rows.text(error)[:500], now + pause, final, now - STALE, now, notice.id),
            )

    def waiting(self) -> list[tuple[Notice, str]]:
        """Return what is not delivered yet, each with the error of the last try."""
        found = self._store.read(
            f"SELECT id, target, body, tries, error FROM notices WHERE {_WAITS}"  # noqa: S608
            " ORDER BY written_at, id"
        )
        return [(_notice(row[:4]), values.text(row[4])) for row in found]


def notice_id(target: str, event: int) -> str:
    """Return the id of what a target is told of an event."""
    return f"{target}-{event}"


def _notice(row: tuple[Any, ...]) -> Notice:
    id_, target, body, tries = row
    return Notice(
        id=values.text(id_), target=values.text(target), body=values.data(body),
        tries=tries if isinstance(tries, int) else 0,
    )  # fmt: skip
