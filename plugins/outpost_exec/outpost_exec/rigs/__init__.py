"""The near side of rigs that are paths of this machine: they go there, and the work comes back.

Before a spawn, `prepare` brings a copy of the repository at the outpost up to date and writes down
which rig the worker's work belongs to. After a list, `bring_home` fetches what has ended there and
brings it into the rig; only then does the outpost show such a worker as ended. In between, this
machine may be away for as long as it likes.

All of it goes through `StdioOutpost.call`, in frames of the control channel, whatever carries them;
`outpost_worker.hosting.methods` is the other half and says what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from outpost_core import wire
from outpost_core.errors import OutpostError, SpawnRefusedError, UnreachableError
from outpost_core.names import redact
from outpost_core.types import Cleaned, Json, Order, WorkerStatus
from outpost_exec.rigs.localrig import GitError, LocalRig, digest_of
from outpost_exec.rigs.retrieval import Retrieval
from outpost_shared import faults, private
from outpost_shared.backoff import every
from outpost_shared.progress import report
from outpost_worker.folder import files
from outpost_worker.hosting.sentrefs import SentRefs, check_oid, key_of, local_path

if TYPE_CHECKING:
    from outpost_exec.stdio.remote import StdioOutpost

#: Bytes of one chunk, and how many are under way at once.
CHUNK: Final = 512 * 1024
WINDOW: Final = 4
#: Seconds that a spawn waits for its repository; the upload then continues behind it.
PATIENCE: Final = 100.0
#: Seconds after which what is left of an upload is removed.
_STALE: Final = 7 * 86400.0
#: Bytes of a repository from which on its way is told, and seconds between two words of it.
_WORTH_SAYING: Final = 4 << 20
_REPORT_EVERY: Final = 0.5
#: Answers in which a copy's commits are told, many thousands in each; more never end.
_MOST_PAGES: Final = 256
#: Hashes in one answer; the far side tells fewer.
_MOST_HASHES: Final = 100_000
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


async def prepare(outpost: StdioOutpost, order: Order) -> None:
    """Bring an order's rig to the outpost, if it is a repository of this machine, before a spawn.

    Args:
        outpost: where it is to run.
        order: the order; one with another kind of rig is left alone.

    Raises:
        SpawnRefusedError: the repository cannot be brought there; nothing was spawned by this.
        UnreachableError: there is no answer; says `sent=False`, since no spawn was asked for.
    """
    await _of(outpost).prepare(order)


async def spawned(outpost: StdioOutpost, status: WorkerStatus) -> WorkerStatus:
    """Return the answer to a spawn; what has ended already is brought home first (law 3).

    Args:
        outpost: whose worker it is.
        status: what it answered.
    """
    return await _of(outpost).retrieval.spawned(status)


async def bring_home(
    outpost: StdioOutpost, statuses: Sequence[WorkerStatus]
) -> Sequence[WorkerStatus]:
    """Bring ended workers' work into the rigs here; return the statuses with what came of it.

    Work that takes longer continues behind; its worker is shown as waiting until then.

    Args:
        outpost: whose workers they are.
        statuses: what it listed.
    """
    return await _of(outpost).retrieval.bring(statuses)


async def before_clean(outpost: StdioOutpost, worker: str) -> None:
    """Write down that a worker is being cleaned: a rescue may leave a checkpoint to be fetched."""
    _of(outpost).retrieval.cleaning(worker)


async def after_clean(outpost: StdioOutpost, worker: str, cleaned: Cleaned) -> Cleaned:
    """Fetch what cleaning a worker has rescued there."""
    return await _of(outpost).retrieval.cleaned(worker, cleaned)


async def close(outpost: StdioOutpost) -> None:
    """Break off what is under way; it continues with the next program that asks."""
    mine = _ALL.pop(outpost, None)
    if mine is not None:
        await mine.close()


def controller_id(state_dir: Path) -> str:
    """Return the identity of this state folder, made at the first call; for the server's hello.

    Raises:
        OSError: it can be neither read nor written.
    """
    path = state_dir / "controller"
    for _ in range(2):
        with contextlib.suppress(OSError, ValueError):
            known = path.read_text("ascii").strip()
            if _ID.fullmatch(known):
                return known
        private.make(str(state_dir))
        staged = state_dir / f".controller.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            files.write(str(staged), secrets.token_hex(16).encode("ascii"), sync=True)
            if path.exists():  # there, and not readable as what it should be
                staged.replace(path)
            else:
                with contextlib.suppress(FileExistsError):
                    os.link(staged, path)
        finally:
            staged.unlink(missing_ok=True)
    return path.read_text("ascii").strip()


_ALL: WeakKeyDictionary[StdioOutpost, Rigs] = WeakKeyDictionary()


def _of(outpost: StdioOutpost) -> Rigs:
    if outpost not in _ALL:
        _ALL[outpost] = Rigs(outpost)
    return _ALL[outpost]


class Rigs:
    """What one outpost object does about rigs of this machine.

    Args:
        outpost: the outpost; it is not kept alive by this.
    """

    def __init__(self, outpost: StdioOutpost) -> None:
        from weakref import proxy

        self._outpost: StdioOutpost = proxy(outpost)
        self._folder = outpost.context.state_dir / "hosted"
        self._controller = ""
        self._pushers: dict[str, _Pusher] = {}
        self.retrieval = Retrieval(self._outpost, self._folder, self._key)

    def _key(self, path: str) -> str:
        self._controller = self._controller or controller_id(self._folder.parent)
        return key_of(self._controller, path)

    async def prepare(self, order: Order) -> None:
        """As `prepare` says."""
        path = local_path(order.rig)
        rig = LocalRig.at(path) if path is not None else None
        if order.delivery is None:
            return
        push = order.delivery.push_url
        home = local_path(push) if push else path
        self._check_ways(order, rig, home)
        if path is None or rig is None or home is None:
            return  # what is no repository here is taken for a path of that machine
        try:
            await self._prepare(order, path, rig, home)
        except UnreachableError as error:
            raise UnreachableError(error.message, hint=error.hint, sent=False) from error
        except SpawnRefusedError:
            # it may be there from an earlier try, whose answer was lost
            if not await self._outpost.call("x-rig-there", {"worker": order.worker}):
                raise

    def _check_ways(self, order: Order, rig: LocalRig | None, home: str | None) -> None:
        """Refuse work that would come from one machine and go to another's repository."""
        assert order.delivery is not None
        push = order.delivery.push_url
        here = home is not None and LocalRig.at(home) is not None
        if not push or (rig is not None) == here:
            return
        mine, theirs = (order.rig, push) if rig is not None else (push, order.rig)
        raise SpawnRefusedError(
            f"{mine} is a repository of this machine and {redact(str(theirs))} is none, so a worker"
            f" at {self._outpost.name} cannot take its work from one to the other",
            hint="--rig names one repository for both",
        )

    async def _prepare(self, order: Order, path: str, rig: LocalRig, home: str) -> None:
        try:
            self.retrieval.notes.write(order, wire.digest(order), path, home)
            faults.point("rig.noted")
            pusher = self._pushers.get(path)
            if pusher is None:
                pusher = _Pusher(self._outpost, rig, self._key(path), self._folder / "outgoing")
                self._pushers[path] = pusher
            await pusher.push(order.base)
            await pusher.large(order.base)
        except GitError as error:
            raise SpawnRefusedError(error.message, hint=error.hint) from error
        except OSError as error:
            why = f"{path} cannot be sent to {self._outpost.name}: {error.strerror or error}"
            raise SpawnRefusedError(why, hint="make room for a pack in the state folder") from error

    async def close(self) -> None:
        """Break off everything."""
        await asyncio.gather(
            self.retrieval.close(), *(pusher.close() for pusher in self._pushers.values())
        )


class _Pusher:
    """Keeps one copy at one outpost up to date.

    Many callers at once share a push; one that comes while a push is under way shares the next,
    which sees everything that was in the rig when it came.
    """

    def __init__(self, outpost: StdioOutpost, rig: LocalRig, key: str, folder: Path) -> None:
        self._outpost = outpost
        self._rig = rig
        self._key = key
        self._folder = folder
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
        async with _locked(self._folder / f"{self._key}.lock"):
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
        async with _locked(self._folder / f"{self._key}.lock"):
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
        """Return the file to upload: an earlier one that was not finished, or a new one."""
        about = hashlib.sha256("\n".join([digest, *have]).encode()).hexdigest()
        file = self._folder / f"{self._key}.{about[:16]}.pack"
        oldest = time.time() - _STALE
        for other in self._folder.glob("*.pack"):
            with contextlib.suppress(FileNotFoundError):
                if other != file and other.stat().st_mtime < oldest:
                    other.unlink()
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


@contextlib.asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Hold a lock against other programs; it falls with this one."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        async for _ in every(0.02).rounds():
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
        yield
    finally:
        os.close(fd)
