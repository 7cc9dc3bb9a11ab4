"""Reads `output.log` while it grows."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from outpost_core.errors import WorkerError
from outpost_core.types import Limits
from outpost_shared.backoff import Backoff
from outpost_worker.folder import claim, files, status
from outpost_worker.folder.logwriter import TAIL

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
        follow: continue until the worker has ended, or its supervisor is gone, and all is read.

    Raises:
        NotFoundError: there is no such worker.
        WorkerError: its log is no plain file, or longer than it can be.
    """
    path = str(folder)
    status.read(folder)
    most = longest(files.order(path))
    fd = -1
    try:
        fd = _open(path)
        pause = Backoff(_SOON, _LATE, growth=1.3)
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
                if offset > most:
                    raise _broken(path, f"{files.LOG} continues beyond {most} bytes, its limit")
                offset += len(data)
                pause.reset()
                yield data
            if over:
                return
            await pause.wait()
    finally:
        if fd >= 0:
            os.close(fd)


def _open(path: str) -> int:
    try:
        return files.open_plain(os.path.join(path, files.LOG))
    except FileNotFoundError:
        return -1
    except files.Broken as error:
        raise _broken(path, error.said) from None


def _broken(path: str, why: str) -> WorkerError:
    return WorkerError(
        f"the log of {os.path.basename(path)} cannot be read: {why}",
        reason="broken",
        hint=f"look at it yourself: {os.path.join(path, files.LOG)}",
    )


def longest(order: dict[str, Any] | None) -> int:
    """Return how many bytes a worker's log has at most, so that nobody reads one without an end.

    Args:
        order: the worker's; None when nobody knows it.
    """
    cap = ((order or {}).get("limits") or {}).get("log_bytes")
    if type(cap) is not int or cap < 0:
        cap = Limits().log_bytes
    return cap + 2 * TAIL
