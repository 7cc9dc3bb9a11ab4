"""The far side of rigs that are paths of the machine that orders.

Such a repository is kept here as a copy (`copies.py`); a worker works on the copy, and its
result is held back (`outpost.py`) until the near side has seen the work in its own repository.
All requests can be repeated: what is uploaded is named by its content and continues where it
stopped, and what was written once is found again.

Requests (each parameter is checked; the peer is trusted with nothing but its own repositories):

- `x-rig-refs {key, digest, after}` → `{same, tips, next, shallow}`: is the copy equal to that
  digest, and what does it hold;
- `x-rig-put {key, sha256, size, offset, data}` → `{offset}`: one chunk of an upload, and how much
  is there;
- `x-rig-take {key, sha256, digest}` → `{missing}`: let the copy become what was uploaded;
- `x-rig-there {worker}` → whether there is such a worker;
- `x-rig-want {worker, whole, key, ref, live, known}` → `{branch, commit, checkpoint, sha256, size,
  data}`: what is to be fetched of a worker;
- `x-rig-get {worker, sha256, offset}` → `{data}`: one chunk of that;
- `x-rig-large {worker, key, oid, offset}` → `{data}`: one chunk of an object of git-lfs;
- `x-rig-large-take {key, oid}` → whether the copy has that object now: uploads are taken in;
- `x-rig-home {worker, branch, commit, checkpoint, refused}` → the worker's status: it is fetched;
  with `key` and `ref` for one that is cleaned: its checkpoint is fetched.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from outpost_core import wire
from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    SpawnRefusedError,
    UsageError,
    WorkerError,
)
from outpost_core.names import check_branch, checkpoint_ref, owner_of, ref_of
from outpost_core.types import Json, split_worker_id
from outpost_shared import faults, private
from outpost_shared.backoff import every
from outpost_shared.protocol import data_of
from outpost_worker.folder import files, status
from outpost_worker.hosting.copies import Hosted, MissingError
from outpost_worker.hosting.expiry import INCOMING, OUTGOING, sweep_stale
from outpost_worker.hosting.outpost import Hosting, copy_of, note_home
from outpost_worker.hosting.sentrefs import check_oid, told
from outpost_worker.repository.hosted import HOSTED
from outpost_worker.serving.methods import Answer

#: Bytes of a chunk.
CHUNK: Final = 512 * 1024
#: Seconds that a chunk waits for those before it.
_IN_ORDER = 5.0
#: Bytes of disk that an upload leaves free.
_RESERVE = 64 << 20
#: Objects in one answer.
_PAGE = 8000
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


# --- the copy follows the repository ----------------------------------------------------------


async def refs(outpost: Hosting, params: Mapping[str, Json]) -> Json:
    """Say whether a copy is equal to what its owner has, and what it holds."""
    hosted = Hosted(outpost.root, params.get("key"))
    digest, after = told(params, "digest", str), str(params.get("after") or "")
    if await asyncio.to_thread(hosted.follows, str(digest)):
        return {"same": True, "tips": [], "next": None, "shallow": []}
    tips = [tip for tip in await asyncio.to_thread(hosted.tips) if tip > after]
    more = tips[_PAGE - 1] if len(tips) > _PAGE else None
    shallow: list[Json] = [] if after else [*hosted.shallow()]
    return {"same": False, "tips": [*tips[:_PAGE]], "next": more, "shallow": shallow}


async def put(outpost: Hosting, params: Mapping[str, Json]) -> Json:
    """Take one chunk of an upload; answers how much of it is there now."""
    file = _upload(outpost, params)
    size, offset = _count(params, "size"), _count(params, "offset")
    data = _data(params)
    if offset + len(data) > size:
        raise UsageError("a chunk goes beyond the end of its upload")
    there = 0
    async for _ in every(0.005, within=_IN_ORDER).rounds():
        there = await asyncio.to_thread(_append, outpost, file, offset, data, size)
        if there >= offset:
            break
    return {"offset": there}


def _append(outpost: Hosting, file: Path, offset: int, data: bytes, size: int) -> int:
    """Append a chunk where it is the next one; returns the size that there is."""
    import fcntl

    try:
        private.make(str(file.parent))
        fd = files.open_own(str(file), os.O_RDWR)
    except OSError as error:
        raise _no_room(file, error.strerror or str(error)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        there = os.fstat(fd).st_size
        if there == 0:
            sweep_stale(file.parent)
            # twice: the pack as it came, and in the copy
            free = shutil.disk_usage(file.parent).free - outpost.disk_floor
            if free < 2 * size + min(_RESERVE, size):
                file.unlink()
                raise _no_room(file, f"{2 * size} bytes are needed, {max(free, 0)} are free")
        if there == offset and data:
            try:
                os.lseek(fd, there, os.SEEK_SET)
                files.write_all(fd, data)
            except OSError as error:
                file.unlink()  # a full disk is of no use to anybody
                raise _no_room(file, error.strerror or str(error)) from error
            there += len(data)
        return there
    finally:
        os.close(fd)


def _no_room(file: Path, why: str) -> SpawnRefusedError:
    return SpawnRefusedError(
        f"the repository cannot be kept there: {file.parent}: {why}",
        hint="make room on that machine: outpost clean",
    )


async def take(outpost: Hosting, params: Mapping[str, Json]) -> Json:
    """Let a copy become what was uploaded; `missing` says on what it builds that is not there."""
    hosted, file = Hosted(outpost.root, params.get("key")), _upload(outpost, params)
    digest = str(told(params, "digest", str))
    try:
        await asyncio.to_thread(_take, hosted, file, digest)
    except MissingError as error:
        return {"missing": error.message}
    return {"missing": None}


def _take(hosted: Hosted, file: Path, wanted: str) -> None:
    try:
        with _open(file) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            head = hashlib.sha256(stream.readline()).hexdigest()
    except FileNotFoundError:
        if hosted.digest == wanted:
            return  # taken before, and the answer was lost
        raise MissingError("it was not uploaded", reason="workspace_failed") from None
    if digest != file.name.rpartition(".")[2]:
        file.unlink(missing_ok=True)
        raise MissingError("it did not arrive as it was sent", reason="workspace_failed")
    try:
        if hosted.digest != head:
            hosted.take(file)
    finally:
        file.unlink(missing_ok=True)


def _upload(outpost: Hosting, params: Mapping[str, Json]) -> Path:
    hosted, digest = Hosted(outpost.root, params.get("key")), params.get("sha256")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise UsageError(f"{ascii(digest)[:80]} is not a SHA-256")
    return outpost.root / HOSTED / INCOMING / f"{hosted.key}.{digest}"


async def there(outpost: Hosting, params: Mapping[str, Json]) -> Json:
    """Say whether there is a worker of that id, so that its spawn is not refused any more."""
    try:
        return (await asyncio.to_thread(outpost.folder_of, _worker(params))).is_dir()
    except NotFoundError:
        return False


# --- the work goes home -----------------------------------------------------------------------


async def want(outpost: Hosting, params: Mapping[str, Json]) -> Answer:
    """Say what is to be fetched of a worker; a small pack comes along at once.

    With `key`, the worker may be cleaned already: then it is what its checkpoint there holds. With
    `live` it is the last checkpoint of one that has not ended, unless that is `known`.
    """
    return await asyncio.to_thread(_want, outpost, _worker(params), params)


def _want(outpost: Hosting, worker: str, params: Mapping[str, Json]) -> Answer:
    key, whole = params.get("key"), bool(params.get("whole"))
    branch = commit = checkpoint = None
    try:
        folder = outpost.folder_of(worker)
    except NotFoundError:
        if key is None:
            raise
        hosted = Hosted(outpost.root, key)
        checkpoint = hosted.refs().get(_ref(worker, params))
    else:
        ref = _own_ref(folder)
        hosted = _hosted_of(outpost, folder)
        result = status.read(folder).result
        ended = result is not None and result.finished_at is not None
        if ended == bool(params.get("live")):
            raise UsageError(f"{worker} has {'ended' if ended else 'not ended yet'}")
        if result is not None and ended:
            branch, commit = result.branch, result.commit
        if not ended or (result is not None and result.checkpoint == ref):
            checkpoint = hosted.refs().get(ref)
    answer: dict[str, Json | bytes] = {"branch": branch, "commit": commit, "checkpoint": checkpoint}
    wanted = [value for value in (commit, checkpoint) if value and value != params.get("known")]
    if not wanted:
        return {**answer, "sha256": None, "size": 0, "data": b""}
    place = _outgoing(outpost, worker)
    asked: dict[str, Json] = {
        "branch": branch, "commit": commit, "checkpoint": checkpoint, "whole": whole
    }  # fmt: skip
    made = files.load(str(place), "about.json")
    if made is None or made.get("asked") != asked or not _is_packed(place, made):
        made = _pack(hosted, place, wanted, asked)
    answer |= {"sha256": made["sha256"], "size": made["size"], "data": b""}
    if made["size"] <= CHUNK:
        with _open(place / made["sha256"]) as stream:
            answer["data"] = stream.read(CHUNK)
    return answer


def _is_packed(place: Path, made: Mapping[str, Any]) -> bool:
    """Whether a pack is there as its note says; an agent of this machine may have written that."""
    digest, size = made.get("sha256"), made.get("size")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest) or type(size) is not int:
        return False
    try:
        with _open(place / digest) as stream:
            return os.fstat(stream.fileno()).st_size == size
    except OSError:
        return False


def _open(file: Path) -> BufferedReader:
    """Open a plain file of ours; raises OSError for a link, a FIFO and the like."""
    return os.fdopen(files.open_plain(str(file)), "rb")


def _pack(
    hosted: Hosted, place: Path, wanted: list[str], asked: Mapping[str, Json]
) -> dict[str, Any]:
    private.make(str(place.parent))
    sweep_stale(place.parent)
    private.make(str(place))
    staged = place / f".{os.getpid()}.{os.urandom(4).hex()}"
    try:
        hosted.pack(wanted, staged, whole=bool(asked["whole"]))
        with staged.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        about = {"asked": dict(asked), "sha256": digest, "size": staged.stat().st_size}
        staged.rename(place / digest)
        files.store(str(place), "about.json", about)
    except OSError as error:
        why = f"the work cannot be packed: {error.strerror or error}"
        raise WorkerError(why, reason="disk_full") from error
    finally:
        staged.unlink(missing_ok=True)
    return about


async def get(outpost: Hosting, params: Mapping[str, Json]) -> Answer:
    """Return one chunk of what `want` told."""
    digest, offset = params.get("sha256"), _count(params, "offset")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise UsageError(f"{ascii(digest)[:80]} is not a SHA-256")
    file = _outgoing(outpost, _worker(params)) / digest
    try:
        data = await asyncio.to_thread(_read, file, offset)
    except FileNotFoundError:
        raise NotFoundError("that pack is gone", hint="ask for it anew") from None
    return {"data": data}


async def large(outpost: Hosting, params: Mapping[str, Json]) -> Answer:
    """Return one chunk of an object of git-lfs that a worker brought into the copy."""
    from outpost_worker.work import lfs

    oid, offset = params.get("oid"), _count(params, "offset")
    if not isinstance(oid, str) or not _SHA256.fullmatch(oid):
        raise UsageError(f"{ascii(oid)[:80]} is not a SHA-256")
    key = params.get("key")
    if key is None:
        hosted = _hosted_of(outpost, outpost.folder_of(_worker(params)))
    else:
        hosted = Hosted(outpost.root, key)
    file = Path(lfs.object_path(str(hosted.path / "lfs"), oid))
    try:
        data = await asyncio.to_thread(_read, file, offset)
    except FileNotFoundError:
        raise NotFoundError(f"the object {oid} of git-lfs is not there") from None
    return {"data": data}


async def large_take(outpost: Hosting, params: Mapping[str, Json]) -> Json:
    """Let a copy have an object of git-lfs that was uploaded; says whether it has it."""
    file = _upload(outpost, {**params, "sha256": params.get("oid")})
    hosted = Hosted(outpost.root, params.get("key"))
    return await asyncio.to_thread(_large_take, hosted, file, str(params["oid"]))


def _large_take(hosted: Hosted, file: Path, oid: str) -> bool:
    from outpost_worker.work import lfs

    storage = str(hosted.path / "lfs")
    if hosted.exists and not Path(lfs.object_path(storage, oid)).exists():
        if not lfs.is_whole(str(file), oid):
            return False
        lfs.take_in(str(file), storage, oid)
        file.unlink(missing_ok=True)
    return hosted.exists


def _read(file: Path, offset: int) -> bytes:
    with _open(file) as stream:
        os.utime(file.parent)  # it is in use
        return os.pread(stream.fileno(), CHUNK, offset)


async def home(outpost: Hosting, params: Mapping[str, Json]) -> Json:
    """Take it down that a worker's work is in the repository at home; show how it ended."""
    return await asyncio.to_thread(_home, outpost, params)


