"""Files and folders of ours at places where an agent may have put something else.

An agent of the same user that no fence holds can replace whatever we left: a file by a link, a
FIFO or a device, a folder by a link. So nothing is opened here that would follow a link or wait
for somebody, nothing is read without a bound, and what is not ours is put aside and said, never
used and never removed.
"""

from __future__ import annotations

import os
import stat
import time

from outpost_worker.folder import files

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes of a small file of ours beyond which nothing of it is read.
LONGEST = 1 << 20


def text(path: str, most: int = LONGEST) -> str:
    """Return the text of a plain file of ours, whole.

    Args:
        path: the file.
        most: the longest that it can be, in bytes.

    Returns:
        "" where there is no such file, or something else, or too much.
    """
    try:
        fd = files.open_plain(path)
    except OSError:
        return ""
    try:
        size = os.fstat(fd).st_size
        data = os.read(fd, most + 1) if size <= most else b""
        return data.decode("utf-8", "surrogateescape") if len(data) <= most else ""
    finally:
        os.close(fd)


def is_folder(path: str) -> bool:
    """Whether a path is a folder of ours itself, no link to one, that nobody else can write."""
    try:
        about = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(about.st_mode) and _ours(about) and not about.st_mode & 0o022


def put_aside(path: str, why: str, report: Callable[[str], None]) -> str:
    """Rename what is at a path and is not to be used; say so, and write down why beside it.

    Args:
        path: what is there; a link itself, not what it leads to.
        why: what is wrong with it, after its path.
        report: told of it.

    Returns:
        Where it is now.

    Raises:
        OSError: it cannot be renamed.
    """
    kept = f"{path}.aside-{time.time_ns()}"
    os.rename(path, kept)
    said = f"{path} {why}; it is put aside as {kept} and made anew"
    report(said)
    try:
        fd = os.open(kept + ".txt", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(said + "\n")
    except OSError:
        pass  # the note is for people; the work continues without it
    return kept


def _ours(about: os.stat_result) -> bool:
    return about.st_uid == os.geteuid()
