"""Plain files of our own, opened so that nobody leads us elsewhere or lets us wait.

A worker's agent runs as the same user as we do, so whatever lies in a worker's folder may have
been put there by it: a link to somebody's file, a FIFO that nobody writes to, a device, a file of
a terabyte. So a folder is opened first, a file by its name in there, neither through a link and
neither waiting, and what was opened is looked at before it is used. Everything else is `Broken`.

Imported by the lean supervisor: `os` and nothing heavier.
"""

from __future__ import annotations

import errno
import os

#: ENOMEM, EIO, ENFILE, EMFILE: what cannot be opened for these is not broken; nobody can say.
TROUBLE = (errno.ENOMEM, errno.EIO, errno.ENFILE, errno.EMFILE)
#: Folders whose entries are never links: what lies in them is made by us, under names of ours.
_OURS = ("workers", "staging")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {0o010000: "a FIFO", 0o020000: "a device", 0o060000: "a device", 0o140000: "a socket"}


class Broken(OSError):  # noqa: N818 - it is the file that is broken
    """What should be a plain file or folder of ours is something else.

    Args:
        name: the file's.
        why: what it is, after the name: `is a FIFO`.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(errno.EBADMSG, why, name)

    @property
    def said(self) -> str:
        """The name and what is wrong with it, in words."""
        return f"{os.path.basename(self.filename)} {self.strerror}"


def folder(path: str) -> int:
    """Open a folder and return its descriptor.

    A worker's folder is not reached through a link, neither its own name nor that of the folder
    which holds all of them. Other folders are their user's, and may be links.

    Raises:
        FileNotFoundError: there is none.
        Broken: it is a link, no folder at all, or somebody else's.
        OSError: nobody can say.
    """
    above, name = os.path.split(path)
    if os.path.basename(above) not in _OURS:
        return _enter(path, 0, None)
    outer = _enter(above, os.O_NOFOLLOW, None)
    try:
        return _enter(name, os.O_NOFOLLOW, outer)
    finally:
        os.close(outer)


def inner(at: int, name: str) -> int:
    """Open a folder in an open folder; raises as `folder` does, and follows no link."""
    return _enter(name, os.O_NOFOLLOW, at)


def _enter(name: str, flags: int, at: int | None) -> int:
    try:
        found = os.open(name, _FOLDER | flags, dir_fd=at)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in TROUBLE:
            raise
        raise Broken(name, _why_no_folder(error)) from None
    if flags and not _ours(os.fstat(found)):
        os.close(found)
        raise Broken(name, "belongs to another user")
    return found


def _why_no_folder(error: OSError) -> str:
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return "is a link or a file, and no folder"
    return f"cannot be opened: {error.strerror}"


def _ours(about: os.stat_result) -> bool:
    return about.st_uid in (os.geteuid(), 0)


def opened(at: int, name: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Open a plain file of ours in an open folder, whatever that takes not longer than a moment.

    Args:
        at: the folder's descriptor.
        name: the file's.
        flags: as of `os.open`. What is to be written must have no other name.
        mode: of a file that is made.

    Raises:
        FileNotFoundError: there is none.
        Broken: it is a link, no plain file, somebody else's, or has another name besides.
        OSError: nobody can say, or it cannot be made.
    """
    return _open(at, name, flags, mode)[0]


