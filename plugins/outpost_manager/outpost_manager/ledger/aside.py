"""A copy of the ledger in memory, for when its disk is full or read-only.

What the ledger says can be read then, and what outposts tell can be taken over for as long as the
command runs: nothing of it is kept, and all of it can be asked again. Reservations and mail, of
which the ledger is the only record, are refused.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    import sqlite3

#: Bytes and files of a disk below which SQLite's own files find no room on it.
ROOM: Final = 256 * 1024


def no_room(folder: Path) -> str:
    """Return why nothing can be written in a folder, or "" when it can."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return ""
    if disk.f_flag & os.ST_RDONLY:
        return "its file system is read-only"
    if disk.f_bavail * disk.f_frsize < ROOM:
        return "no space is left on its disk"
    if disk.f_files and disk.f_favail < 3:  # the index, the log, and one for a worker
        return "no further file can be made on its disk"
    return ""


def copy(path: Path) -> sqlite3.Connection:
    """Return the ledger's content in memory; an empty one where there is no file yet.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    import sqlite3

    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    if path.exists() and path.stat().st_size:
        with tempfile.TemporaryDirectory(dir=_elsewhere(path)) as folder:
            source = path
            if _log_size(path):  # commits that are not in the file itself yet
                source = Path(folder) / path.name
                shutil.copyfile(path, source)
                shutil.copyfile(f"{path}-wal", f"{source}-wal")
            how = "mode=ro&immutable=1" if source is path else "mode=rw"
            db = sqlite3.connect(f"file:{quote(str(source))}?{how}", uri=True)
            try:
                db.backup(memory)
            finally:
                db.close()
    return memory


def _log_size(path: Path) -> int:
    try:
        return Path(f"{path}-wal").stat().st_size
    except OSError:
        return 0


def _elsewhere(path: Path) -> str | None:
    """Return a folder for the copy that is on another disk than the ledger."""
    mine = path.stat().st_dev
    for folder in map(Path, (tempfile.gettempdir(), "/dev/shm", "/run")):  # noqa: S108 - private in it
        if folder.is_dir() and os.access(folder, os.W_OK) and folder.stat().st_dev != mine:
            return str(folder)
    return None
