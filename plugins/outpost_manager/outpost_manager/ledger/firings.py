"""When each schedule fired last, so that each firing is made once, by whatever mayor.

A firing and the entries that it puts into the queue are one transaction, which names the firing
before it: of two mayors at once, one finds that it was done. The moment of a firing is that of the
calendar, not of the clock, so a clock that goes back fires nothing again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from outpost_manager.ledger import queueing, values
from outpost_shared import faults

if TYPE_CHECKING:
    from outpost_manager.ledger.entries import QueueItem
    from outpost_manager.ledger.store import Store


class Firings:
    """The firings of one ledger.

    Args:
        store: the ledger's file.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def last(self) -> dict[str, float]:
        """Return the moment of each schedule's last firing, or since when it is known."""
        found = self._store.read("SELECT schedule, at FROM firings")
        return {values.text(key): values.number(at) or 0.0 for key, at in found}

    def begin(self, keys: Collection[str], now: float) -> None:
        """Make schedules known: what is new fires from now on; what is gone is forgotten."""
        known = self.last()
        if known.keys() == {*keys}:
            return
        with self._store.write(only_here=True) as db:
            db.executemany("DELETE FROM firings WHERE schedule = ?",
                           [(key,) for key in known if key not in keys])  # fmt: skip
            db.executemany(
                "INSERT OR IGNORE INTO firings VALUES (?, ?)", [(key, now) for key in keys]
            )

    def fire(
        self, key: str, before: float, at: float, items: Sequence[QueueItem]
    ) -> list[str] | None:
        """Write a firing down, and put what it orders into the queue, in one transaction.

        Args:
            key: the schedule's.
            before: the firing that was the last one until now.
            at: the moment that is the last one from now on.
            items: what is ordered; an issue that was in the queue already is passed over.

        Returns:
            The issues that are new in the queue; None when another mayor was faster.

        Raises:
            ConflictError: an attempt exists with another order; nothing was changed.
        """
        drafts = queueing.drafts(items)
        now = time.time()
        with self._store.write(only_here=True) as db:
            moved = db.execute(
                "UPDATE firings SET at = ? WHERE schedule = ? AND at = ?", (at, key, before)
            )
            if not moved.rowcount:
                return None
            new = []
            for draft in drafts:
                issue = draft[0].order.issue.id
                if db.execute("SELECT 1 FROM queue WHERE issue = ?", (issue,)).fetchone():
                    continue
                if queueing.put(db, draft, now):
                    new.append(issue)
        faults.point("mayor.fired")
        return new
