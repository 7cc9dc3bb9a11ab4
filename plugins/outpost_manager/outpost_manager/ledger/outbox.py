"""Mail that was written here: kept before it is tried, until it is delivered or given up.

A row waits until one of two moments is set. Whoever tries it claims it first, for a while: a
claim whose process is gone, or that has run out, is anybody's.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from outpost_core.types import Message
from outpost_manager.ledger import rows, values
from outpost_shared import identity

if TYPE_CHECKING:
    import sqlite3

    from outpost_manager.ledger.store import Store

#: Seconds that delivered mail is remembered.
KEEP: Final = 30 * 86400.0
#: Seconds until the next try after the first that found nobody, and at most.
RETRY_FIRST: Final = 15.0
RETRY_MOST: Final = 900.0

_COLUMNS: Final = (
    "id, outpost, recipient, subject, body, sender, priority, written_at, tries, error, tried_at,"
    " next_try, delivered_at, failed_at, owner, claimed_until"
)
_WAITS: Final = "delivered_at IS NULL AND failed_at IS NULL"


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """One message in the outbox.

    Args:
        outpost: where it goes.
        message: what it says; its id is the letter's.
        tries: how often nobody was found.
        error: what came of the last try; "" when it was not tried or is delivered.
        tried_at: when it was last tried.
        next_try: when it is tried again by itself.
        delivered_at: when the outpost had it.
        failed_at: when it was refused for ever.
    """

    outpost: str
    message: Message
    tries: int = 0
    error: str = ""
    tried_at: float | None = None
    next_try: float = 0.0
    delivered_at: float | None = None
    failed_at: float | None = None

    @property
    def id(self) -> str:
        """The message's id."""
        return self.message.id

    @property
    def state(self) -> str:
        """`delivered`, `failed` or `waiting`."""
        if self.delivered_at is not None:
            return "delivered"
        return "failed" if self.failed_at is not None else "waiting"


