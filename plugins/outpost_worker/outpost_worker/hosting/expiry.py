"""The end of what is kept for other machines: copies that nobody uses, and what transfers left.

A copy goes when no worker's folder refers to it, its owner has not asked for it for thirty days,
and nothing is in it that its owner lacks. It is renamed away under its lock and removed from
there, so that a half-removed copy never counts; its owner sends it anew with the next order.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from outpost_core.errors import OutpostError
from outpost_shared import private
from outpost_worker.folder import files
from outpost_worker.hosting.copies import Hosted
from outpost_worker.repository import bundles
from outpost_worker.repository.git import read
from outpost_worker.repository.hosted import HOSTED
from outpost_worker.repository.mirror import mirror_path
from outpost_worker.system import removal

#: Seconds without an order after which a copy is removed.
UNUSED: Final = 30 * 86400.0
#: Seconds after which what nobody fetched or finished is removed; it can be made again.
STALE: Final = 86400.0
#: Below `hosted/`: uploads, and copies on their way out; packs that are to be fetched.
INCOMING: Final = "incoming"
OUTGOING: Final = "outgoing"


def sweep(root: Path) -> None:
    """Remove what has come to its end; what cannot be removed now stays for the next time.

    Args:
        root: the state root.
    """
    place = root.absolute() / HOSTED
    for name in (INCOMING, OUTGOING):
        with contextlib.suppress(OSError):
            sweep_stale(place / name)
    for path in place.glob("*.git"):
        with contextlib.suppress(OutpostError, OSError):
            hosted = Hosted(root, path.name.removesuffix(".git"))
            if _is_old(hosted):
                _remove(root.absolute(), hosted)


def sweep_stale(folder: Path) -> None:
    """Remove from a folder what was not touched for a day."""
    oldest = time.time() - STALE
    for entry in folder.iterdir() if folder.is_dir() else ():
        try:
            if entry.stat().st_mtime >= oldest:
                continue
        except OSError:
            continue
        removal.remove(entry)


def _is_old(hosted: Hosted) -> bool:
    return time.time() - hosted.used > UNUSED


def _remove(root: Path, hosted: Hosted) -> None:
    gone = hosted.path.parent / INCOMING / f"{hosted.key}.gone"
    with hosted.lock():
        # asked again, now that nobody can begin to use it
        if not _is_old(hosted) or str(hosted.path) in _rigs(root) or hosted.unsent():
            return
        private.make(str(gone.parent))
        removal.remove(gone)
        hosted.path.rename(gone)
        mirror = mirror_path(str(root), str(hosted.path))
        if mirror not in _borrowed(root):
            removal.remove(mirror)
            Path(mirror).with_suffix(".lock").unlink(missing_ok=True)
        hosted.unlock_for_good()
    removal.remove(gone)


def _rigs(root: Path) -> set[str]:
    """Return the copies that workers' folders refer to, also of workers that are being made."""
    folders = (root / place for place in (files.WORKERS, files.STAGING))
    found = (folder for place in folders if place.is_dir() for folder in place.iterdir())
    return {str((files.load(str(folder), files.LAUNCH) or {}).get("rig")) for folder in found}


def _borrowed(root: Path) -> set[str]:
    """Return the mirrors that rescued repositories borrow objects from."""
    return {path.removesuffix("/objects") for path in _alternates(root / bundles.RESCUED)}


def _alternates(rescued: Path) -> Iterator[str]:
    for entry in rescued.iterdir() if rescued.is_dir() else ():
        yield from read(str(entry / "objects/info/alternates")).splitlines()
