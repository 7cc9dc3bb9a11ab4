"""Bringing ended workers' work from an outpost into the rigs of this machine.

What is to come home was written down before the spawn (`notes.py`). Each step can be repeated, by
this program or another one, and a lock keeps two programs from doing it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from outpost_core import wire
from outpost_core.errors import NotFoundError, OutpostError
from outpost_core.names import owner_of
from outpost_core.types import Cleaned, Json, State, WorkerStatus
from outpost_exec.rigs.fetching import LOCKS, Fetching, tidy
from outpost_exec.rigs.localrig import GitError, LocalRig, RefRefusedError
from outpost_exec.rigs.notes import CLEANING, HOME, WAITING, Note, Notes, name_of
from outpost_shared import faults, private
from outpost_shared.backoff import Retries
from outpost_worker.hosting.outpost import WAITS
from outpost_worker.hosting.sentrefs import check_oid

if TYPE_CHECKING:
    from outpost_exec.stdio.remote import StdioOutpost

#: Workers whose work is brought home at once.
_AT_ONCE: Final = 4
#: Seconds that a list waits for what it brings home.
_PATIENCE: Final = 3.0
#: Seconds until what failed is tried again: at first, and at most.
_PAUSE_MIN, _PAUSE_MAX = 0.5, 30.0
#: Seconds between two looks for a checkpoint of a worker that is at work.
LIVE_EVERY: Final = 60.0
Work: TypeAlias = Coroutine[Any, Any, WorkerStatus | None]


class Retrieval:
    """What one outpost object brings home.

    Args:
        outpost: the outpost.
        folder: where this is kept.
        key: gives the name of the copy at the outpost for a path of this machine.
    """

    def __init__(self, outpost: StdioOutpost, folder: Path, key: Callable[[str], str]) -> None:
        self._outpost = outpost
        self._folder = folder
        self.notes = Notes(folder, outpost.only_worker)
        self._key = key
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[WorkerStatus | None]] = {}
        #: what failed, by name
        self._failed = Retries(_PAUSE_MIN, _PAUSE_MAX)
        self._fetching = Fetching(outpost, folder)

    # --- after a list ---------------------------------------------------------------------------

    async def bring(self, statuses: Sequence[WorkerStatus]) -> Sequence[WorkerStatus]:
        """Bring home what has ended; return the statuses with what came of it."""
        waiting, cleaning = self.notes.names(WAITING), self.notes.names(CLEANING)
        if not waiting and not cleaning:
            return statuses
        for name in self._tasks.keys() - {*waiting, *cleaning}:
            if self._tasks[name].done():
                del self._tasks[name]
        there = {name_of(status): status for status in statuses}
        begun = {}
        for name in waiting:
            status = there.get(name)
            if status is None:
                if self.notes.forget_old(name):
                    self._done(name)
            elif status.state.terminal or status.detail.startswith(WAITS):
                begun[name] = self._begin(name, self._home(name, status))
        for name in cleaning:
            if name not in there:
                begun[name] = self._begin(name, self._rescued(name))
        live = [name for name in waiting if name in there and name not in begun]
        looks = [
            self._begin(name, self._checkpoint(name))
            for name in live
            if self.notes.is_due(name, LIVE_EVERY)
        ]
        tasks = {task for task in (*begun.values(), *looks) if task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=_PATIENCE)
        return [self._shown(status, begun) for status in statuses] if begun else statuses

    async def spawned(self, status: WorkerStatus) -> WorkerStatus:
        """Return the answer to a spawn; what has ended already is brought home first."""
        name = name_of(status)
        if not status.state.terminal or self.notes.read(WAITING, name) is None:
            return status
        task = self._begin(name, self._home(name, status))
        if task is not None:
            await asyncio.wait({task}, timeout=_PATIENCE)
        return self._shown(status, {name: task})

    def _begin(self, name: str, work: Work) -> asyncio.Task[WorkerStatus | None] | None:
        task = self._tasks.get(name)
        busy = task is not None and not task.done()
        if busy or not self._failed.is_due(name):
            work.close()
            return task if busy else None
        task = self._tasks[name] = asyncio.create_task(self._guarded(name, work))
        return task

    async def _guarded(self, name: str, work: Work) -> WorkerStatus | None:
        try:
            async with self._slots:
                done = await work
        except (OutpostError, OSError) as error:
            self._failed.failed(
                name, error.message if isinstance(error, OutpostError) else str(error)
            )
            return None
        finally:
            work.close()
            self._fetching.progress.pop(name, None)
        self._failed.done(name)
        return done

    def _shown(
        self, status: WorkerStatus, begun: Mapping[str, asyncio.Task[WorkerStatus | None] | None]
    ) -> WorkerStatus:
        name = name_of(status)
        if name not in begun:
            return status
        task = self._tasks.get(name)
        if task is not None and task.done() and not task.cancelled():
            done: WorkerStatus | None = task.result()
            if done is not None:
                return done
        why = self._fetching.progress.get(name) or self._failed.why(name)
        detail = f"{WAITS}: {why}" if why else WAITS
        # law 3: what is not seen in the rig is not done, whatever is said of it
        return dataclasses.replace(status, state=State.WORKING, detail=detail, result=None)

    # --- one worker -----------------------------------------------------------------------------

    async def _home(self, name: str, status: WorkerStatus) -> WorkerStatus | None:
        """Bring one worker's work home; None when another program is at it."""
        with self._mine(name) as mine:
            note = self._note(WAITING, name) if mine else None
            if note is None:
                return status if mine and status.state.terminal else None
            rig, home = _rigs(note)
            if await _is_home(home, note, status):
                if status.result is not None and status.result.checkpoint is None:
                    await home.drop(note.ref, note.kept)
                self.notes.move(name, WAITING, HOME)
                self._done(name)
                return status
            told = await self._fetching.fetch(rig, note, {"worker": note.worker})
            branch, refused = None, None
            commit, checkpoint = told["commit"], told["checkpoint"]
            if commit:
                try:
                    branch = await home.push(
                        self._fetching.aside(name), commit, note.branches(commit, told["branch"])
                    )
                except RefRefusedError as error:
                    refused, checkpoint = error.message, commit
            if checkpoint:
                await home.keep(self._fetching.aside(name), checkpoint, note.ref, note.kept)
                if refused:
                    refused += f"; the work is kept in {note.ref}"
            if branch is not None and not await home.holds(branch, commit):
                raise GitError(f"{branch} in {home.path} was pushed and is not there")
            if not checkpoint:
                await home.drop(note.ref, note.kept)
            faults.point("rig.homed")
            asked: dict[str, Json] = {
                "worker": note.worker,
                "branch": branch,
                "commit": commit,
                "checkpoint": checkpoint,
                "refused": refused,
            }
            shown = wire.from_json(WorkerStatus, await self._outpost.call("x-rig-home", asked))
            await self._check_shown(home, note, status, shown)
            faults.point("rig.told")
            self.notes.move(name, WAITING, HOME)
            self._done(name)
            return _by_this_clock(_by_this_name(shown, note), status)

    async def _check_shown(
        self, rig: LocalRig, note: Note, status: WorkerStatus, shown: WorkerStatus
    ) -> None:
        if shown.id != note.worker or shown.digest != status.digest:
            raise OutpostError(f"{self._outpost.name} answered of another worker")
        if not await _is_home(rig, note, shown):
            raise OutpostError(f"{self._outpost.name} tells of other work than what came home")

    async def _checkpoint(self, name: str) -> None:
        """Fetch the last checkpoint of a worker that is at work: its machine may not come back."""
        with self._mine(name) as mine:
            note = self._note(WAITING, name) if mine else None
            if note is None or LocalRig.at(note.rig) is None:
                return
            rig, home = _rigs(note)
            ref = note.ref
            there = (await home.git("rev-parse", "--quiet", "--verify", ref)).text
            known = there if there in note.kept else None
            asked: dict[str, Json] = {"worker": note.worker, "live": True, "known": known}
            checkpoint = (await self._fetching.fetch(rig, note, asked))["checkpoint"]
            if checkpoint and checkpoint != known:
                self.notes.keep(note, checkpoint)
                await home.keep(self._fetching.aside(name), checkpoint, ref, note.kept)
            tidy(self._folder, name, locked=True)

    async def _rescued(self, name: str) -> None:
        """Fetch the checkpoint that cleaning a worker has left at the outpost."""
        with self._mine(name) as mine:
            note = self._note(CLEANING, name) if mine else None
            if note is None:
                return
            if LocalRig.at(note.rig) is not None:
                rig, home = _rigs(note)
                asked: dict[str, Json] = {
                    "worker": note.worker,
                    "key": self._key(note.rig),
                    "ref": note.ref,
                }
                told = await self._fetching.fetch(rig, note, asked)
                if told["checkpoint"]:
                    await home.keep(self._fetching.aside(name), told["checkpoint"], note.ref)
                    asked["checkpoint"] = told["checkpoint"]
                    await self._outpost.call("x-rig-home", asked)
            self.notes.forget(name, CLEANING)
            self._done(name)

    def _note(self, place: str, name: str) -> Note | None:
        """Return a note whose lock is held; what looking for one that is gone has made goes too."""
        note = self.notes.read(place, name)
        if note is None:
            self._done(name)
        return note

    def _done(self, name: str) -> None:
        """Remove what was needed; while its note is there, all programs meet at the same lock."""
        tidy(self._folder, name)

    @contextlib.contextmanager
    def _mine(self, name: str) -> Iterator[bool]:
        """Hold a worker's lock; False when another program is at it."""
        folder = self._folder / LOCKS
        private.make(str(folder))
        fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(fd)

    # --- around a clean -------------------------------------------------------------------------

    def cleaning(self, worker: str) -> None:
        """Note that a worker is being cleaned, so that a crash forgets nothing it rescued."""
        for name in self.notes.of(HOME, worker):
            self.notes.move(name, HOME, CLEANING)

    async def cleaned(self, worker: str, cleaned: Cleaned) -> Cleaned:
        """Fetch what a clean has rescued; a worker that was not removed is as before."""
        for name in self.notes.of(CLEANING, worker):
            if not cleaned.removed:
                self.notes.move(name, CLEANING, HOME)
            elif owner_of(cleaned.rescued, worker) is None:
                self.notes.forget(name, CLEANING)
            else:
                with contextlib.suppress(NotFoundError):
                    await self._guarded(name, self._rescued(name))
                if said := self._failed.why(name):
                    why = f"{cleaned.rescued} {WAITS}: {said}"
                    cleaned = dataclasses.replace(cleaned, detail=why)
        if cleaned.removed:
            for name in self.notes.of(WAITING, worker):  # it was forced
                self.notes.forget(name, WAITING)
        return cleaned

    async def close(self) -> None:
        """Break off what is under way."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def _rigs(note: Note) -> tuple[LocalRig, LocalRig]:
    """Return the repository that a worker began from, and the one that its work comes into.

    Raises:
        GitError: one of them is not there any more.
    """
    found = []
    for path in (note.rig, note.home or note.rig):
        rig = LocalRig.at(path)
        if rig is None:
            raise GitError(f"there is no repository at {path} any more")
        found.append(rig)
    return found[0], found[1]


async def _is_home(rig: LocalRig, note: Note, status: WorkerStatus) -> bool:
    """Whether an ended worker's work is seen in the rig, or there is none to be seen."""
    result = status.result
    if result is None or status.state is not result.state or not status.state.terminal:
        return False
    if result.commit is None:
        if result.state is State.DONE and result.reason != "nothing_to_commit":
            return False
        there = await rig.git("rev-parse", "--quiet", "--verify", note.ref)
        return owner_of(result.checkpoint, status.id) is None or not there.code
    # any commit of the rig is seen in it: what counts is the branch that was ordered
    return result.branch in note.branches(check_oid(result.commit), "") and await rig.holds(
        result.branch, result.commit
    )


def _by_this_name(shown: WorkerStatus, note: Note) -> WorkerStatus:
    """Name the ref that holds the work here: who ordered the same thing first named it there."""
    result = shown.result
    if result is None or owner_of(result.checkpoint, note.worker) is None:
        return shown
    return dataclasses.replace(shown, result=dataclasses.replace(result, checkpoint=note.ref))


def _by_this_clock(shown: WorkerStatus, status: WorkerStatus) -> WorkerStatus:
    """Shift the moments of an answer as those of a listed status were shifted."""
    if shown.started_at is None or status.started_at is None:
        return shown
    shift = status.started_at - shown.started_at
    if abs(shift) < 1e-3:
        return shown
    result = shown.result
    if result is not None:
        result = dataclasses.replace(
            result,
            started_at=None if result.started_at is None else result.started_at + shift,
            finished_at=None if result.finished_at is None else result.finished_at + shift,
        )
    return dataclasses.replace(
        shown,
        started_at=status.started_at,
        updated_at=None if shown.updated_at is None else shown.updated_at + shift,
        result=result,
    )
