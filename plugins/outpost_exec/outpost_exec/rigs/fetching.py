"""Fetching a worker's commits from an outpost into a repository aside of the rig they are for.

What came is checked there, object by object, before anything of it gets near the rig.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import OutpostError
from outpost_core.types import Json
from outpost_exec.rigs.localrig import GitError, LocalRig, git
from outpost_exec.rigs.notes import Note
from outpost_shared import faults, private
from outpost_shared.protocol import data_of
from outpost_worker.hosting.sentrefs import check_oid

if TYPE_CHECKING:
    from outpost_exec.stdio.remote import StdioOutpost

#: Bytes of one chunk, as the outpost cuts them, and how many are asked for at once.
_CHUNK: Final = 512 * 1024
_WINDOW: Final = 4
#: Below the notes: packs and repositories aside; a lock for each note.
_INCOMING: Final = "incoming"
LOCKS: Final = "locks"
#: Bytes of this machine's disk that no download takes.
_SPARE: Final = 64 << 20


def _aside(folder: Path, name: str) -> Path:
    return folder / _INCOMING / f"{name}.git"


def tidy(folder: Path, name: str, *, locked: bool = False) -> None:
    """Remove what was fetched for a note, and its lock.

    Args:
        folder: where the notes are.
        name: of the note.
        locked: leave the lock: others may still have something to do with the note.
    """
    shutil.rmtree(_aside(folder, name), ignore_errors=True)
    for left in (folder / _INCOMING).glob(f"{name}.*.pack"):
        left.unlink(missing_ok=True)
    if not locked:
        (folder / LOCKS / name).unlink(missing_ok=True)


class Fetching:
    """What one outpost object fetches.

    Args:
        outpost: the outpost.
        folder: where the notes are; packs and repositories aside are in `incoming` there.
    """

    def __init__(self, outpost: StdioOutpost, folder: Path) -> None:
        self._outpost = outpost
        self._folder = folder
        #: How far a long download is, by the name of its note.
        self.progress: dict[str, str] = {}

    def aside(self, name: str) -> Path:
        """Return where the repository aside is for a note."""
        return _aside(self._folder, name)

    async def fetch(self, rig: LocalRig, note: Note, asked: dict[str, Json]) -> dict[str, Any]:
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
            aside = self.aside(note.name)
            try:
                await rig.receive(aside, pack)
                for value in filter(None, wanted.values()):
                    await _check_whole(aside, value)
                    await self._large(rig, aside, asked, value)
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

    async def _large(
        self, rig: LocalRig, aside: Path, asked: Mapping[str, Json], commit: str
    ) -> None:
        """Bring the objects of git-lfs that new commits name into the rig, before the commits."""
        from outpost_worker.repository.git import Git
        from outpost_worker.work import lfs

        wanted = await asyncio.to_thread(
            lfs.in_commits, Git(str(aside)), str(aside), commit, "--alternate-refs"
        )
        if not wanted:
            return
        storage = str(Path(await rig.must("rev-parse", "--git-common-dir")) / "lfs")
        for oid, size in wanted.items():
            if await asyncio.to_thread(lfs.is_whole, lfs.object_path(storage, oid), oid):
                continue
            self._check_room(aside, size)
            file = aside / f"{oid}.object"
            with file.open("wb") as out:
                async for chunk in self._chunks("x-rig-large", {**asked, "oid": oid}, 0, size):
                    out.write(chunk)
            if not await asyncio.to_thread(lfs.is_whole, str(file), oid):
                raise OutpostError(f"the object {oid} of git-lfs did not come whole")
            lfs.take_in(str(file), storage, oid)

    async def _download(self, note: Note, told: Mapping[str, Any]) -> Path | None:
        """Return the file with the pack that was told of, whole."""
        digest, size = told.get("sha256"), told.get("size")
        if digest is None:
            return None
        if not (isinstance(digest, str) and type(size) is int and 0 <= size < 1 << 50):
            raise OutpostError(f"{self._outpost.name} answered nonsense")
        folder = self._folder / _INCOMING
        private.make(str(folder))
        name = hashlib.sha256(digest.encode()).hexdigest()[:16]
        file = folder / f"{note.name}.{name}.pack"
        for other in folder.glob(f"{note.name}.*.pack"):
            if other != file:  # begun, and is another one by now
                other.unlink(missing_ok=True)
        with file.open("ab") as out:
            if told.get("data"):
                out.truncate(0)
                out.write(_data(told, size))
            there = out.tell()
            self._check_room(folder, size - there)
            asked: dict[str, Json] = {"worker": note.worker, "sha256": digest}
            async for chunk in self._chunks("x-rig-get", asked, there, size):
                self.progress[note.name] = f"{there >> 20} of {size >> 20} MiB"
                if there + len(chunk) > size:
                    raise OutpostError(f"{self._outpost.name} sent a pack of another size")
                out.write(chunk)
                there += len(chunk)
            if there != size:
                raise OutpostError(f"{self._outpost.name} sent a pack of another size")
        with file.open("rb") as stream:
            got = await asyncio.to_thread(lambda: hashlib.file_digest(stream, "sha256").hexdigest())
        if got != digest:
            file.unlink()
            raise OutpostError("a pack did not arrive as it was told of", hint="it is tried again")
        return file

    def _check_room(self, folder: Path, size: int) -> None:
        room = shutil.disk_usage(folder).free - _SPARE
        if size > max(room, 0) and size > _CHUNK:
            raise OutpostError(
                f"{size >> 20} MiB are to come from {self._outpost.name}, and there is room for"
                f" {max(room, 0) >> 20} MiB in {folder}",
                hint="make room there; it is tried again",
            )

    async def _chunks(
        self, method: str, asked: Mapping[str, Json], start: int, size: int
    ) -> AsyncIterator[bytes]:
        """Yield what the outpost has from an offset on, some chunks at once; ends where it ends."""
        while start < size:
            end = min(start + _WINDOW * _CHUNK, size)
            offsets = range(start, end, _CHUNK)
            requests = (self._chunk(method, {**asked, "offset": offset}) for offset in offsets)
            for chunk in await asyncio.gather(*requests):
                if not chunk:
                    return
                yield chunk
            start = end

    async def _chunk(self, method: str, asked: Mapping[str, Json]) -> bytes:
        told = await self._outpost.call(method, asked)
        return _data(told if isinstance(told, dict) else {}, _CHUNK)


async def _check_whole(aside: Path, commit: str) -> None:
    """See that a commit is there with all that it needs."""
    kind = await git(aside, aside, "cat-file", "-t", commit)
    if kind.text != "commit":
        raise GitError(f"{commit} came without its commit")
    argv = ("rev-list", "--quiet", "--objects", commit, "--not", "--alternate-refs")
    done = await git(aside, aside, *argv)
    if done.code:
        raise GitError(f"{commit} came without what it needs: {done.words}")


def _data(told: Mapping[str, Any], most: int) -> bytes:
    try:
        data = data_of(told)
    except ValueError:
        raise OutpostError("a chunk of a pack is neither bytes nor base64") from None
    if len(data) > most:
        raise OutpostError("a chunk of a pack is too long")
    return data
