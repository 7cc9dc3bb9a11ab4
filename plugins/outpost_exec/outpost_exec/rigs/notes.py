"""What is to come home: one file for each worker whose rig is a repository of this machine.

`<state>/hosted/<place>/<worker>.<beginning of the digest>.json` is written before the spawn. It
says the rig and the branch: what the outpost says decides neither.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from outpost_core.errors import OutpostError, UsageError
from outpost_core.names import check_branch, checkpoint_ref, owner_of
from outpost_core.types import Order, WorkerStatus
from outpost_shared import private
from outpost_worker.folder import files
from outpost_worker.hosting.sentrefs import check_oid

#: Places of notes: not home yet; home, and not cleaned yet; being cleaned.
WAITING: Final = "waiting"
HOME: Final = "home"
CLEANING: Final = "cleaning"
#: Seconds after which a note is forgotten whose worker the outpost does not have.
_STALE: Final = 86400.0


@dataclass(frozen=True, kw_only=True)
class Note:
    """What is to come home.

    Args:
        name: `<worker>.<digest>`, its beginning.
        worker: the worker's id.
        rig: path of the repository.
        branch: the branch that was ordered.
        attempt: number of the attempt.
        home: path of the repository that the work comes into; "" for the rig itself.
        kept: checkpoints of the worker that have come home while it was at work.
        ref: where its unpushed work goes in the rig.
    """

    name: str
    worker: str
    rig: str
    branch: str
    attempt: int
    home: str = ""
    kept: tuple[str, ...] = ()
    ref: str

    def branches(self, commit: str, told: str) -> list[str]:
        """Return where a commit may go: first where the outpost has put it, if that may be."""
        beside = f"{self.branch}-{self.attempt}"
        names = [self.branch, beside, f"{beside}-{commit[:8]}"]
        return names[names.index(told) :] if told in names else names


def name_of(status: WorkerStatus) -> str:
    """Return the name of a worker's note."""
    return f"{status.id}.{status.digest[:16]}"


def _note(name: str, told: Mapping[str, Any]) -> Note:
    """Return the note that a file holds; raises many kinds of errors for one that is none."""
    worker, rig, home, attempt = told["worker"], told["rig"], told.get("home", ""), told["attempt"]
    ref = told.get("ref") or checkpoint_ref(worker)  # 0.1 wrote none
    if worker != name.rpartition(".")[0] or owner_of(ref, worker) is None:
        raise ValueError("it is another worker's")
    if not rig.startswith("/") or home[:1] not in ("", "/") or type(attempt) is not int:
        raise ValueError("its repository or its attempt")
    return Note(
        name=name,
        worker=worker,
        rig=rig,
        branch=check_branch(told["branch"]),
        attempt=attempt,
        home=home,
        kept=tuple(check_oid(each) for each in told.get("kept", ())),
        ref=ref,
    )


class Notes:
    """The notes of one outpost.

    Args:
        folder: where they are.
        only: id of the only worker whose notes are seen; "" for all. Where each worker has a
            machine of its own, none of them knows what the notes of the others mean.
    """

    def __init__(self, folder: Path, only: str = "") -> None:
        self._folder = folder
        self._only = only

    def _path(self, place: str, name: str) -> Path:
        return self._folder / place / f"{name}.json"

    def write(self, order: Order, digest: str, path: str, home: str) -> None:
        """Write down, before a spawn, which rig the work belongs to; an older note stays.

        Raises:
            UsageError: what is ordered cannot be a branch.
            OSError: it cannot be written.
        """
        assert order.delivery is not None
        name = f"{order.worker}.{digest[:16]}"
        self.move(name, HOME, WAITING)  # spawned again, perhaps since it is not there any more
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._path(WAITING, name))
            return
        about = {
            "worker": order.worker,
            "rig": path,
            "branch": check_branch(order.delivery.branch),
            "attempt": order.attempt,
            "home": "" if home == path else home,
            "ref": checkpoint_ref(order.worker, order.owner),
        }
        folder = self._folder / WAITING
        private.make(str(folder))
        files.store(str(folder), f"{name}.json", about, sync=True)
        files.sync_folder(str(folder))

    def names(self, place: str) -> list[str]:
        """Return the names of the notes in a place."""
        try:
            found = os.listdir(self._folder / place)  # noqa: PTH208 - names are all that is needed
        except FileNotFoundError:
            return []
        names = [name[:-5] for name in found if name.endswith(".json") and name[0] != "."]
        return [name for name in names if self._only in ("", name.rpartition(".")[0])]

    def of(self, place: str, worker: str) -> list[str]:
        """Return the names of a worker's notes in a place."""
        return [name for name in self.names(place) if name.rpartition(".")[0] == worker]

    def read(self, place: str, name: str) -> Note | None:
        """Return a note; None when it is not there (any more).

        Raises:
            OutpostError: it cannot be read, or says what no note does. What it says decides which
                branch of which repository is moved.
        """
        try:
            told = files.examine(str(self._folder / place), f"{name}.json")
            return None if told is None else _note(name, told)
        except (
            files.Broken,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            UsageError,
        ) as error:
            raise OutpostError(
                f"the note on where the work of {name} goes cannot be read: {error}",
                hint=f"look at it: {self._path(place, name)}; without it, the work stays there",
            ) from error

    def keep(self, note: Note, checkpoint: str) -> None:
        """Write down, before it comes in, that a checkpoint is the worker's.

        Raises:
            OSError: it cannot be written.
        """
        told = files.load(str(self._folder / WAITING), f"{note.name}.json") or {}
        about = {**told, "kept": [*note.kept[-9:], checkpoint]}
        files.store(str(self._folder / WAITING), f"{note.name}.json", about, sync=True)

    def move(self, name: str, before: str, after: str) -> None:
        """Move a note, unless another program did."""
        if self._path(before, name).exists():
            private.make(str(self._folder / after))
            with contextlib.suppress(FileNotFoundError):
                self._path(before, name).rename(self._path(after, name))

    def forget(self, name: str, place: str) -> None:
        """Remove a note."""
        self._path(place, name).unlink(missing_ok=True)

    def forget_old(self, name: str) -> bool:
        """Forget a note whose spawn never came to be; a repeated spawn would write it anew.

        Returns:
            Whether it was old enough, and is gone.
        """
        with contextlib.suppress(FileNotFoundError):
            if time.time() - self._path(WAITING, name).stat().st_mtime <= _STALE:
                return False
            self.forget(name, WAITING)
        return True

    def is_due(self, name: str, every: float) -> bool:
        """Whether a waiting worker was not looked at for some seconds; then it is now."""
        path = self._path(WAITING, name)
        try:
            due = time.time() - path.stat().st_mtime > every
            if due:
                os.utime(path)
        except FileNotFoundError:
            return False
        return due
