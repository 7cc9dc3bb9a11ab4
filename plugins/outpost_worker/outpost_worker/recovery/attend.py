"""Looks after the workers of a folder: reports of each only what is certain, starts what is due.

A supervisor is started for what was published, again when it never began, and a recovery for what
a supervisor left that was killed. One too many of either does no harm: the first one claims the
attempt for ever, and a recovery holds the worker's lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from pathlib import Path

from outpost_core.types import State
from outpost_shared import programs
from outpost_worker.folder import files, publish, status
from outpost_worker.system.detached import Detached

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from outpost_core.types import WorkerStatus

    Start = Callable[[Sequence[str]], None]
    Begin = Callable[[Sequence[Path]], object]

#: Seconds after which a supervisor that has not begun, or a recovery that left no result, is
#: started again: both may have been killed in their first milliseconds.
AGAIN = 30.0


class Attendant:
    """Looks after the workers of one state folder; any number of threads may ask it at once.

    Args:
        root: the state folder.
        start: starts a program that outlives this one; None for a detached process.
        begin: starts the supervisors of some workers; None to `start` each.
    """

    def __init__(
        self, root: Path, *, start: Start | None = None, begin: Begin | None = None
    ) -> None:
        self._root = root
        self._start = start or self.start
        self._begin = begin or self._begin_each
        self.detached = Detached()
        self._scanning = threading.Lock()
        self._ended: status.Cache = {}
        self._again: dict[tuple[str, str], float] = {}  # (verb, worker) → time.monotonic()

    def folder(self, worker: str) -> Path:
        """Return the folder of a worker, whether there is one or not."""
        return self._root / files.WORKERS / worker

    def look(
        self, adjust: Callable[[WorkerStatus], WorkerStatus] | None = None
    ) -> list[WorkerStatus]:
        """Return the status of every worker.

        Args:
            adjust: called for each as `certain` is, in its place.

        Raises:
            OSError: they cannot be read.
        """
        self.detached.reap()
        adjust = adjust or self.certain
        with self._scanning:
            return [adjust(found) for found in status.scan(self._root, self._ended)]

    def certain(self, found: WorkerStatus) -> WorkerStatus:
        """Return a status as it may be reported: never an end that is not certain."""
        if found.result is None:
            if found.state is State.QUEUED:
                self._begin_forgotten(found.id)
            return found
        if found.result.finished_at is not None:
            return found
        self._recover(found.id)
        state = State.WORKING if found.started_at is not None else State.QUEUED
        detail = f"{found.detail}; recovering"
        return dataclasses.replace(found, state=state, detail=detail, result=None)

    def is_to_begin(self, folder: Path) -> bool:
        """Whether a worker has not begun, so that who asks starts its supervisor now.

        It is new, or whoever published it was killed before its supervisor was started.
        """
        if status.started(folder) or status.needs_recovery(folder):
            return False
        self._again["run", folder.name] = time.monotonic() + AGAIN
        return True

    def forget(self, worker: str) -> None:
        """Know nothing of a worker whose files are gone."""
        with self._scanning:
            self._ended.pop(worker, None)
            for verb in ("run", "recover"):
                self._again.pop((verb, worker), None)

    def start(self, argv: Sequence[str]) -> None:
        """Start a program in a session of its own that outlives this one.

        Its environment holds nothing that may be secret, since other programs can read it.

        Raises:
            OSError: it cannot be started.
        """
        self.detached.start(argv, programs.own_env(os.environ) | fault())

    def _begin_each(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            self._start(publish.command(folder))

    def _begin_forgotten(self, worker: str) -> None:
        """Start what was published long ago and has not begun: whoever was to do it is gone."""
        folder = self.folder(worker)
        try:
            age = time.time() - (folder / files.ORDER).lstat().st_mtime
        except FileNotFoundError:  # cleaned meanwhile
            return
        if age > AGAIN and self._is_due("run", worker):
            with contextlib.suppress(OSError):
                self._begin([folder])

    def _recover(self, worker: str) -> None:
        """Start the recovery of a vanished supervisor's worker, unless one is at it.

        It is a process of its own: it may take as long as a push does, and must outlive us.
        """
        from outpost_worker.recovery import cleaning

        folder = self.folder(worker)
        with cleaning.locked(folder) as nobody_is_at_it:
            start = nobody_is_at_it and self._is_due("recover", worker)
        if start:
            with contextlib.suppress(OSError):  # no room for a process: it is tried again
                self._start(publish.command(folder, "recover"))

    def _is_due(self, verb: str, worker: str) -> bool:
        """Whether a verb may be started for a worker; then not soon once more."""
        now = time.monotonic()
        due = now >= self._again.get((verb, worker), now)
        if due:
            self._again[verb, worker] = now + AGAIN
        return due


def fault() -> dict[str, str]:
    """Return what tests say about where to crash, as the environment of what is started has it."""
    asked = os.environ.get("OUTPOST_FAULT")
    return {"OUTPOST_FAULT": asked} if asked else {}
