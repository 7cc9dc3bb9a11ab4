"""Work that an earlier attempt left in a bundle here, and that the next pod goes on from.

It travels with the order, in the Secret of the Job: so it is there before anything runs, and goes
with the Job. What is too large for that needs a `volume`, or the rig.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_core.errors import SpawnRefusedError
from outpost_core.names import REFS
from outpost_worker.folder import files
from outpost_worker.repository import bundles
from outpost_worker.work import lfs

if TYPE_CHECKING:
    from outpost_core.types import Order

#: Longest bundle in bytes: it leaves a quarter of a Secret to the order, in base64's four thirds.
MOST: Final = 512 << 10


def bundle_for(order: Order, state_dir: Path, *, volume: bool) -> bytes:
    """Return the bundle that an order goes on from; b"" where it needs none, or none is here.

    Args:
        order: the order.
        state_dir: the outpost's, where bundles of pods were brought to.
        volume: workers have a volume, which may have it as well.

    Raises:
        SpawnRefusedError: it is here, and too large to travel.
        OSError: it cannot be read.
    """
    resume = order.resume or ""
    path = bundles.find(str(state_dir), resume) if resume.startswith(REFS) else ""
    if not path:
        return b""
    fd = files.open_plain(path)
    try:
        size = os.fstat(fd).st_size
        large = Path(lfs.beside(path)).exists()
        if size <= MOST and not large:
            with os.fdopen(os.dup(fd), "rb") as file:
                return file.read(MOST)
    finally:
        os.close(fd)
    if volume:
        return b""
    why = "has large files of git-lfs" if large else f"has {size} bytes, and {MOST} can travel"
    raise SpawnRefusedError(
        f"{order.worker} goes on from {path}, which {why}",
        hint="git fetch it into a clone and push that to the rig, or start with --from-base",
    )
