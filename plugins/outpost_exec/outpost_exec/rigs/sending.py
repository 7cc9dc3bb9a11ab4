"""Sending a repository of this machine to an outpost: what its copy there lacks, in pieces."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import OutpostError, SpawnRefusedError, UnreachableError
from outpost_core.types import Json
from outpost_exec.rigs.localrig import LocalRig, digest_of
from outpost_shared import faults, private
from outpost_shared.backoff import every
from outpost_shared.progress import report
from outpost_worker.hosting.sentrefs import SentRefs, check_oid

if TYPE_CHECKING:
    from outpost_exec.stdio.remote import StdioOutpost

#: Bytes of one chunk, and how many are under way at once.
CHUNK: Final = 512 * 1024
WINDOW: Final = 4
#: Seconds that a spawn waits for its repository; the upload then continues behind it.
PATIENCE: Final = 100.0
#: Seconds after which what is left of an upload is removed.
_STALE: Final = 7 * 86400.0
#: Seconds for which a pack is kept that the machines of other workers need as well.
SHARED: Final = 3600.0
#: Bytes of a repository from which on its way is told, and seconds between two words of it.
_WORTH_SAYING: Final = 4 << 20
_REPORT_EVERY: Final = 0.5
#: Answers in which a copy's commits are told, many thousands in each; more never end.
_MOST_PAGES: Final = 256
#: Hashes in one answer; the far side tells fewer.
_MOST_HASHES: Final = 100_000


class Pusher:
    """Keeps one copy at one outpost up to date.

    Many callers at once share a push; one that comes while a push is under way shares the next,
    which sees everything that was in the rig when it came.
    """

    def __init__(self, outpost: StdioOutpost, rig: LocalRig, key: str, folder: Path) -> None:
        self._outpost = outpost
        self._rig = rig
        self._key = key
        self._folder = folder
        self._only = outpost.only_worker
        # of one copy; where each worker has a copy of its own, they do not wait for each other
        self._lock = folder / f"{'.'.join(filter(None, (key, self._only)))}.lock"
        self._extra: dict[str, str] = {}
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._sent = self._size = 0
        self._reported = 0.0

    async def push(self, base: str | None) -> None:
        """Return when the copy holds what the rig held at this call, and the base."""
        self._extra.update(await self._rig.beside(base))
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running))
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await asyncio.wait_for(asyncio.shield(self._next), PATIENCE)
        except TimeoutError:
            raise UnreachableError(
                f"{self._rig.path} is still on its way to {self._outpost.name}:"
                f" {self._sent >> 20} of {self._size >> 20} MiB are there",
                hint="spawn it again in a while: it continues where it is",
                sent=False,
            ) from None

    async def large(self, base: str | None) -> None:
        """Bring the objects of git-lfs there that the base's files name and that are here."""
        from outpost_worker.repository.git import Git
        from outpost_worker.work import lfs

        storage = self._rig.git_dir / "lfs"
        if not (storage / "objects").is_dir():
            return
        found = await self._rig.git("rev-parse", "--verify", f"{base or 'HEAD'}^{{commit}}")
        if found.code:
            return
        git_dir = str(self._rig.git_dir)
        wanted = await asyncio.to_thread(lfs.in_tree, Git(git_dir), str(self._folder), found.text)
        here = [oid for oid in wanted if os.path.isfile(lfs.object_path(str(storage), oid))]  # noqa: PTH113, ASYNC240 - one look
        async with _locked(self._lock):
            for oid in here:
                asked: dict[str, Json] = {"key": self._key, "oid": oid}
                if await self._outpost.call("x-rig-large-take", asked):
                    continue
                name = await self._upload(Path(lfs.object_path(str(storage), oid)))
                if name != oid or not await self._outpost.call("x-rig-large-take", asked):
                    raise SpawnRefusedError(
                        f"the object {oid} of git-lfs in {self._rig.path} did not arrive",
                        hint=f"git -C {self._rig.path} lfs fsck",
                    )

    async def close(self) -> None:
        """Break off what is under way; what was uploaded stays there for the next time."""
        tasks = [task for task in (self._next, self._running) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _after(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        self._running, self._next = self._next, None
        private.make(str(self._folder))
        async with _locked(self._lock):
            await self._push()

    async def _push(self) -> None:
        snapshot = await self._rig.snapshot(self._extra.items())
        digest = digest_of(snapshot)
        have: list[str] = []
        after: Json = None
        pages = 0
        deeper = False
        while True:
            answer = _answer(
                await self._outpost.call(
                    "x-rig-refs", {"key": self._key, "digest": digest, "after": after}
                )
            )
            if answer.get("same"):
                return
            have += _hashes(answer.get("tips"))
            # where history begins later there than here, what is there is not all that it needs
            deeper = deeper or not set(_hashes(answer.get("shallow"))) <= set(snapshot.shallow)
            after = str(answer.get("next") or "")[:64] or None
            if not after:
                break
            pages += 1
            if pages >= _MOST_PAGES:
                raise SpawnRefusedError(
                    f"{self._outpost.name} tells of commits without an end",
                    hint=f"outpost doctor {self._outpost.name}",
                )
        missing = ""
        have = [] if deeper else have
        for known in (have, []) if have else ([],):
            file = await self._packed(snapshot, digest, known)
            faults.point("rig.packed")
            name = await self._upload(file)
            faults.point("rig.uploaded")
            asked: dict[str, Json] = {"key": self._key, "sha256": name, "digest": digest}
            told = _answer(await self._outpost.call("x-rig-take", asked))
            if not self._only:
                file.unlink(missing_ok=True)
            missing = str(told.get("missing") or "")[:400]
            if not missing:
                faults.point("rig.taken")
                return
        raise SpawnRefusedError(
            f"{self._rig.path} cannot be kept at {self._outpost.name}: {missing}",
            hint=f"git -C {self._rig.path} fsck",
        )

    async def _packed(self, snapshot: SentRefs, digest: str, have: Sequence[str]) -> Path:
        """Return the file to upload: one of an earlier upload, or a new one.

        Where each worker has a machine of its own, all of them get the same file.
        """
        about = hashlib.sha256("\n".join([digest, *have]).encode()).hexdigest()
        file = self._folder / f"{self._key}.{about[:16]}.pack"
        making = _locked(self._folder / f"{self._key}.packing") if self._only else _unlocked()
        async with making:
            with contextlib.suppress(FileNotFoundError):
                os.utime(file)
            sweep(self._folder, SHARED if self._only else _STALE)
            if not file.exists():
                await self._rig.pack(snapshot, have, file)
        return file

    async def _upload(self, file: Path) -> str:
        with file.open("rb") as stream:
            name = await asyncio.to_thread(
                lambda: hashlib.file_digest(stream, "sha256").hexdigest()
            )
            self._size, self._sent = os.fstat(stream.fileno()).st_size, 0
            there = await self._put(stream.fileno(), name, 0, 0)
            while there < self._size:
                starts = range(there, min(there + WINDOW * CHUNK, self._size), CHUNK)
                ends = await asyncio.gather(
                    *(self._put(stream.fileno(), name, start, CHUNK) for start in starts)
                )
                if max(ends) <= there:
                    raise UnreachableError(
                        f"{self._outpost.name} does not take more of {self._rig.path}", sent=False
                    )
                self._sent = there = min(max(ends), self._size)
                self._report()
        return name

    def _report(self) -> None:
        """Say how much is there, on a send that takes long."""
        now = time.monotonic()
        if self._size >= _WORTH_SAYING and now - self._reported > _REPORT_EVERY:
            self._reported = now
            done, size = self._sent / 2**20, self._size / 2**20
            name = Path(self._rig.path).name
            report(f"sending {name}: {done:.0f} of {size:.0f} MiB")

    async def _put(self, fd: int, name: str, offset: int, count: int) -> int:
        data = await asyncio.to_thread(os.pread, fd, count, offset)
        asked: dict[str, Json | bytes] = {
            "key": self._key,
            "sha256": name,
            "size": self._size,
            "offset": offset,
            "data": data,
        }
        there = _answer(await self._outpost.call("x-rig-put", asked)).get("offset")
        if type(there) is not int or there < 0:
            raise UnreachableError(f"{self._outpost.name} answered nonsense to an upload")
        return there


def _hashes(value: object) -> list[str]:
    """Return hashes of objects that the outpost tells of; what is none goes to no git."""
    if not isinstance(value, list | tuple | None) or len(value or ()) > _MOST_HASHES:
        raise OutpostError("a list of hashes was expected from the outpost")
    return [check_oid(each) for each in value or ()]


def _answer(value: Json) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise OutpostError(f"an object was expected as the answer, not {json.dumps(value)[:80]}")


def sweep(folder: Path, unused: float = SHARED) -> None:
    """Remove packs that were not used for so many seconds, and locks that nobody waits for."""
    oldest = time.time() - unused
    for other in (*folder.glob("*.pack"), *folder.glob("*.lock")):
        with contextlib.suppress(FileNotFoundError):
            if other.stat().st_mtime < oldest:
                other.unlink()


@contextlib.asynccontextmanager
async def _unlocked() -> AsyncIterator[None]:
    """Hold no lock: the caller has one already that keeps others away."""
    yield


@contextlib.asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Hold a lock against other programs; it falls with this one."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.utime(fd)  # it is in use
        async for _ in every(0.02).rounds():
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
        yield
    finally:
        os.close(fd)
