"""Throw-away folders that are removed even if who made them was killed: by who comes next."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Held locked by who uses the folder, for as long as that process lives.
_LOCK: Final = ".in-use"
#: A folder that is younger may just be on the way to its lock, in seconds.
_YOUNG: Final = 60.0


@contextmanager
def scratch(prefix: str, within: Path | None = None) -> Iterator[Path]:
    """Yield a new folder and remove it afterwards, with those that killed processes left.

    Args:
        prefix: of its name.
        within: where it is made; the folder for temporary files where nothing is given.
    """
    parent = within or Path(tempfile.gettempdir())
    _sweep(prefix, parent)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _sweep(prefix: str, parent: Path) -> None:
    name = re.compile(re.escape(prefix) + r"[a-z0-9_]{8}")  # as mkdtemp makes them
    try:
        found = [each for each in parent.iterdir() if name.fullmatch(each.name)]
    except OSError:
        return
    for folder in found:
        if _is_left(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    """Whether a folder is ours and nobody holds its lock any more."""
    try:
        seen = folder.lstat()
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid():
            return False
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # nobody's that was made here, or one that went meanwhile
    try:
        if time.time() - os.fstat(lock).st_mtime < _YOUNG:
            return False
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True