class Outbox:
    """The outbox of one ledger.

    Args:
        store: the ledger's file.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def post(self, outpost: str, message: Message, owner: str, lease: float) -> Letter:
        """Write a message down, claimed by `owner` for `lease` seconds; one with its id stays."""
        now = time.time()
        with self._store.write(only_here=True) as db:
            db.execute("DELETE FROM outbox WHERE delivered_at < ?", (now - KEEP,))
            db.execute(
                "INSERT OR IGNORE INTO outbox (id, outpost, recipient, subject, body, sender,"
                " priority, written_at, owner, claimed_until)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (message.id, outpost, message.to, message.subject, message.body, message.sender,
                 message.priority, message.sent_at or now, owner, now + lease),
            )  # fmt: skip
            found = db.execute(f"SELECT {_COLUMNS} FROM outbox WHERE id = ?", (message.id,))  # noqa: S608
            return _letter(found.fetchone())

    def due(self, now: float) -> set[str]:
        """Return the outposts that mail waits for whose moment has come. Cheap."""
        found = self._store.read(
            f"SELECT DISTINCT outpost FROM outbox WHERE {_WAITS} AND next_try <= ?"  # noqa: S608
            " AND claimed_until <= ?",
            (now, now),
        )
        return {outpost for (outpost,) in found}

    def claim(
        self, owner: str, lease: float, *, outposts: Collection[str], due: bool = False
    ) -> list[Letter]:
        """Take what waits, oldest first, unless a living process is at it.

        Args:
            owner: word of the claimer, see `worker.identity`.
            lease: seconds after which anybody may take them over.
            outposts: only mail to these.
            due: only mail whose next try has come.
        """
        now = time.time()
        if not self._store.read(f"SELECT 1 FROM outbox WHERE {_WAITS} LIMIT 1"):  # noqa: S608
            return []
        with self._store.write() as db:
            found = db.execute(
                f"SELECT {_COLUMNS} FROM outbox WHERE {_WAITS} AND next_try <= ?"  # noqa: S608
                " ORDER BY written_at, id",
                (now if due else float("inf"),),
            ).fetchall()
            mine = [row for row in found if row[1] in outposts and _free(row, owner, now)]
            db.executemany(
                "UPDATE outbox SET owner = ?, claimed_until = ? WHERE id = ?",
                [(owner, now + lease, row[0]) for row in mine],
            )
        return [_letter(row) for row in mine]

    def renew(self, id: str, owner: str, lease: float) -> bool:  # noqa: A002
        """Claim a letter for longer; False when it waits no longer, or another has taken it."""
        with self._store.write(durable=False) as db:
            changed = db.execute(
                f"UPDATE outbox SET claimed_until = ? WHERE id = ? AND owner = ? AND {_WAITS}",  # noqa: S608
                (time.time() + lease, id, owner),
            )
            return changed.rowcount == 1

    def delivered(self, id: str) -> None:  # noqa: A002 - the word of the glossary
        """Write down that the outpost has it: a fact, whoever has claimed it meanwhile."""
        now = time.time()
        with self._store.write() as db:
            found = db.execute(
                "UPDATE outbox SET delivered_at = ?, tried_at = ?, error = '', owner = '',"
                " failed_at = NULL, claimed_until = 0 WHERE id = ? AND delivered_at IS NULL"
                " RETURNING id, outpost, recipient",
                (now, now, id),
            ).fetchone()
            if found is not None:
                _happened(db, "mail_delivered", now, found)

    def failed(self, id: str, owner: str, error: str) -> None:  # noqa: A002
        """Write down that it is refused for ever, unless another has taken it over."""
        now = time.time()
        with self._store.write() as db:
            found = db.execute(
                f"UPDATE outbox SET failed_at = ?, tried_at = ?, error = ?, owner = '',"  # noqa: S608
                f" claimed_until = 0 WHERE id = ? AND owner = ? AND {_WAITS}"
                " RETURNING id, outpost, recipient",
                (now, now, rows.text(error), id, owner),
            ).fetchone()
            if found is not None:
                _happened(db, "mail_failed", now, found, rows.text(error))

    def waits(self, ids: Sequence[str], owner: str, error: str) -> None:
        """Write down that nobody was found, unless another has taken them over."""
        now = time.time()
        with self._store.write() as db:
            db.executemany(
                f"UPDATE outbox SET tries = tries + 1, tried_at = ?, error = ?, owner = '',"  # noqa: S608
                " claimed_until = 0, next_try = ? + min(?, ? * (1 << min(tries, 10)))"
                f" WHERE id = ? AND owner = ? AND {_WAITS}",
                [(now, rows.text(error), now, RETRY_MOST, RETRY_FIRST, id_, owner) for id_ in ids],
            )

    def let_go(self, owner: str) -> None:
        """Leave what was claimed and not tried to whoever comes."""
        with self._store.write(durable=False) as db:
            db.execute("UPDATE outbox SET owner = '', claimed_until = 0 WHERE owner = ?", (owner,))

    def letter(self, id: str) -> Letter | None:  # noqa: A002 - the word of the glossary
        """Return one letter."""
        found = self._store.read(f"SELECT {_COLUMNS} FROM outbox WHERE id = ?", (id,))  # noqa: S608
        return _letter(found[0]) if found else None

    def letters(self, *, all: bool = False) -> list[Letter]:  # noqa: A002
        """Return what is not delivered, oldest first; with `all` the delivered ones too."""
        where = "" if all else "WHERE delivered_at IS NULL"
        found = self._store.read(f"SELECT {_COLUMNS} FROM outbox {where} ORDER BY written_at, id")  # noqa: S608
        return [_letter(row) for row in found]

    def drop(self, id: str) -> bool:  # noqa: A002 - the word of the glossary
        """Forget a letter; False when there is none."""
        with self._store.write() as db:
            return db.execute("DELETE FROM outbox WHERE id = ?", (id,)).rowcount == 1


def _happened(
    db: sqlite3.Connection, kind: str, at: float, row: tuple[str, str, str], why: str = ""
) -> None:
    """Write the event of what became of a letter, in the transaction of that.

    Args:
        db: the connection.
        kind: of the event.
        at: when.
        row: its id, where it goes, and to whom.
        why: it is refused for ever.
    """
    id_, outpost, to = row
    rows.tell(db, kind, at, "", outpost, {"id": id_, "to": to, "detail": why})


def _free(row: tuple[Any, ...], owner: str, now: float) -> bool:
    theirs, until = row[14], row[15]
    return theirs in ("", owner) or until <= now or not identity.alive(theirs)


def _letter(row: tuple[Any, ...]) -> Letter:
    texts = map(values.text, row[:6])
    id_, outpost, to, subject, body, sender = texts
    priority, written_at = row[6:8]
    message = Message(
        id=id_, to=to, subject=subject, body=body, sender=sender,
        priority=priority if priority in range(5) else 2, sent_at=values.number(written_at),
    )  # fmt: skip
    tries, error, tried_at, next_try, delivered_at, failed_at = row[8:14]
    return Letter(
        outpost=outpost, message=message, tries=tries if isinstance(tries, int) else 0,
        error=values.text(error), tried_at=values.number(tried_at),
        next_try=values.number(next_try) or 0.0, delivered_at=_when(delivered_at),
        failed_at=_when(failed_at),
    )  # fmt: skip


def _when(value: object) -> float | None:
    """Return a moment that says by itself what became of a letter, also one that cannot be."""
    return None if value is None else values.number(value) or 0.0
