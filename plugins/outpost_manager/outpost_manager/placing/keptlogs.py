"""What stays of a worker whose files are removed: its log, in the state folder of this machine.

Its result, order and events are in the ledger. The log is fetched before the files are removed,
from any outpost, so that `outpost logs` can still show it, also when the host is gone.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_manager.offloop import off_loop
from outpost_shared import private

if TYPE_CHECKING:
    from outpost_core.types import Worker

FOLDER: Final = "logs"
_CHUNK: Final = 256 * 1024
#: Written when ended workers were last cleaned because of their age; its time counts.
_STAMP: Final = "clean_after"
#: Seconds between two such looks.
_EVERY: Final = 3600.0


def log_of(state: Path, worker: str) -> Path:
    """Return where the log of a cleaned worker is kept."""
    return state / FOLDER / f"{worker}.log"


async def keep(state: Path, worker: str, chunks: AsyncIterator[bytes], most: int) -> bool:
    """Keep a log, whole or not at all.

    Args:
        state: the state folder of this machine.
        worker: whose it is.
        chunks: all of it.
        most: bytes that it may have; of a longer one the beginning is kept.

    Returns:
        whether all of it is kept.

    Raises:
        OSError: it could not be written.
        OutpostError: what `chunks` raises.
    """
    path = log_of(state, worker)
    private.make(str(path.parent))
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            async for chunk in chunks:
                await off_loop(file.write, chunk[:most])
                most -= len(chunk)
                if most < 0:
                    break
        made.replace(path)
        return most >= 0
    finally:
        made.unlink(missing_ok=True)


def read(path: Path, offset: int) -> bytes:
    """Return a piece of a kept log from a byte on; b"" at its end.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(_CHUNK)


def old(workers: list[Worker], seconds: float) -> list[Worker]:
    """Return those that ended more than `seconds` ago."""
    latest = time.time() - seconds
    return [w for w in workers if (w.finished_at or w.updated_at or w.created_at) <= latest]


def is_due(state: Path) -> bool:
    """Whether it is time to look for old workers again; then not soon once more."""
    stamp = state / _STAMP
    try:
        if 0 <= time.time() - stamp.stat().st_mtime < _EVERY:
            return False
    except OSError:
        pass
    try:
        stamp.touch(mode=0o600)
        os.utime(stamp)
    except OSError:  # a full disk: later
        return False
    return True
