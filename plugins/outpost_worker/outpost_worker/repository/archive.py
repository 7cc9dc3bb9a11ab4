"""Plain, private tar archives beside the rig, read again before anybody is told of them.

They lie in `<root>/rescued/`. Which one is a worker's own is noted in its folder, so that none
is written over that an earlier worker of the same name left.
"""

from __future__ import annotations

import os
import stat
import tarfile

from outpost_core.errors import WorkerError
from outpost_shared import faults, private
from outpost_worker.folder.files import discard, store
from outpost_worker.folder.outcome import reason_of
from outpost_worker.repository import notes

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Mapping


def keep(folder: str, note: str, ending: str, content: Mapping[str, str], mark: list[str]) -> str:
    """Write a worker's archive, in the place of the one that it had; returns its path.

    Args:
        folder: the worker's folder.
        note: the file in it that says which archive is its own: `{"path", "holds"}`.
        ending: of the archive's name, with the dot.
        content: name in the archive to the path of a file, a link, or a folder with all in it.
        mark: what is noted of the content.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    path = notes.archive(folder, note, ending) or _free(folder, ending)
    store(folder, note, {"path": path, "holds": None}, sync=True)  # or a crash would lose sight
    pack(path, content)
    store(folder, note, {"path": path, "holds": mark}, sync=True)
    return path


def _free(folder: str, ending: str) -> str:
    name = notes.beginning(folder)
    private.make(os.path.dirname(name))
    path, number = name + ending, 1
    while os.path.lexists(path):
        number += 1
        path = f"{name}-{number}{ending}"
    return path


def pack(path: str, content: Mapping[str, str]) -> None:
    """Write an archive (0600) in one step: it is there whole, or as it was before.

    Args:
        path: the archive.
        content: name in the archive to the path of a file, a link, or a folder with all in it.

    Raises:
        WorkerError: `commit_failed`, naming what cannot be read; `disk_full`.
    """
    staged = f"{path}.new"
    try:
        discard(staged)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(staged, flags, 0o600)
        with os.fdopen(fd, "w+b") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for name, source in sorted(content.items()):
                    archive.add(source, name, filter=_only_content)
            file.flush()
            os.fsync(file.fileno())
        if not holds(staged, content):
            raise OSError("it does not hold what it should")
        faults.point("worker.packed")
        os.rename(staged, path)
    except (OSError, tarfile.TarError) as error:
        if os.path.lexists(staged):
            os.unlink(staged)
        reason = reason_of(error, "commit_failed") if isinstance(error, OSError) else ""
        raise WorkerError(
            f"could not keep {getattr(error, 'filename', None) or path}: {error}",
            reason=reason or "commit_failed",
        ) from error


def _only_content(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return member if member.isfile() or member.issym() or member.islnk() or member.isdir() else None


def holds(path: str, content: Mapping[str, str]) -> bool:
    """Whether an archive holds files as they are now, byte for byte, and folders by name."""
    try:
        with tarfile.open(path, "r:") as archive:
            return all(_same(archive, name, source) for name, source in content.items())
    except (OSError, KeyError, tarfile.TarError):
        return False


def _same(archive: tarfile.TarFile, name: str, source: str) -> bool:
    member, about = archive.getmember(name), os.lstat(source)
    if member.issym() or stat.S_ISLNK(about.st_mode):
        return member.issym() and member.linkname == os.readlink(source)
    if stat.S_ISDIR(about.st_mode):
        return member.isdir()
    kept = archive.extractfile(member)  # follows a hard link to its first name
    if kept is None:
        return False
    with open(source, "rb") as file:
        while data := file.read(1 << 20):
            if kept.read(len(data)) != data:
                return False
    return not kept.read(1)
