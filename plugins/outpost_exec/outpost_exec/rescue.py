"""Work that no remote took, brought here from a machine that goes away.

Files hold it over there: a bundle of commits, the objects of git-lfs that those need, archives of
what no commit holds. They come in pieces over the control channel, into a folder of their own, and
count once they have been read here; killed in between, the next program goes on where this one
stopped. Where they are then, the result says: in `<state>/rescued/`.

What the other machine is asked: `x-bundle {worker}` → `{files: [{name, size, path}]}`, and
`x-bundle {worker, name, offset}` → `{data}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import filecmp
import hashlib
import json
import os
import shutil
import tarfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from outpost_core.errors import UnreachableError
from outpost_core.types import Json, Order, Result
from outpost_exec import received
from outpost_shared import border, faults, private
from outpost_shared.protocol import data_of
from outpost_worker.folder import files
from outpost_worker.repository import bundles
from outpost_worker.work import lfs

if TYPE_CHECKING:
    from outpost_exec.stdio.remote import StdioOutpost

#: Bytes of all files of one worker that are taken, and how many files.
_MOST: Final = 16 << 30
_FILES: Final = 10_000
#: Bytes of this machine's disk that are left free.
_SPARE: Final = 64 << 20
#: Bytes of one piece, as the other machine cuts them, and how many are asked for at once.
_PIECE: Final = 512 * 1024
_WINDOW: Final = 4
#: In the state folder: what has not come whole yet, and seconds after which nobody goes on with it.
_STAGING: Final = "incoming"
_STALE: Final = 7 * 86400.0
_BUNDLE: Final = ".bundle"


class _File(NamedTuple):
    """One file: its name, its size, and where it is over there."""

    name: str
    size: int
    path: str


async def fetch(
    outpost: StdioOutpost, order: Order, result: Result, state_dir: Path, *, source: str
) -> Result:
    """Bring the files with a worker's work here that no remote took.

    Args:
        outpost: where they are.
        order: of the worker, which has ended; its rig is asked for what a bundle builds on.
        result: how it ended, with paths of that machine.
        state_dir: where they are kept.
        source: what tells that machine from an earlier one of the same worker.

    Returns:
        The result with paths of this machine, and with what is to be said of what did not come.

    Raises:
        UnreachableError: not all of it has come, or another program is at it; the next call goes on
            from there.
    """
    worker = order.worker
    found = _files(await outpost.call("x-bundle", {"worker": worker}), worker)
    if not found:
        return _told(result, {}, "")
    folder = _staging(state_dir, json.dumps([worker, source, found]))
    try:
        _sweep(folder.parent)
        private.make(str(folder))
        with _alone(folder, worker):
            await _bring(outpost, worker, found, folder)
            faults.point("rescue.fetched")
            kept, doubt = await asyncio.to_thread(_keep, order, found, folder, state_dir)
            faults.point("rescue.kept")
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise UnreachableError(
            f"the work of {worker} cannot be kept here: {error.strerror or error}",
            hint=f"make room in {state_dir}; it is tried again",
        ) from error
    return _told(result, kept, doubt)


def _files(told: Json, worker: str) -> list[_File]:
    """Return the files that a machine tells of."""
    items = told.get("files") if isinstance(told, dict) else None
    if not isinstance(items, list) or len(items) > _FILES:
        raise UnreachableError(f"the machine of {worker} tells of its work in an odd way")
    found = []
    for item in items:
        about = item if isinstance(item, dict) else {}
        name, size, path = about.get("name"), about.get("size"), about.get("path", "")
        if not (isinstance(name, str) and _is_inside(name) and type(size) is int and size >= 0):
            raise UnreachableError(f"the machine of {worker} tells of an odd file with its work")
        found.append(_File(name, size, path if isinstance(path, str) else ""))
    whole = sum(each.size for each in found)
    if whole > _MOST or len({each.name for each in found}) < len(found):
        raise UnreachableError(
            f"the work of {worker} has {whole >> 20} MiB in {len(found)} files, more than is taken"
        )
    return found


def _is_inside(name: str) -> bool:
    """Whether a name leads to a file below the folder that it is put in."""
    parts = name.split("/")
    return (
        len(name) <= 400
        and name.isprintable()
        and len(parts) <= 8
        and not any(part.startswith(".") or not part for part in parts)
    )


def _staging(state: Path, about: str) -> Path:
    """Return where files come together; the same for the same files."""
    return state.absolute() / _STAGING / hashlib.sha256(about.encode()).hexdigest()[:32]


def _sweep(staging: Path) -> None:
    """Remove what came of machines that are gone."""
    oldest = time.time() - _STALE
    for folder in staging.iterdir() if staging.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            if folder.lstat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _alone(folder: Path, worker: str) -> Iterator[None]:
    """Keep other programs away from what is being fetched."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not folder.exists():
            raise BlockingIOError  # whoever was at it has just finished
        yield
    except BlockingIOError:
        raise UnreachableError(f"another program fetches the work of {worker}") from None
    finally:
        os.close(fd)


# --- coming -----------------------------------------------------------------------------------


