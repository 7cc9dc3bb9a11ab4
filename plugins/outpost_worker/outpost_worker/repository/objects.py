"""Brings the objects of a repository that an agent works in over into one of ours.

Loose objects are copied, and each is what its name says: its hash is computed on the way. Packs
are copied, large ones linked under their own names, so that git never looks for anything in a
folder which an agent can change. What is in a pack is seen by whoever takes a
push or a bundle: both compute every hash anew.
"""

from __future__ import annotations

import os
import stat

from outpost_worker.folder import folders
from outpost_worker.folder.folders import Folder, StrangeError

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from typing import Any

_HEX = frozenset("0123456789abcdef")
_CHUNK = 1 << 20
#: Bytes of a pack or its index up to which it is copied, so that nobody changes it afterwards.
_COPIED = 16 << 20
#: So many repositories may borrow from each other in a row.
_DEEPEST = 5


def bring(there: Folder, ours: str, length: int, within: Folder, known: str = "") -> list[str]:
    """Bring all objects over that are not there yet.

    Args:
        there: the folder of the repository.
        ours: the folder `objects` of ours.
        length: of a hash, in hexadecimal digits.
        within: from folders below this one it may borrow.
        known: a folder `objects` from which ours borrows too.

    Returns:
        what was not brought over: loose objects that are not what they are called.

    Raises:
        StrangeError: its folders are not real ones.
        OSError: it could not be written.
    """
    bad: list[str] = []
    source = there.enter("objects")
    if source is not None:
        _bring(source, ours, length, within, known, bad, 0)
    return bad


def _bring(
    source: Folder, ours: str, length: int, within: Folder, known: str, bad: list[str], deep: int
) -> None:
    for name in source.names():
        if len(name) == 2 and _HEX.issuperset(name):
            _loose(source, name, ours, length, bad)
    packs = source.enter("pack")
    if packs is not None:
        _packs(packs, os.path.join(ours, "pack"))
    info = source.enter("info")
    said = (info.read("alternates") if info else None) or b""
    for line in os.fsdecode(said).splitlines():
        inside = os.path.relpath(line, within.path) if line.startswith("/") else ".."
        if line == known or inside.startswith("..") or deep > _DEEPEST:
            continue
        lent = within.walk(inside)
        if lent is not None:
            _bring(lent, ours, length, within, known, bad, deep + 1)


def _loose(source: Folder, begin: str, ours: str, length: int, bad: list[str]) -> None:
    there = source.enter(begin)
    if there is None:
        return
    goal = os.path.join(ours, begin)
    try:
        have = set(os.listdir(goal))
    except FileNotFoundError:
        have = set()
        os.makedirs(goal, 0o700)
    for name in there.names():
        if name in have or len(name) != length - 2 or not _HEX.issuperset(name):
            continue
        fd = there.open(name)
        if fd < 0:
            continue
        try:
            if not _copy(fd, os.path.join(goal, name), begin + name):
                bad.append(begin + name)
        finally:
            os.close(fd)


def _copy(source: int, path: str, name: str) -> bool:
    """Copy a loose object; False where it does not have that name."""
    import zlib

    staged = f"{path}.{os.getpid()}.new"
    made, unpack = digest(len(name)), zlib.decompressobj()
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o400)
    try:
        while data := os.read(source, _CHUNK):
            rest = data
            if unpack.eof:
                break  # git takes none with something behind it
            while rest and not unpack.eof:
                made.update(unpack.decompress(rest, _CHUNK))
                rest = unpack.unconsumed_tail
            done = os.write(fd, data)
            while done < len(data):
                done += os.write(fd, memoryview(data)[done:])
        made.update(unpack.flush())
        good = unpack.eof and not data and not unpack.unused_data and made.hexdigest() == name
    except zlib.error:
        good = False
    except OSError:
        os.unlink(staged)
        raise
    finally:
        os.close(fd)
    if good:
        os.rename(staged, path)
    else:
        os.unlink(staged)
    return good


def digest(length: int) -> Any:
    """Return what computes the name of an object, for names of so many digits."""
    if length == 40:
        try:  # hashlib would load all of OpenSSL for its other algorithms
            from _sha1 import sha1  # type: ignore[import-not-found]
        except ImportError:
            from hashlib import sha1
        return sha1(usedforsecurity=False)
    from hashlib import sha256

    return sha256()


def _packs(there: Folder, goal: str) -> None:
    os.makedirs(goal, 0o700, exist_ok=True)
    have = set(os.listdir(goal))
    for index in there.names():
        name = index.removesuffix(".idx")
        if name == index or index in have or not _is_pack(name):
            continue
        if there.stat(f"{name}.pack") is None:
            continue
        # git looks for the index, so that it comes last
        for part in (f"{name}.pack", index):
            _lend(there, part, os.path.join(goal, part))


def _is_pack(name: str) -> bool:
    value = name.removeprefix("pack-")
    return value != name and len(value) in (40, 64) and _HEX.issuperset(value)


def _lend(there: Folder, name: str, path: str) -> None:
    if os.path.lexists(path):
        return
    staged = f"{path}.{os.getpid()}.new"
    folders.remove([staged])
    about = there.stat(name)
    try:
        if about is None or about.st_size <= _COPIED:
            raise OSError("it is copied")
        os.link(name, staged, src_dir_fd=there.fd, follow_symlinks=False)
    except OSError:  # a small one, another file system, or one without links
        fd = there.open(name)
        if fd >= 0:
            try:
                folders.copy(fd, path, 0o400)
            finally:
                os.close(fd)
        return
    if not stat.S_ISREG(os.lstat(staged).st_mode):
        os.unlink(staged)
        raise StrangeError(
            f"{there.path}/{name} cannot be used: it is not a file", reason="commit_failed"
        )
    os.rename(staged, path)
