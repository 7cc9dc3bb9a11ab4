"""Removing a tree of which nothing is known: as deep as it likes, and not all of it ours.

`shutil.rmtree` calls itself for each level and holds a descriptor on each; one entry that cannot
be removed ends it. Here two descriptors do for any depth, what cannot be removed is written down
with its owner, and the rest keeps working. Symbolic links are removed and never followed; what is
mounted inside of the tree is neither entered nor emptied.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

#: So many entries that could not be removed are told one by one.
TOLD: Final = 20
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: FS_IOC_GETFLAGS, and its bits for a file that is immutable or can only be appended to.
_GETFLAGS, _FIXED = 0x80086601, 0x30


class Unremoved:
    """Something that could not be removed.

    Args:
        path: where it is, in printable characters.
        why: what the system said, in words.
        owner: the user whose it is, or whose folder it lies in; "" when nobody can say.
    """

    __slots__ = ("owner", "path", "why")

    def __init__(self, path: str, why: str, owner: str) -> None:
        self.path = path
        self.why = why
        self.owner = owner

    def __str__(self) -> str:
        return f"{self.path}: {self.why}" + (f" (owner: {self.owner})" if self.owner else "")


class Removed:
    """What `remove` did.

    Attributes:
        bytes: of disk that are free now.
        left: what could not be removed, at most `TOLD` of it.
        more: how many entries besides `left` could not be removed.
    """

    __slots__ = ("bytes", "left", "more")

    def __init__(self) -> None:
        self.bytes = 0
        self.left: list[Unremoved] = []
        self.more = 0

    def __str__(self) -> str:
        """Say what was left in one line; "" when all is gone."""
        if not self.left:
            return ""
        others = len(self.left) - 1 + self.more
        return str(self.left[0]) + (f", and {others} more" if others else "")


def remove(path: str | Path) -> Removed:
    """Remove a file or a folder with all that is in it, as far as that can be done.

    Any number of processes may do it at once; what is gone already is fine. Never raises for an
    entry. Whether all is gone was read back when `left` is empty.

    Args:
        path: what is to go.
    """
    walk = _Walk(path)
    walk.run(dry=False)
    if not walk.done.left and os.path.lexists(path):
        walk.done.left.append(Unremoved(shown(str(path)), "it is still there", ""))
    return walk.done


def measure(path: str | Path) -> int:
    """Return the bytes of disk that removing a file or a folder would free; changes nothing."""
    walk = _Walk(path)
    walk.run(dry=True)
    return walk.done.bytes


class _Level:
    """A folder on the way down: its name, who it is, and its folders that are to be entered."""

    __slots__ = ("folders", "key", "name")

    def __init__(self, name: str, key: tuple[int, int], folders: list[str]) -> None:
        self.name = name
        self.key = key
        self.folders = folders


class _Walk:
    def __init__(self, path: str | Path) -> None:
        self.done = Removed()
        above, self._name = os.path.split(os.path.abspath(path))
        self._above = above
        self._way: list[_Level] = []
        self._fd = -1
        self._mount = ""
        self._dry = False
        self._vain = 0  # entries that were told or counted

    def run(self, *, dry: bool) -> None:
        self._dry = dry
        try:
            self._fd = os.open(self._above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            self._tell(self._name, error)
            return
        try:
            self._mount = _mount(self._fd)
            about = os.fstat(self._fd)
            top = self._sort([self._name])
            self._way.append(_Level("", (about.st_dev, about.st_ino), top))
            self._walk()
        except OSError as error:
            self._tell("", error)
        finally:
            os.close(self._fd)

    def _walk(self) -> None:
        while True:
            level = self._way[-1]
            if level.folders:
                self._enter(level.folders.pop())
            elif len(self._way) == 1:
                return
            else:
                self._leave()

    def _sort(self, names: list[str]) -> list[str]:
        """Remove the files among the entries of the folder at hand; return the folders."""
        folders = []
        for name in names:
            try:
                about = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
                if stat.S_ISDIR(about.st_mode):
                    folders.append(name)
                    continue
                if not self._dry:
                    os.unlink(name, dir_fd=self._fd)
                if about.st_nlink <= 1:
                    self.done.bytes += about.st_blocks * 512
            except FileNotFoundError:
                pass
            except OSError as error:
                self._tell(name, error)
        return folders

    def _enter(self, name: str) -> None:
        try:
            fd = self._open(name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._tell(name, error)
            return
        try:
            if _mount(fd) != self._mount:
                raise OSError(errno.EBUSY, "a file system is mounted there; umount it")
            if not self._dry and os.fstat(fd).st_mode & 0o700 != 0o700:
                _try_chmod(fd)
            os.close(os.open("..", _FOLDER, dir_fd=fd))  # the way back
            names = os.listdir(fd)
        except OSError as error:
            os.close(fd)
            self._tell(name, error)
            return
        about = os.fstat(fd)
        os.close(self._fd)
        self._fd = fd
        self._way.append(_Level(name, (about.st_dev, about.st_ino), []))
        self._way[-1].folders = self._sort(names)

    def _open(self, name: str) -> int:
        try:
            return os.open(name, _FOLDER, dir_fd=self._fd)
        except PermissionError:
            if self._dry or not hasattr(os, "O_PATH"):
                raise
        # a folder without the permission to read it can be opened for nothing else than this
        fd = os.open(name, os.O_PATH | _FOLDER, dir_fd=self._fd)
        try:
            os.chmod(f"/proc/self/fd/{fd}", 0o700)
        finally:
            os.close(fd)
        return os.open(name, _FOLDER, dir_fd=self._fd)

    def _leave(self) -> None:
        level = self._way.pop()
        above = os.open("..", _FOLDER, dir_fd=self._fd)
        about = os.fstat(above)
        os.close(self._fd)
        self._fd = above
        if (about.st_dev, about.st_ino) != self._way[-1].key:
            raise OSError(errno.EBUSY, "somebody moves it at the same time")
        if self._dry:
            return
        before = self._vain
        try:
            os.rmdir(level.name, dir_fd=above)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not before:
                self._tell(level.name, error)

    def _tell(self, name: str, error: OSError) -> None:
        self._vain += 1
        if self._dry:
            return
        if len(self.done.left) >= TOLD:
            self.done.more += 1
            return
        parts = [self._above, *(level.name for level in self._way[1:]), name]
        path = os.path.join(*[part for part in parts if part])
        why = error.strerror or str(error)
        if error.errno == errno.EPERM and self._fixed(name):
            why = "it is immutable (chattr -i)"
        self.done.left.append(Unremoved(shown(path), why, self._owner(name)))

    def _fixed(self, name: str) -> bool:
        import fcntl

        flags = bytearray(8)
        for path in (name, "."):
            try:
                how = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                fd = os.open(path, how, dir_fd=self._fd)
            except OSError:
                continue
            try:
                fcntl.ioctl(fd, _GETFLAGS, flags)
            except OSError:
                continue
            finally:
                os.close(fd)
            if flags[0] & _FIXED:
                return True
        return False

    def _owner(self, name: str) -> str:
        """Return whose the entry is; of one that is ours, whose folder it lies in."""
        mine = os.geteuid()
        try:
            uid = os.stat(name or ".", dir_fd=self._fd, follow_symlinks=False).st_uid
            if uid == mine:
                uid = os.fstat(self._fd).st_uid
        except OSError:
            return ""
        try:
            import pwd

            return pwd.getpwuid(uid).pw_name
        except (ImportError, KeyError):
            return str(uid)


def shown(path: str) -> str:
    """Return a path as it can be printed and sent, whatever bytes are in it, and not endless."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= 240 else f"{text[:120]}…{text[-119:]}"


def _try_chmod(fd: int) -> None:
    with contextlib.suppress(PermissionError):  # somebody else's: it may be enough as it is
        os.fchmod(fd, 0o700)


def _mount(fd: int) -> str:
    """Return which mount a folder belongs to: also a bind mount of the same file system."""
    try:
        about = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return str(os.fstat(fd).st_dev)
    try:
        lines = os.read(about, 4096).split(b"\n")
    finally:
        os.close(about)
    for line in lines:
        if line.startswith(b"mnt_id:"):
            return str(line)
    return str(os.fstat(fd).st_dev)
