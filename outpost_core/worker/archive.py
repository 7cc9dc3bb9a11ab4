"""A plain, private tar archive that was read again before anybody is told of it."""

from __future__ import annotations

import os
import stat
import tarfile

from outpost_core import faults
from outpost_core.errors import WorkerError
from outpost_core.worker.outcome import reason_of

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO


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
        fd = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w+b") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for name, source in sorted(content.items()):
                    archive.add(source, name, filter=_only_content)
            file.flush()
            os.fsync(file.fileno())
            _check(file, content)
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


def _check(file: IO[bytes], content: Mapping[str, str]) -> None:
    """Read the archive again: every file is in it, with all of its bytes."""
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        held = {member.name: member for member in archive.getmembers()}
    for name, source in content.items():
        about, member = os.lstat(source), held.get(name)
        if member is None or (
            stat.S_ISREG(about.st_mode) and member.isreg() and member.size != about.st_size
        ):
            raise OSError(f"{source} is not whole in the archive")
