"""Who runs an attempt: the lock of whoever works in a folder, and the claim that is made once.

The claim is what makes an attempt run at most once: it appears by `link`, which only one process
can win, and nothing ever removes it. The lock keeps a supervisor, a recovery and a stop of what
has not begun out of each other's way; it falls with its process.
"""

from __future__ import annotations

import fcntl
import os
import time

from outpost_core.worker import files, process


def lock(folder: str) -> int:
    """Take the folder's lock; return its descriptor, or -1 when somebody else has it.

    Raises:
        OSError: there is no such folder.
    """
    fd = os.open(os.path.join(folder, files.LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return -1
    return fd


def take(folder: str) -> bool:
    """Claim the attempt for this process, for ever; False when somebody had claimed it before.

    Raises:
        OSError: the claim cannot be written.
    """
    pid = os.getpid()
    claim = {
        "pid": pid,
        "start": process.start_time(pid),
        "boot": process.boot_id(),
        "at": time.time(),
    }
    return files.store_once(folder, files.CLAIM, claim)


def exists(folder: str) -> bool:
    """Whether the attempt has been claimed."""
    return os.path.exists(os.path.join(folder, files.CLAIM))


def finished(folder: str) -> bool:
    """Whether the result is there."""
    return os.path.exists(os.path.join(folder, files.RESULT))


def holder(folder: str) -> tuple[int, int] | None:
    """Return pid and start time of the process that claimed the attempt, if it still lives."""
    claim = files.load(folder, files.CLAIM)
    if claim is None:
        return None
    try:
        pid, start, boot = int(claim["pid"]), int(claim["start"]), str(claim["boot"])
    except (KeyError, ValueError, TypeError):
        return None
    return (pid, start) if process.lives(pid, start, boot) else None