def open_plain(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a plain file of ours by its path: through no link, and without waiting.

    Args:
        path: of a file in a worker's folder, or one that an agent keeps elsewhere.
        flags: as of `os.open`.

    Returns:
        its descriptor.

    Raises:
        FileNotFoundError: there is none.
        Broken: it is something else.
        OSError: nobody can say.
    """
    above, name = os.path.split(path)
    at = folder(above or ".")
    try:
        return opened(at, name, flags)
    finally:
        os.close(at)


def _open(at: int, name: str, flags: int, mode: int) -> tuple[int, int]:
    """Open a file as `opened` does, and return its size besides."""
    try:
        found = os.open(name, flags | _FILE, mode, dir_fd=at)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        if error.errno in (*TROUBLE, errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise Broken(name, _why_not(at, name, error)) from None
    about = os.fstat(found)
    why = _oddity(about)
    if not why and flags & (os.O_WRONLY | os.O_RDWR) and about.st_nlink > 1:
        why = "has another name besides"
    if why:
        os.close(found)
        raise Broken(name, why)
    return found, about.st_size


def _why_not(at: int, name: str, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "is a link"
    try:
        about = os.stat(name, dir_fd=at, follow_symlinks=False)
    except OSError:
        about = None
    return (about and _oddity(about)) or f"cannot be opened: {error.strerror}"


def _oddity(about: os.stat_result) -> str:
    kind = about.st_mode & 0o170000
    if kind != 0o100000:
        return "is " + _KINDS.get(kind, "a folder" if kind == 0o040000 else "a link")
    return "" if _ours(about) else "belongs to another user"


def content(at: int, name: str, most: int) -> bytes | None:
    """Return all of a plain file of ours; None when there is none.

    Args:
        at: the descriptor of its folder.
        name: the file's.
        most: bytes that it may have.

    Raises:
        Broken: see `opened`; or it is larger.
        OSError: nobody can say.
    """
    try:
        found, size = _open(at, name, os.O_RDONLY, 0)
    except FileNotFoundError:
        return None
    try:
        data = os.read(found, min(size, most) + 1)
        while size <= most and len(data) > size and len(data) <= most:
            size = len(data)  # it has grown
            data += os.read(found, most + 1 - size)
        if size > most or len(data) > most:
            raise Broken(name, f"has more than {most} bytes")
        return data
    finally:
        os.close(found)


def own(at: int, name: str, flags: int) -> int:
    """Open a plain file of ours for writing, a new one where something else stands in its place.

    Raises:
        OSError: it cannot be made.
    """
    try:
        return opened(at, name, flags | os.O_CREAT)
    except Broken:
        put_aside(at, name)
    try:
        return opened(at, name, flags | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        raise Broken(name, "is put there again and again") from None


def is_fifo(at: int, name: str) -> bool:
    """Whether there is a FIFO of ours under a name."""
    try:
        about = os.stat(name, dir_fd=at, follow_symlinks=False)
    except OSError:
        return False
    return about.st_mode & 0o170000 == 0o010000 and _ours(about)


def open_fifo(at: int, name: str, flags: int) -> int:
    """Open a FIFO of ours without waiting; its descriptor does not wait either.

    Raises:
        FileNotFoundError: there is none.
        Broken: it is something else.
        OSError: nobody reads from it (ENXIO), or nobody can say.
    """
    try:
        found = os.open(name, flags | _FILE, dir_fd=at)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT, *TROUBLE) and not _is_socket(at, name):
            raise
        raise Broken(name, _why_not(at, name, error)) from None
    about = os.fstat(found)
    if about.st_mode & 0o170000 != 0o010000 or not _ours(about):
        os.close(found)
        raise Broken(name, _oddity(about) or "is a plain file, and no FIFO")
    return found


def _is_socket(at: int, name: str) -> bool:
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False).st_mode & 0o170000 == 0o140000
    except OSError:
        return False


def put_aside(at: int, name: str) -> None:
    """Take what stands under a name away: it is removed, a folder gets another name.

    Raises:
        OSError: it cannot be.
    """
    try:
        os.unlink(name, dir_fd=at)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        os.rename(name, f".aside.{_word()}", src_dir_fd=at, dst_dir_fd=at)


def replace(at: int, name: str, data: bytes, *, sync: bool = False) -> None:
    """Let a file have a content in one step: readers see the old or the new one, whole.

    Args:
        at: the descriptor of its folder.
        name: the file's.
        data: the content.
        sync: reach the disk before it shows.

    Raises:
        OSError: it could not be written; the old one stays.
    """
    staged = stage(at, name, data, sync=sync)
    try:
        take_place(at, staged, name)
    except OSError:
        drop(at, staged)
        raise


def stage(at: int, name: str, data: bytes, *, sync: bool = False) -> str:
    """Write a new private file (0600) beside the one of that name; return what it is called.

    Raises:
        OSError: it could not be written; nothing is left of it.
    """
    staged = f".{name}.{_word()}"
    make(at, staged, data, sync=sync)
    return staged


def make(at: int, name: str, data: bytes, *, sync: bool = False) -> None:
    """Write a new private file (0600); readers may see it before it is whole.

    Raises:
        FileExistsError: there is something of that name.
        OSError: it could not be written; nothing is left of it.
    """
    made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=at)
    try:
        write_all(made, data)
        if sync:
            os.fsync(made)
    except OSError:
        drop(at, name)
        raise
    finally:
        os.close(made)


def take_place(at: int, staged: str, name: str) -> None:
    """Rename a file to where another one may stand, or a folder that somebody put there.

    Raises:
        OSError: it could not be.
    """
    try:
        os.rename(staged, name, src_dir_fd=at, dst_dir_fd=at)
    except IsADirectoryError:
        put_aside(at, name)
        os.rename(staged, name, src_dir_fd=at, dst_dir_fd=at)


def drop(at: int, name: str) -> None:
    """Remove a file; fine when it is not there or cannot be removed."""
    try:  # noqa: SIM105 - contextlib would have to be imported
        os.unlink(name, dir_fd=at)
    except OSError:
        pass


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` to a blocking descriptor.

    Raises:
        OSError: not all of it could be written.
    """
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])


def _word() -> str:
    return os.urandom(8).hex()