def _home(outpost: Hosting, params: Mapping[str, Json]) -> Json:
    worker = _worker(params)
    try:
        folder = outpost.folder_of(worker)
    except NotFoundError:
        if params.get("key") is None:
            raise
        hosted = Hosted(outpost.root, params["key"])
        if hosted.exists:
            hosted.learn({_ref(worker, params): check_oid(params.get("checkpoint"))})
        return None
    result = status.read(folder).result
    hosted = _hosted_of(outpost, folder)
    if result is None or result.finished_at is None:
        raise UsageError(f"{worker} has not ended yet")
    branch, commit, refused = (params.get(name) for name in ("branch", "commit", "refused"))
    checkpoint = params.get("checkpoint")
    if commit != result.commit:
        raise ConflictError(f"{worker} ended with another commit than {ascii(commit)[:80]}")
    if (branch is None) != (result.branch is None or bool(refused)):
        raise UsageError("a branch is to be told exactly where there is one")
    if branch is not None:
        check_branch(str(branch))
    came_home = {f"refs/heads/{result.branch}": result.commit} if result.commit else {}
    ref = _own_ref(folder)
    if checkpoint is not None:
        came_home[ref] = check_oid(checkpoint)
    hosted.learn(came_home)
    about = {
        "branch": branch,
        "commit": commit,
        "checkpoint": ref if checkpoint else None,
        "refused": str(refused)[:900] if refused else None,
        "at": time.time(),
    }
    note_home(folder, about)
    faults.point("hosted.home")
    shutil.rmtree(_outgoing(outpost, worker), ignore_errors=True)
    return wire.to_json(outpost.show(worker))


