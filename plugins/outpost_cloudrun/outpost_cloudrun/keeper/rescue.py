"""Unpushed work of a container brought home, before the container is gone.

What no rig took is in a bundle over there, and nowhere else. It counts as rescued once git has
read it here (`outpost_exec.received`).
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from outpost_cloudrun.keeper.workerrecord import WorkerRecord
from outpost_core.errors import UnreachableError
from outpost_exec import received
from outpost_shared import faults, plain, private
from outpost_worker.repository import bundles

#: Bytes of a bundle that are taken: more than any repository that an agent can clone into memory.
_MOST: Final = 16 << 30


async def bring_home(record: WorkerRecord, pieces: AsyncIterator[bytes]) -> tuple[str | None, str]:
    """Keep a worker's bundle in the state folder.

    Args:
        record: whose it is; its result is not written yet.
        pieces: the bundle.

    Returns:
        The path of the bundle, or None when there is none that can be used; and what is to be said
        besides, as an addition to a sentence.

    Raises:
        NotFoundError: the container that answers has none.
        UnreachableError: it did not come whole, or cannot be written.
    """
    root = record.folder.parent.parent
    staging = root / "staging"
    private.make(str(staging))
    staged = staging / f"{uuid.uuid4().hex}.bundle"
    try:
        await _write(staged, pieces)
        why, doubt = await asyncio.to_thread(received.check, str(staged), record.order)
        if why:
            return None, f"; what it sent as its unpushed work cannot be used: {why}"
        kept = await asyncio.to_thread(
            bundles.keep, str(root), str(staged), record.worker, record.order.owner
        )
    except OSError as error:
        raise UnreachableError(f"a bundle cannot be written: {error.strerror}") from error
    finally:
        staged.unlink(missing_ok=True)
    faults.point("keeper.rescued")
    return kept, doubt


async def _write(path: Path, pieces: AsyncIterator[bytes]) -> None:
    room = _MOST
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        async for piece in pieces:
            room -= len(piece)
            if room < 0:
                raise UnreachableError(f"a bundle has more than {_MOST} bytes")
            plain.write_all(fd, piece)
        await asyncio.to_thread(os.fsync, fd)
    finally:
        os.close(fd)
