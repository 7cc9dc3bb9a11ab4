"""Looks after the workers of a folder: tells of each only what is certain, and starts what is due.

A supervisor is started for what was published, again when it never began, and a recovery for what
a supervisor left that was killed. One too many of either does no harm: the first one claims the
attempt for ever, and a recovery holds the worker's lock.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from pathlib import Path

from outpost_core.types import State
from outpost_shared import programs
from outpost_worker.folder import files, publish, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from outpost_core.types import WorkerStatus

#: Seconds after which a supervisor that has not begun, or a recovery that left no result, is
#: started again: both may have been killed in their first milliseconds.
AGAIN = 30.0


class Attendant:
    """Looks after the workers of one state folder.

    Args:
        root: the state folder.
        start: program and arguments that supervisors and recoveries are started with; they are
            given a command as their last arguments, and end with it.
    """

    def __init__(self, root: Path, start: Sequence[str] = ()) -> None:
        self._root = root
        self._start_with = tuple(start)
        self._scanned: status.Cache = {}
        self._again: dict[tuple[str, str], float] = {}  # (verb, worker) → time.monotonic()
        self._children: list[subprocess.Popen[bytes]] = []

    def folder(self, worker: str) -> Path:
        """Return the folder of a worker, whether there is one or not."""
        return self._root / files.WORKERS / worker

    def look(self) -> list[WorkerStatus]:
        """Return the status of every worker."""
        self._children = [child for child in self._children if child.poll() is None]
        return [self.certain(found) for found in status.scan(self._root, self._scanned)]

    def certain(self, found: WorkerStatus) -> WorkerStatus:
        """Return a status as it may be told: never an end that is not certain."""
        begun = found.started_at is not None
        if found.result is None:
            if begun:
                return found
            self._begin_forgotten(found.id)
            return dataclasses.replace(found, state=State.QUEUED)
        if found.result.finished_at is not None:
            return found
        self._recover(found.id)
        state = State.WORKING if begun else State.QUEUED
        return dataclasses.replace(found, state=state, detail="recovering", result=None)

    def begin(self, folder: Path) -> None:
        """Start the supervisor of a worker that has not begun; another one may do so as well.

        Raises:
            OSError: it cannot be started.
        """
        if status.started(folder) or status.needs_recovery(folder):
            return
        self._again["run", folder.name] = time.monotonic() + AGAIN
        self._start(publish.command(folder))

    def _begin_forgotten(self, worker: str) -> None:
        """Start what was published long ago and has not begun: whoever was to do it is gone."""
        folder = self.folder(worker)
        try:
            age = time.time() - (folder / files.ORDER).lstat().st_mtime
        except FileNotFoundError:  # cleaned meanwhile
            return
        if age > AGAIN and self._is_due("run", worker):
            self._start(publish.command(folder))

    def _recover(self, worker: str) -> None:
        """Start the recovery of a vanished supervisor's worker, unless one is at it."""
        from outpost_worker.recovery import cleaning

        folder = self.folder(worker)
        with cleaning.locked(folder) as nobody_is_at_it:
            start = nobody_is_at_it and self._is_due("recover", worker)
        if start:
            self._start(publish.command(folder, "recover"))

    def _is_due(self, verb: str, worker: str) -> bool:
        """Whether a verb may be started for a worker; then not soon once more."""
        now = time.monotonic()
        due = now >= self._again.get((verb, worker), now)
        if due:
            self._again[verb, worker] = now + AGAIN
        return due

    def _start(self, argv: Sequence[str]) -> None:
        """Start what outlives this program: in a session of its own, with none of its pipes."""
        env = programs.own_env(os.environ)
        if asked := os.environ.get("OUTPOST_FAULT"):  # by tests, about where to crash
            env["OUTPOST_FAULT"] = asked
        null = subprocess.DEVNULL
        child = subprocess.Popen(
            [*self._start_with, *argv],
            env=env, cwd="/", stdin=null, stdout=null, stderr=null, start_new_session=True,
        )  # fmt: skip
        self._children.append(child)
