"""Where records can be, by what is configured."""

from __future__ import annotations

from outpost_core.types import Order, Result
from outpost_worker.record.cells import Objects
from outpost_worker.record.kinds import Found, Record
from outpost_worker.record.onrig import RigCells
from outpost_worker.record.stored import StoredRecord
from outpost_worker.record.volume import VolumeCells, VolumeObjects
from outpost_worker.repository.mirror import asking


def on_rig(rig: str, root: str, owner: str = "", credentials: str = "") -> Record:
    """Return the records on a rig.

    Args:
        rig: where the work is pushed to (`order.delivery.push_url`, else `order.rig`).
        root: a private state folder, for what is made for a moment.
        owner: id of the ledger that ordered the workers (`order.owner`).
        credentials: a file that git logs in with, see `Git`; "" for what it finds itself.

    Raises:
        UsageError: the rig cannot be one.
    """
    return StoredRecord(RigCells(rig, root, credentials), owner)


def on_volume(path: str, owner: str = "") -> Record:
    """Return the records on a mounted volume.

    Args:
        path: a folder on it for nothing else, absolute; agents must not see it.
        owner: id of the ledger that ordered the workers (`order.owner`).
    """
    return StoredRecord(VolumeCells(path), owner)


def volume_logs(path: str) -> Objects:
    """Return where logs are kept on a mounted volume; see `on_volume` and `segments`."""
    return VolumeObjects(path)


def pushed_to(order: Order) -> str:
    """Return where an order's work is pushed to; "" for nowhere."""
    fork = order.delivery.push_url if order.delivery is not None else ""
    return fork or order.rig or ""


def delivered(found: Found, rig: str, credentials: str = "") -> Result | None:
    """Return the result of a worker whose machine vanished after its branch was pushed.

    Whoever takes such a worker over finishes it with this, and runs no agent. None: nothing was
    pushed for certain.

    Args:
        found: what stands.
        rig: where the work is pushed to.
        credentials: as for `on_rig`.
    """
    if found.delivered or not found.pushing:
        return found.delivered
    ref = f"refs/heads/{found.pushing.branch}"
    git = asking(rig, credentials)
    told = git.run("ls-remote", "--", git.url, ref, timeout=60.0)
    shown = f"{found.pushing.commit}\t{ref}" in told.text.splitlines()
    return found.pushing if shown and not told.code else None