async def _bring(outpost: StdioOutpost, worker: str, found: list[_File], folder: Path) -> None:
    missing = sum(each.size for each in found) - sum(_size(folder / each.name) for each in found)
    room = shutil.disk_usage(folder).free - _SPARE
    if missing > max(room, 0) and missing > _PIECE:
        raise UnreachableError(
            f"{missing >> 20} MiB with the work of {worker} are to come, and there is room for"
            f" {max(room, 0) >> 20} MiB in {folder.parent}",
            hint="make room there; it is tried again",
        )
    for each in found:
        path = folder / each.name
        private.make(str(path.parent))
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        try:
            there = os.fstat(fd).st_size
            if there > each.size:
                os.ftruncate(fd, 0)
                there = 0
            if there < each.size:
                os.lseek(fd, there, os.SEEK_SET)
                async for data in _pieces(outpost, worker, each, there):
                    files.write_all(fd, data)
                await asyncio.to_thread(os.fsync, fd)
        finally:
            os.close(fd)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


async def _pieces(
    outpost: StdioOutpost, worker: str, file: _File, start: int
) -> AsyncIterator[bytes]:
    """Yield the bytes of a file from an offset on, some pieces at once."""
    while start < file.size:
        offsets = range(start, min(start + _WINDOW * _PIECE, file.size), _PIECE)
        asked = (_piece(outpost, worker, file, offset) for offset in offsets)
        for offset, data in zip(offsets, await asyncio.gather(*asked), strict=True):
            if offset != start:
                break  # the one before was shorter
            if not data or start + len(data) > file.size:
                raise UnreachableError(f"{file.name} of {worker} is not as it was told of")
            yield data
            start += len(data)


async def _piece(outpost: StdioOutpost, worker: str, file: _File, offset: int) -> bytes:
    asked: dict[str, Json] = {"worker": worker, "name": file.name, "offset": offset}
    told = await outpost.call("x-bundle", asked)
    try:
        return data_of(told if isinstance(told, dict) else {})
    except ValueError:
        raise UnreachableError(f"the machine of {worker} answered nonsense") from None


# --- what has come ----------------------------------------------------------------------------


def _keep(
    order: Order, found: list[_File], folder: Path, state: Path
) -> tuple[dict[str, str], str]:
    """Look at what has come, and put it where it stays.

    Returns:
        The place here of each path over there; and what is to be said besides.
    """
    rescued = state.absolute() / bundles.RESCUED
    private.make(str(rescued))
    said = [_broken(each, folder) for each in found]
    kept: dict[str, str] = {}
    for each in found:
        if "/" in each.name or not (folder / each.name).exists():
            continue
        if not each.name.endswith(_BUNDLE):
            kept[each.path or each.name] = _keep_archive(folder / each.name, rescued, order)
            continue
        why, doubt = received.check(str(folder / each.name), order)
        said.append(f"what it sent as its unpushed work cannot be used: {why}" if why else doubt)
        if not why:
            path = str(folder / each.name)
            kept[each.path or each.name] = bundles.keep(
                str(state.absolute()), path, order.worker, order.owner
            )
    files.sync_folder(str(rescued))
    return kept, "; ".join(dict.fromkeys(words for each in said if (words := each.strip("; "))))


def _broken(file: _File, folder: Path) -> str:
    """Return what is wrong with an object or an archive, which is removed then; "" for nothing."""
    path = folder / file.name
    if file.name.endswith(".tar"):
        try:
            with tarfile.open(path, "r:") as archive:
                for _ in archive:
                    pass
        except (OSError, tarfile.TarError) as error:
            path.unlink(missing_ok=True)
            return f"the archive {file.name} cannot be read: {border.line(str(error), 200)}"
    elif ".lfs/objects/" in file.name and not lfs.is_whole(str(path), path.name):
        path.unlink(missing_ok=True)
        return f"the object {path.name[:80]} of git-lfs is broken there"
    return ""


def _keep_archive(path: Path, rescued: Path, order: Order) -> str:
    """Move an archive to where it stays, beside others of that name; returns its place."""
    rest = path.name.removeprefix(order.worker)
    owner = f".{order.owner}" if order.owner else ""
    plain = Path(f"{order.worker}{owner}{rest}")
    number = 1
    while True:
        place = rescued / plain
        if number > 1:
            place = place.with_stem(f"{plain.stem}-{number}")
        if not os.path.lexists(place):
            path.rename(place)
            return str(place)
        if place.is_file() and not place.is_symlink() and filecmp.cmp(path, place, shallow=False):
            return str(place)  # it came before, and nobody wrote that down
        number += 1


def _told(result: Result, kept: Mapping[str, str], doubt: str) -> Result:
    """Return a result whose paths are those here."""
    checkpoint, message = result.checkpoint, result.message
    if checkpoint is not None and checkpoint.startswith("/"):
        if checkpoint not in kept and not doubt:
            doubt = "its unpushed work was not there any more"
        checkpoint = kept.get(checkpoint)
    for there, here in sorted(kept.items(), key=lambda pair: -len(pair[0])):
        said = message.replace(there, here) if there else message
        if said == message and here != checkpoint:
            said += f"; {here} has work that no remote took"
        message = said
    if doubt:
        message += f"; {doubt}"
    return dataclasses.replace(result, checkpoint=checkpoint, message=message.removeprefix("; "))
