"""Who is spawning a worker: so that no two processes ever try one order at two outposts."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from outpost_shared import identity

if TYPE_CHECKING:
    import sqlite3


#: In the word of an owner who puts another try in the place of an ended worker.
RENEWING = "/renew-"


class Claim(StrEnum):
    """The answer to a claim."""

    SPAWNED = "spawned"  # nothing is left to do
    MINE = "mine"  # nobody else will spawn it
    THEIRS = "theirs"  # a living process is spawning it
    GONE = "gone"  # there is no such worker


def claim(db: sqlite3.Connection, worker: str, owner: str) -> Claim:
    """Take an unfinished spawn over unless its owner lives, inside a write transaction."""
    found = db.execute(
        "SELECT owner, spawned_at, ended_at FROM workers WHERE id = ?", (worker,)
    ).fetchone()
    if found is None:
        return Claim.GONE
    theirs, spawned_at, ended_at = found
    if spawned_at is not None or ended_at is not None:
        return Claim.SPAWNED
    if theirs not in ("", owner) and identity.alive(theirs):
        return Claim.THEIRS
    db.execute("UPDATE workers SET owner = ? WHERE id = ?", (owner, worker))
    return Claim.MINE


def claim_ended(db: sqlite3.Connection, worker: str, owner: str) -> Claim:
    """Take an ended row, to put another try in its place, inside a write transaction.

    Args:
        db: the connection.
        worker: its id.
        owner: as in `claim`, with `RENEWING` in it.

    Returns:
        `SPAWNED` when the row has not ended, `THEIRS` when a living process is renewing it.
    """
    found = db.execute("SELECT owner, ended_at FROM workers WHERE id = ?", (worker,)).fetchone()
    if found is None:
        return Claim.GONE
    theirs, ended_at = found
    if ended_at is None:
        return Claim.SPAWNED
    # an owner without that mark is whoever spawned it, which is over
    if theirs != owner and RENEWING in theirs and identity.alive(theirs):
        return Claim.THEIRS
    db.execute("UPDATE workers SET owner = ? WHERE id = ?", (owner, worker))
    return Claim.MINE


def disown(db: sqlite3.Connection, worker: str, owner: str) -> None:
    """Leave an unfinished spawn to whoever comes, inside a write transaction."""
    db.execute("UPDATE workers SET owner = '' WHERE id = ? AND owner = ?", (worker, owner))
