"""Who runs an attempt: the lock of whoever works in a folder, and the claim that is made once.

The claim is what makes an attempt run at most once: it appears by `link`, which only one process
can win, and nothing ever removes it. The lock keeps a supervisor, a recovery and a stop of what
has not begun out of each other's way; it falls with its process.
"""

from __future__ import annotations

import fcntl
import os
import time

from outpost_shared import process
from outpost_worker.folder import files

#: Seconds that a clock may have gone backwards since a claim was made.
_AHEAD = 2 * 86400.0

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def lock(folder: str) -> int:
    """Take the folder's lock; return its descriptor, or -1 when somebody else has it.

    Raises:
        OSError: there is no such folder.
    """
    fd = files.open_own(os.path.join(folder, files.LOCK), os.O_RDWR)
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
    """Whether the attempt has been claimed; also by what is no claim: it never begins then."""
    return os.path.lexists(os.path.join(folder, files.CLAIM))


def finished(folder: str) -> bool:
    """Whether the result is there."""
    try:
        return files.believed(folder, files.RESULT) is not None
    except files.Broken:
        return False


def moment(claim: dict[str, Any] | None) -> float | None:
    """Return when the attempt began, as a claim says; None when it says nothing that can be."""
    at = None if claim is None else claim.get("at")
    if isinstance(at, int | float) and not isinstance(at, bool):
        return float(at) if 0 <= at <= time.time() + _AHEAD else None
    return None


class Supervisors:
    """All supervisors that run on this machine now, looked up once, when first asked for."""

    def __init__(self) -> None:
        self._found: list[tuple[str, int, int]] | None = None

    def of(self, folder: str) -> tuple[int, int] | None:
        """Return pid and start time of a folder's supervisor; None when it has none."""
        return next(iter(self.all(folder)), None)

    def all(self, folder: str) -> list[tuple[int, int]]:
        """Return pids and start times of all that run for a folder: one may begin in vain."""
        if self._found is None:
            self._found = self._look()
        return [
            (pid, start) for named, pid, start in self._found if process.is_folder(named, folder)
        ]

    def _look(self) -> list[tuple[str, int, int]]:
        table = process.everyone()
        named = {pid: process.runs_for(pid, "run") for pid in table}

        def is_below(proc: process.Proc) -> bool:
            """Whether it is a stage of a supervisor, or what its agent calls like one."""
            seen = set()
            above = table.get(proc.parent)
            while above is not None and above.pid not in seen:
                if named[above.pid] == named[proc.pid]:
                    return True
                seen.add(above.pid)
                above = table.get(above.parent)
            return False

        return [
            (named[pid], pid, proc.start)
            for pid, proc in table.items()
            if named[pid] and process.of_user(pid) and not is_below(proc)
        ]


def holder(folder: str, among: Supervisors | None = None) -> tuple[int, int] | None:
    """Return pid and start time of the supervisor, if it lives.

    What the claim says is believed when that process is proved to be the supervisor of this very
    folder. Where it is not, the supervisor is looked for among all processes: an agent that
    writes a claim of its own neither hides it nor has another process taken for it.

    Args:
        folder: the worker's folder.
        among: where to look it up, for who asks about many folders at once.
    """
    try:
        claim = files.examine(folder, files.CLAIM)
    except files.Broken:
        claim = {}
    return None if claim is None else proved(folder, claim, among)


def proved(
    folder: str, claim: dict[str, Any], among: Supervisors | None = None
) -> tuple[int, int] | None:
    """Return the supervisor of a claim as `holder` does."""
    pid, start = claim.get("pid"), claim.get("start")
    if (
        type(pid) is type(start) is int
        and 0 < pid < 1 << 31
        and 0 < start == process.start_time(pid)
        and claim.get("boot") == process.boot_id()
        and process.runs(pid, "run", folder)
        and process.of_user(pid)
    ):
        return pid, start
    return (among or Supervisors()).of(folder)
