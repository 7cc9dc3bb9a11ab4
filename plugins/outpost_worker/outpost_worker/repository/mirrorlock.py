"""The lock of a mirror, and what becomes of the git of a holder that was killed."""

from __future__ import annotations

import fcntl
import os

from outpost_core.errors import WorkerError
from outpost_shared import process
from outpost_shared.backoff import Backoff, every
from outpost_worker.folder import files
from outpost_worker.repository.git import NETWORK_TIMEOUT

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

_KILL = 9
#: Seconds between two looks whether the lock is free: at first, and at most.
_SOON, _LATER = 0.002, 0.05
#: Seconds after which nobody who fetches can still hold it, so that something else does.
PATIENCE = 2 * NETWORK_TIMEOUT
#: Seconds for the git of a killed holder to end.
_GONE = 10.0


class Lock:
    """A mirror's lock, `<name>.lock` beside `<name>.git`.

    The system frees the lock of a killed holder, but not the mirror: its git may still run. A
    note in the lock file tells the next holder which one that is.

    Args:
        path: the mirror.
        report: told what is being done.
    """

    def __init__(self, path: str, report: Callable[[str], None]) -> None:
        self._path = path
        self._report = report
        self._fd = -1

    def __enter__(self) -> Self:
        name = self._path.removesuffix(".git") + ".lock"
        while True:
            self._fd = files.open_own(name, os.O_RDWR)
            try:
                self._wait(name)
                if _is_at(self._fd, name):
                    break
            except BaseException:
                os.close(self._fd)
                raise
            os.close(self._fd)  # it was put aside, or went with a mirror that was removed
        left = os.pread(self._fd, 100, 0).decode("ascii", "replace")
        if left:
            _end(self._path, left)
        os.ftruncate(self._fd, 0)
        return self

    def __exit__(self, *_: object) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)

    def _wait(self, name: str) -> None:
        told = False
        for _ in Backoff(_SOON, _LATER, within=PATIENCE).tries():
            try:
                return fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    self._report("waiting for another worker to fetch the rig")
                told = True
        raise WorkerError(
            f"{name} is held by another process since {PATIENCE:g} s",
            reason="workspace_failed",
            hint=f"see which one, and end it: fuser -v {name}",
        )

    def note(self, pid: int) -> None:
        """Write down a git that writes to the mirror."""
        os.pwrite(self._fd, f"{pid} {process.start_time(pid)}\n".encode(), 0)


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _end(path: str, note: str) -> None:
    """End the git of a holder that died: what the note names, if that is a git for this mirror."""
    pid, _, started = note.strip().partition(" ")
    if not (pid.isdigit() and started.isdigit() and 1 < int(pid) < 1 << 31 and int(started)):
        return
    leader, start = int(pid), int(started)
    if process.start_time(leader) != start or not _fetches(leader, path):
        return
    try:
        os.killpg(leader, _KILL)
    except OSError:
        return
    for _ in every(0.01, within=_GONE).tries():
        if process.start_time(leader) != start:
            return


def _fetches(pid: int, path: str) -> bool:
    """Whether a process is a git of ours that writes to a mirror, as it was started."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            told = file.read(1 << 20).split(b"\0")
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
            argv = file.read(1 << 16).split(b"\0")
        leads = os.getsid(pid) == pid
    except OSError:
        return False
    objects = os.fsencode(f"GIT_OBJECT_DIRECTORY={os.path.abspath(path)}/objects")
    return leads and argv[0].rpartition(b"/")[2] == b"git" and objects in told
