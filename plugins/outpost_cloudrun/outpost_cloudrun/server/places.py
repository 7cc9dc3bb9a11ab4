"""Where the record and the log of an order's worker are kept, as this program was told."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from outpost_cloudrun.server.settings import Settings
from outpost_core.errors import UsageError
from outpost_core.types import Order
from outpost_shared import jsonfiles, private
from outpost_worker.record.kinds import Claim, Record, SupersededError
from outpost_worker.record.objects import Objects
from outpost_worker.record.places import on_rig, on_volume, volume_logs
from outpost_worker.record.segments import KeptLog
from outpost_worker.record.standing import SUPERSEDED

#: Below the state folder: what is known of each worker that runs by a claim.
CLAIMS: Final = "claims"


class Place:
    """Where things of one worker are kept that outlive this instance.

    Args:
        record: who runs it, and how it ended.
        ask: the command that says whether a claim stands; empty where git says it with the push.
        objects: where logs are kept; None where they are not.
    """

    def __init__(self, record: Record, ask: Sequence[str], objects: Objects | None) -> None:
        self.record = record
        self.ask = ask
        self._objects = objects

    def log(self, worker: str, owner: str) -> KeptLog | None:
        """Return what is kept of a worker's log; None where logs are not kept."""
        return None if self._objects is None else KeptLog(self._objects, worker, owner)


def place_of(settings: Settings, order: Order, credentials: str) -> Place | None:
    """Return where an order's worker is kept; None where nothing outlives this instance.

    Args:
        settings: of this program.
        order: the order.
        credentials: what git logs in with, as `Git` has it.

    Raises:
        UsageError: its rig cannot be one.
    """
    root = str(settings.root)
    if settings.volume:
        ask = [sys.executable, "-I", "-m", "outpost_cloudrun.server", "stands", settings.volume]
        ask.append(str(settings.root / CLAIMS / f"{order.worker}.json"))
        logs = volume_logs(settings.volume)
        return Place(on_volume(settings.volume, order.owner), ask, logs)
    rig = pushed_to(order)
    if rig:
        return Place(on_rig(rig, root, order.owner, credentials), (), None)
    return None


def pushed_to(order: Order) -> str:
    """Return where an order's work is pushed to; "" for nowhere."""
    fork = order.delivery.push_url if order.delivery is not None else ""
    return fork or order.rig or ""


def stands(volume: str, file: str) -> int:
    """Say by the exit code whether the claim in a file stands: a supervisor asks before it pushes.

    Args:
        volume: where the record is.
        file: what is known of the worker, see `claims`.

    Raises:
        UsageError: there is no claim in the file.
        OutpostError: nobody can say.
    """
    path = Path(file)
    private.check(str(path.parent))
    about = jsonfiles.load(str(path.parent), path.name) or {}
    try:
        claim = Claim(**about["claim"])
    except (KeyError, TypeError):
        raise UsageError(f"{file} holds no claim") from None
    try:
        found = on_volume(volume, claim.owner).read(claim.worker)
        if found is None or found.claim.id != claim.id or found.result is not None:
            raise SupersededError("another instance has the worker, or it has ended")
    except SupersededError as error:
        sys.stderr.write(f"{error.message}\n")
        return SUPERSEDED
    return 0
