"""Where the record and the log of an order's worker are kept, as this program was told."""

from __future__ import annotations

from collections.abc import Sequence

from outpost_cloudrun.server import bucketrecord
from outpost_cloudrun.server.settings import Settings
from outpost_core.types import Order, Result
from outpost_worker.record import places
from outpost_worker.record.kinds import Claim, Found, Record
from outpost_worker.record.segments import KeptLog


class Place:
    """Where things of one worker are kept that outlive this instance.

    Args:
        record: who runs it, and how it ended.
        store: `gs://BUCKET` or the path of a volume; "" where the record is on the rig.
        goal: where its work is pushed to; "" for nowhere.
        credentials: what git logs in with there, as `Git` has it.
    """

    def __init__(self, record: Record, store: str, goal: str, credentials: str) -> None:
        self.record = record
        self.goal = goal
        self.credentials = credentials
        self._store = store

    def ask(self, claim: Claim) -> Sequence[str]:
        """Return the command that says whether a claim stands; empty where git says it itself."""
        return bucketrecord.command(self._store, claim) if self._store else ()

    def log(self, worker: str, owner: str) -> KeptLog | None:
        """Return what is kept of a worker's log; None where logs are not kept."""
        if not self._store:
            return None
        return KeptLog(bucketrecord.logs(self._store), worker, owner)

    def delivered(self, found: Found) -> Result | None:
        """Return the result of a worker whose machine vanished after its branch was pushed."""
        return places.delivered(found, self.goal, self.credentials) if self.goal else None


def place_of(settings: Settings, order: Order, credentials: str) -> Place | None:
    """Return where an order's worker is kept; None where nothing outlives this instance.

    Args:
        settings: of this program.
        order: the order.
        credentials: what git logs in with, as `Git` has it.

    Raises:
        UsageError: its rig cannot be one.
    """
    goal, store = places.pushed_to(order), settings.store
    if store:
        return Place(bucketrecord.records(store, order.owner), store, goal, credentials)
    if goal:
        record = places.on_rig(goal, str(settings.root), order.owner, credentials)
        return Place(record, "", goal, credentials)
    return None
