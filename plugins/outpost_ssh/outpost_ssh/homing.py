"""Bringing ended workers' work from an outpost into the rigs of this machine.

What is to come home was written down before the spawn (`notes.py`). Each step can be repeated, by
this program or another one, and a lock keeps two programs from doing it at once.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from outpost_core import faults, wire
from outpost_core.errors import NotFoundError, OutpostError
from outpost_core.types import Cleaned, Json, State, WorkerStatus
from outpost_core.worker.workspace import checkpoint_ref
from outpost_ssh.far.hosting import WAITS
from outpost_ssh.far.snapshot import check_oid, private
from outpost_ssh.localrig import GitError, LocalRig, RefusedError
from outpost_ssh.notes import CLEANING, HOME, WAITING, Note, Notes, name_of

if TYPE_CHECKING:
    from outpost_core.stdio.remote import StdioOutpost

#: Workers whose work is brought home at once.
_AT_ONCE: Final = 4
#: Seconds that a list waits for what it brings home.
_PATIENCE: Final = 3.0
#: Seconds until what failed is tried again: at first, and at most.
_PAUSE_MIN, _PAUSE_MAX = 0.5, 30.0
#: Seconds between two looks for a checkpoint of a worker that is at work.
LIVE_EVERY: Final = 60.0
#: Chunks that are asked for at once.
_WINDOW: Final = 4
Work: TypeAlias = Coroutine[Any, Any, WorkerStatus | None]


class Homing:
    """What one outpost object brings home.

    Args:
        outpost: the outpost.
        folder: where this is kept.
        key: gives the name of the copy at the outpost for a path of this machine.
    """

    def __init__(self, outpost: StdioOutpost, folder: Path, key: Callable[[str], str]) -> None:
        self._outpost = outpost
        self._folder = folder
        self.notes = Notes(folder)
        self._key = key
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[WorkerStatus | None]] = {}
        #: name → when it may be tried again (monotonic), the pause before that, and why it failed
        self._failed: dict[str, tuple[float, float, str]] = {}
        self._progress: dict[str, str] = {}

    # --- after a list ---------------------------------------------------------------------------

    async def bring(self, statuses: Sequence[WorkerStatus]) -> Sequence[WorkerStatus]:
        """Bring home what has ended; return the statuses with what came of it."""
        waiting, cleaning = self.notes.names(WAITING), self.notes.names(CLEANING)
        if not waiting and not cleaning:
            return statuses
        there = {name_of(status): status for status in statuses}
        begun = {}
        for name in waiting:
            status = there.get(name)
            if status is None:
                self.notes.forget_old(name)
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

    def _begin(self, name: str, work: Work) -> asyncio.Task[WorkerStatus | None] | None:
        task = self._tasks.get(name)
        due, _, _ = self._failed.get(name, (0.0, 0.0, ""))
        busy = task is not None and not task.done()
        if busy or time.monotonic() < due:
            work.close()
            return task if busy else None
        task = self._tasks[name] = asyncio.create_task(self._guarded(name, work))
        return task

    async def _guarded(self, name: str, work: Work) -> WorkerStatus | None:
        try:
            async with self._slots:
                done = await work
        except (OutpostError, OSError) as error:
            why = error.message if isinstance(error, OutpostError) else str(error)
            _, pause, _ = self._failed.get(name, (0.0, _PAUSE_MIN / 2, ""))
            pause = min(pause * 2, _PAUSE_MAX)
            self._failed[name] = (time.monotonic() + pause, pause, why)
            return None
        finally:
            work.close()
            self._progress.pop(name, None)
        self._failed.pop(name, None)
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
        why = self._progress.get(name) or self._failed.get(name, (0.0, 0.0, ""))[2]
        detail = f"{WAITS}: {why}" if why else WAITS
        # law 3: what is not seen in the rig is not done, whatever is said of it
        return dataclasses.replace(status, state=State.WORKING, detail=detail, result=None)

    # --- one worker -----------------------------------------------------------------------------

    async def _home(self, name: str, status: WorkerStatus) -> WorkerStatus | None:
        """Bring one worker's work home; None when another program is at it."""
        with self._mine(name) as mine:
            note = self.notes.read(WAITING, name) if mine else None
            if note is None:
                return status if mine and status.state.terminal else None
            rig = LocalRig.at(note.rig)
            if rig is None:
                raise GitError(f"there is no repository at {note.rig} any more")
            if await _is_home(rig, status):
                if status.result is not None and status.result.checkpoint is None:
                    await rig.drop(checkpoint_ref(note.worker), note.kept)
                self.notes.move(name, WAITING, HOME)
                return status
            told = await self._fetched(rig, note, {"worker": note.worker})
            branch, refused = None, None
            commit, checkpoint = told["commit"], told["checkpoint"]
            if commit:
                try:
                    branch = await rig.push(
                        self._aside(name), commit, note.branches(commit, told["branch"])
                    )
                except RefusedError as error:
                    refused, checkpoint = error.message, commit
            if checkpoint:
                ref = checkpoint_ref(note.worker)
                await rig.keep(self._aside(name), checkpoint, ref, note.kept)
                if refused:
                    refused += f"; the work is kept in {checkpoint_ref(note.worker)}"
            if branch is not None and not await rig.holds(branch, commit):
                raise GitError(f"{branch} in {note.rig} was pushed and is not there")
            if not checkpoint:
                await rig.drop(checkpoint_ref(note.worker), note.kept)
            faults.point("rig.homed")
            asked: dict[str, Json] = {
                "worker": note.worker,
                "branch": branch,
                "commit": commit,
                "checkpoint": checkpoint,
                "refused": refused,
            }
            shown = wire.from_json(WorkerStatus, await self._outpost.call("x-rig-home", asked))
            if shown.id != note.worker or shown.digest != status.digest:
                raise OutpostError(f"{self._outpost.name} answered of another worker")
            faults.point("rig.told")
            self.notes.move(name, WAITING, HOME)
            self._tidy(name)
            return _by_this_clock(shown, status)

    async def _checkpoint(self, name: str) -> None:
        """Fetch the last checkpoint of a worker that is at work: its machine may not come back."""
        with self._mine(name) as mine:
            note = self.notes.read(WAITING, name) if mine else None
            rig = LocalRig.at(note.rig) if note else None
            if note is None or rig is None:
                return
            ref = checkpoint_ref(note.worker)
            there = (await rig.git("rev-parse", "--quiet", "--verify", ref)).text
            known = there if there in note.kept else None
            asked: dict[str, Json] = {"worker": note.worker, "live": True, "known": known}
            checkpoint = (await self._fetched(rig, note, asked))["checkpoint"]
            if checkpoint and checkpoint != known:
                self.notes.keep(note, checkpoint)
                await rig.keep(self._aside(name), checkpoint, ref, note.kept)
            self._tidy(name, ended=False)

    async def _rescued(self, name: str) -> None:
        """Fetch the checkpoint that cleaning a worker has left at the outpost."""
        with self._mine(name) as mine:
            note = self.notes.read(CLEANING, name) if mine else None
            rig = LocalRig.at(note.rig) if note else None
            if note is None:
                return
            if rig is not None:
                asked: dict[str, Json] = {"worker": note.worker, "key": self._key(note.rig)}
                told = await self._fetched(rig, note, asked)
                if told["checkpoint"]:
                    ref = checkpoint_ref(note.worker)
                    await rig.keep(self._aside(name), told["checkpoint"], ref)
            self.notes.forget(name, CLEANING)
            self._tidy(name)

    async def _fetched(self, rig: LocalRig, note: Note, asked: dict[str, Json]) -> dict[str, Any]:
        """Have what is asked for in a repository aside of the rig; return what it is.

        Only commits are taken over, by their hashes: no name and no ref from there counts.
        """
        for whole in (False, True):
            told = await self._outpost.call("x-rig-want", {**asked, "whole": whole})
            if not isinstance(told, dict):
                raise OutpostError(f"{self._outpost.name} answered nonsense")
            wanted = {
                name: check_oid(told[name]) if told.get(name) else None
                for name in ("commit", "checkpoint")
            }
            pack = await self._download(note, told)
            aside = self._aside(note.name)
            try:
                await rig.receive(aside, pack)
                for value in filter(None, wanted.values()):
                    await _check_whole(aside, value)
            except GitError:
                if whole:
                    raise
                continue  # what it builds on was removed here meanwhile
            finally:
                if pack is not None:
                    pack.unlink(missing_ok=True)
            faults.point("rig.fetched")
            return {**wanted, "branch": str(told.get("branch") or "")}
        raise AssertionError("not reached")

    async def _download(self, note: Note, told: Mapping[str, Any]) -> Path | None:
        """Return the file with the pack that was told of, whole."""
        digest, size = told.get("sha256"), told.get("size")
        if digest is None:
            return None
        if not (isinstance(digest, str) and type(size) is int and 0 <= size < 1 << 50):
            raise OutpostError(f"{self._outpost.name} answered nonsense")
        folder = self._folder / "incoming"
        private(folder)
        name = hashlib.sha256(digest.encode()).hexdigest()[:16]
        file = folder / f"{note.name}.{name}.pack"
        with file.open("ab") as out:
            if told.get("data"):
                out.truncate(0)
                out.write(_bytes(told["data"], size))
            there = out.tell()
            while there < size:
                self._progress[note.name] = f"{there >> 20} of {size >> 20} MiB"
                chunks = await asyncio.gather(
                    *(
                        self._chunk(note.worker, digest, there, part)
                        for part in range(_WINDOW)
                        if there + part * _CHUNK < size
                    )
                )
                for chunk in chunks:
                    if not chunk or there + len(chunk) > size:
                        raise OutpostError(f"{self._outpost.name} sent a pack of another size")
                    out.write(chunk)
                    there += len(chunk)
        with file.open("rb") as stream:
            got = await asyncio.to_thread(lambda: hashlib.file_digest(stream, "sha256").hexdigest())
        if got != digest:
            file.unlink()
            raise OutpostError("a pack did not arrive as it was told of", mend="it is tried again")
        return file

    async def _chunk(self, worker: str, digest: str, there: int, part: int) -> bytes:
        asked: dict[str, Json] = {
            "worker": worker,
            "sha256": digest,
            "offset": there + part * _CHUNK,
        }
        told = await self._outpost.call("x-rig-get", asked)
        return _bytes(told.get("data") if isinstance(told, dict) else None, _CHUNK)

    def _aside(self, name: str) -> Path:
        return self._folder / "incoming" / f"{name}.git"

    def _tidy(self, name: str, *, ended: bool = True) -> None:
        shutil.rmtree(self._aside(name), ignore_errors=True)
        for left in (self._folder / "incoming").glob(f"{name}.*.pack"):
            left.unlink(missing_ok=True)
        if ended:  # while its note is there, all programs have to meet at the same lock
            (self._folder / "locks" / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _mine(self, name: str) -> Iterator[bool]:
        """Hold a worker's lock; False when another program is at it."""
        folder = self._folder / "locks"
        private(folder)
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
            elif cleaned.rescued != checkpoint_ref(worker):
                self.notes.forget(name, CLEANING)
            else:
                with contextlib.suppress(NotFoundError):
                    await self._guarded(name, self._rescued(name))
                if name in self._failed:
                    why = f"{cleaned.rescued} {WAITS}: {self._failed[name][2]}"
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


#: Bytes of one chunk before base64, as the outpost cuts them.
_CHUNK: Final = 512 * 1024


async def _is_home(rig: LocalRig, status: WorkerStatus) -> bool:
    """Whether an ended worker's work is seen in the rig, or there is none to be seen."""
    result = status.result
    if result is None:
        return False
    if result.commit is None:
        ref = checkpoint_ref(status.id)
        there = await rig.git("rev-parse", "--quiet", "--verify", ref)
        return result.checkpoint != ref or not there.code
    return result.branch is not None and await rig.holds(result.branch, result.commit)


async def _check_whole(aside: Path, commit: str) -> None:
    """See that a commit is there with all that it needs."""
    from outpost_ssh.localrig import git

    kind = await git(aside, aside, "cat-file", "-t", commit)
    if kind.text != "commit":
        raise GitError(f"{commit} came without its commit")
    argv = ("rev-list", "--quiet", "--objects", commit, "--not", "--alternate-refs")
    done = await git(aside, aside, *argv)
    if done.code:
        raise GitError(f"{commit} came without what it needs: {done.words}")


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


def _bytes(text: object, most: int) -> bytes:
    try:
        data = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError):
        raise OutpostError("a chunk of a pack is not base64") from None
    if len(data) > most:
        raise OutpostError("a chunk of a pack is too long")
    return data
