"""Reads `output.log` while it grows."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from outpost_core.errors import WorkerError
from outpost_core.worker import claim, files, status

#: Most bytes of one piece.
CHUNK = 256 * 1024
#: Seconds between two looks: right after something came, and at most, when nothing does.
_SOON = 0.004
_LATE = 0.25
#: Seconds between two looks whether the supervisor still lives.
_CHECK = 0.5


async def follow(folder: Path, offset: int, follow: bool) -> AsyncIterator[bytes]:
    """Yield the worker's output from byte `offset` on.

    Args:
        folder: the worker's folder.
        offset: where to begin; beyond the end nothing comes (with `follow`: until it is reached).
        follow: go on until the worker has ended, or its supervisor is gone, and all is read.

    Raises:
        NotFoundError: there is no such worker.
        WorkerError: its log is no plain file.
    """
    path = str(folder)
    status.read(folder)
    fd = -1
    try:
        fd = _open(path)
        wait = _SOON
        checked = 0.0
        while True:
            # asked before reading: what was written before the end is then read for certain
            over = not follow or claim.finished(path)
            if not over and time.monotonic() - checked > _CHECK:
                over = status.needs_recovery(folder)
                checked = time.monotonic()
            if fd < 0:
                fd = _open(path)
            while fd >= 0 and (data := os.pread(fd, CHUNK, offset)):
                offset += len(data)
                wait = _SOON
                yield data
            if over:
                return
            await asyncio.sleep(wait)
            wait = min(wait * 1.3, _LATE)
    finally:
        if fd >= 0:
            os.close(fd)


def _open(path: str) -> int:
    try:
        return files.open_plain(os.path.join(path, files.LOG))
    except FileNotFoundError:
        return -1
    except files.Broken as error:
        raise WorkerError(
            f"the log of {os.path.basename(path)} cannot be read: {error.said}",
            reason="broken",
            mend=f"look at it yourself: {os.path.join(path, files.LOG)}",
        ) from None
