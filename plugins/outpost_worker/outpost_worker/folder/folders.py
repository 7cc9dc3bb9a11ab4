"""Folders and files that an agent can change, opened so that nothing else is.

Each name is opened in the folder above it, which is held open: no symbolic link is followed,
nothing blocks (a pipe that nobody writes to), and what is not a real folder or a regular file of
this user is refused. What was looked at is what is read, also when it is renamed meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat

from outpost_core.errors import WorkerError

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Iterable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
#: Bytes of a small file, as git writes them.
SMALL = 1 << 16
_CHUNK = 1 << 20
_GONE = (errno.ENOENT, errno.ENOTDIR)
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISREG, "a file"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


class StrangeError(WorkerError):
    """Something is not the real folder or the regular file of this user that it has to be."""

    def broken(self) -> StrangeError:
        """Return the error for a folder that was made for the worker and is another thing now."""
        self.message += ", so nothing was committed or pushed from there"
        self.reason = "broken"
        self.hint = "look at the worker's folder yourself before outpost clean --force"
        return self


class Folder:
    """A folder that is held open, and what is in it.

    Args:
        fd: its descriptor, which is closed with this object.
        path: what it is called in messages.
    """

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    def __del__(self) -> None:
        os.close(self.fd)

    def enter(self, name: str) -> Folder | None:
        """Return the folder of that name; None when there is nothing.

        Raises:
            StrangeError: it is no real folder, another user's, or cannot be read.
        """
        return _open(os.path.join(self.path, name), name, self.fd)

    def walk(self, path: str) -> Folder | None:
        """Return the folder at a relative path below, entered one by one; None when there is none.

        Raises:
            StrangeError: some part of it is no real folder.
        """
        here: Folder | None = self
        for part in path.split("/"):
            if part in ("", ".", ".."):
                raise StrangeError(f"{self.path}/{path} is no path", reason="commit_failed")
            here = here.enter(part) if here else None
        return here

    def names(self) -> list[str]:
        """Return the names in it, sorted.

        Raises:
            StrangeError: it cannot be read.
        """
        try:
            return sorted(os.listdir(self.fd))
        except OSError as error:
            raise _strange(self.path, error.strerror or str(error)) from None

    def stat(self, name: str) -> os.stat_result | None:
        """Return what the system says of an entry itself; None when there is none."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except OSError:
            return None

    def open(self, name: str) -> int:
        """Return a descriptor of a regular file, to be closed by the caller; -1 for none.

        Raises:
            StrangeError: it is something else, or cannot be read.
        """
        path = os.path.join(self.path, name)
        try:
            fd = os.open(name, _FILE, dir_fd=self.fd)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return -1
            raise _strange(path, self._why(name, error)) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise _strange(path, self._why(name, None))
        return fd

    def read(self, name: str, most: int = SMALL) -> bytes | None:
        """Return the content of a regular file; None when there is none.

        Args:
            name: the file.
            most: bytes that it may have.

        Raises:
            StrangeError: it is something else, too large, or cannot be read.
        """
        fd = self.open(name)
        if fd < 0:
            return None
        try:
            parts, size = [], 0
            while data := os.read(fd, min(_CHUNK, most + 1 - size)):
                parts.append(data)
                size += len(data)
                if size > most:
                    path = os.path.join(self.path, name)
                    raise _strange(path, f"it has more than {most} bytes")
        except OSError as error:
            raise _strange(os.path.join(self.path, name), str(error.strerror)) from None
        finally:
            os.close(fd)
        return b"".join(parts)

    def _why(self, name: str, error: OSError | None) -> str:
        there = self.stat(name)
        kind = _kind(there.st_mode) if there else ""
        if kind and not stat.S_ISREG(there.st_mode if there else 0):
            return f"it is {kind}, not a file"
        return str(error.strerror) if error else "it is not a file"


def open_folder(path: str) -> Folder:
    """Return the folder at a path; what is above it counts as ours and is not looked at.

    Raises:
        FileNotFoundError: there is nothing.
        StrangeError: it is no real folder, another user's, or cannot be read.
    """
    found = _open(path, path, None)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "there is nothing", path)
    return found


def _open(path: str, name: str, above: int | None) -> Folder | None:
    try:
        fd = os.open(name, _FOLDER, dir_fd=above)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        try:
            mode = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
        except OSError:
            return None
        if stat.S_ISDIR(mode):
            raise _strange(path, error.strerror or str(error)) from None
        raise _strange(path, f"it is {_kind(mode)}, not a folder") from None
    folder = Folder(fd, path)
    if os.fstat(fd).st_uid != os.geteuid():
        raise _strange(path, "it belongs to another user")
    return folder


def _kind(mode: int) -> str:
    return next((word for is_it, word in _KINDS if is_it(mode)), "a device")


def _strange(path: str, why: str) -> StrangeError:
    return StrangeError(f"{path} cannot be used: {why}", reason="commit_failed")


def text(path: str, most: int = SMALL) -> str:
    """Return the text of a small file that an agent may have put there, else "".

    "" too for what is missing, no regular file, or larger.
    """
    try:
        fd = os.open(path, _FILE)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        data = os.read(fd, most + 1)
        return os.fsdecode(data) if len(data) <= most else ""
    except OSError:
        return ""
    finally:
        os.close(fd)


def copy(source: int, path: str, mode: int = 0o600) -> None:
    """Write what an open file holds to a path, with its time; it appears when it is whole.

    Args:
        source: a descriptor, at its beginning.
        path: where to.
        mode: of the new file.

    Raises:
        OSError: it cannot be read or written.
    """
    staged = f"{path}.{os.getpid()}.new"
    there = os.fstat(source)
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        while data := os.read(source, _CHUNK):
            _write(fd, data)
        os.utime(fd, ns=(there.st_atime_ns, there.st_mtime_ns))
    except OSError:
        os.unlink(staged)
        raise
    finally:
        os.close(fd)
    os.rename(staged, path)


def _write(fd: int, data: bytes) -> None:
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])


def remove(paths: Iterable[str]) -> None:
    """Remove files of ours; those that are not there are fine."""
    for path in paths:
        try:  # noqa: SIM105 - contextlib would have to be imported
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