def _hosted_of(outpost: Hosting, folder: Path) -> Hosted:
    copy = copy_of(folder)
    if copy is None:
        raise UsageError(f"the rig of {folder.name} is no copy of another machine's")
    return Hosted(outpost.root, copy.name.removesuffix(".git"))


def _own_ref(folder: Path) -> str:
    """Return the ref under which a worker of this machine keeps its unpushed work."""
    order = files.order(str(folder))
    return checkpoint_ref(folder.name) if order is None else ref_of(order)


def _ref(worker: str, params: Mapping[str, Json]) -> str:
    """Return the ref of a worker that was cleaned, as the near side knows it."""
    ref = params.get("ref") or checkpoint_ref(worker)
    if not isinstance(ref, str) or owner_of(ref, worker) is None:
        raise UsageError(f"{ascii(ref)[:80]} is no ref of {worker}")
    return ref


def _outgoing(outpost: Hosting, worker: str) -> Path:
    return outpost.root / HOSTED / OUTGOING / worker


def _worker(params: Mapping[str, Json]) -> str:
    worker = str(told(params, "worker", str))
    split_worker_id(worker)
    return worker


def _count(params: Mapping[str, Json], name: str) -> int:
    value = told(params, name, int)
    assert isinstance(value, int)
    if value < 0:
        raise UsageError(f"{name} is negative")
    return value


def _data(params: Mapping[str, Json]) -> bytes:
    try:
        return data_of({"data": "", **params})
    except ValueError:
        raise UsageError("a chunk is neither bytes nor base64") from None


#: Further methods of the far server.
METHODS: Final[Mapping[str, Callable[[Any, Mapping[str, Json]], Awaitable[Answer]]]] = {
    "x-rig-refs": refs,
    "x-rig-put": put,
    "x-rig-take": take,
    "x-rig-there": there,
    "x-rig-want": want,
    "x-rig-get": get,
    "x-rig-large": large,
    "x-rig-large-take": large_take,
    "x-rig-home": home,
}
