"""Records and logs on a volume that several machines have mounted, such as NFS.

Nothing is appended to or locked, since neither is safe there: a file is written under a name of its
own and then linked to the name that counts, which one machine can do and no other again
(open(2), O_EXCL: "creating a lockfile … link(2)"). A link whose answer was lost is known by the
number of the file's names.

A cell is a folder with a file for each value, numbered; the highest counts. To exchange a value is
to make the next number. An emptied cell has an empty file as its last one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Final

from outpost_core.errors import UnreachableError
from outpost_shared import faults, plain, private
from outpost_shared.plain import Broken
from outpost_worker.record.cells import MOST, MOST_OBJECT, Cell, Kept, MovedError
from outpost_worker.record.kinds import RecordRefusedError

#: Values of a cell that stay: whoever still holds an older one was away for so many exchanges.
_KEPT: Final = 64
_DIGITS: Final = 12
#: How many empty folders are made again that somebody removes at the same moment.
_TRIES: Final = 20


class Volume:
    """A folder of ours on a mounted volume.

    Args:
        path: the folder, absolute; made when it is missing.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)

    def link(self, name: str, data: bytes) -> bool:
        """Make a file that is not there; whether it was made by this call.

        Raises:
            UnreachableError: the volume does not answer as it should.
            RecordRefusedError: it cannot be written.
        """
        folder, _, last = name.rpartition("/")
        try:
            at = self._folder(folder)
            try:
                staged = plain.stage(at, last, data, sync=True)
                try:
                    os.link(staged, last, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
                    os.fsync(at)
                    return True
                except FileExistsError:
                    return os.stat(staged, dir_fd=at, follow_symlinks=False).st_nlink == 2
                finally:
                    plain.drop(at, staged)
            finally:
                os.close(at)
        except OSError as error:
            raise self._trouble(error) from error

    def read(self, name: str, most: int) -> bytes | None:
        """Return what is in a file; None when there is none.

        Raises:
            Broken: it is no plain file of ours, or too large.
            UnreachableError: the volume does not answer as it should.
        """
        folder, _, last = name.rpartition("/")
        try:
            at = plain.folder(os.path.join(self._path, folder))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._trouble(error) from error
        try:
            return plain.content(at, last, most)
        except Broken:
            raise
        except OSError as error:
            raise self._trouble(error) from error
        finally:
            os.close(at)

    def names(self, folder: str) -> dict[str, int]:
        """Return what is in a folder, with sizes; nothing for a folder that is not there."""
        found = {}
        try:
            with os.scandir(os.path.join(self._path, folder)) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    try:
                        about = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    found[entry.name] = about.st_size
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._trouble(error) from error
        return found

    def remove(self, name: str) -> None:
        """Remove a file; fine when it is not there."""
        try:
            os.unlink(os.path.join(self._path, name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._trouble(error) from error

    def remove_folder(self, folder: str) -> None:
        """Remove a folder that is empty; fine when it is not."""
        try:
            os.rmdir(os.path.join(self._path, folder))
        except OSError:
            return

    def where(self, name: str) -> str:
        """Return the path of a name."""
        return os.path.join(self._path, name)

    def _folder(self, folder: str) -> int:
        path = os.path.join(self._path, folder)
        for _ in range(_TRIES):
            private.make(path)
            try:
                return plain.folder(path)
            except FileNotFoundError:  # whoever removed the last file in it
                continue
        raise OSError(f"{path} is removed all the time")

    def _trouble(self, error: OSError) -> UnreachableError | RecordRefusedError:
        why = error.strerror or str(error)
        if isinstance(error, PermissionError):
            return RecordRefusedError(
                f"the volume at {self._path} cannot be written: {why}",
                hint="let the user that runs workers write there",
            )
        return UnreachableError(
            f"the volume at {self._path} does not answer as it should, so nothing was started:"
            f" {why}",
            hint="see that it is mounted and has space",
            sent=False,
        )


class VolumeCells:
    """Cells on a volume.

    Args:
        path: a folder on it that is ours.
    """

    def __init__(self, path: str) -> None:
        self._volume = Volume(path)

    def look(self, names: Sequence[str]) -> dict[str, Cell]:
        """Return what is in those cells that are not empty; see `Cells`."""
        found = {name: self._cell(name)[1] for name in names}
        return {name: cell for name, cell in found.items() if cell is not None}

    def swap(self, name: str, before: str, data: bytes) -> str:
        """Put a value into a cell; see `Cells`."""
        return self._put(name, before, data)

    def drop(self, name: str, before: str) -> None:
        """Empty a cell; see `Cells`. An empty file stays, so that its numbers go on."""
        self._put(name, before, b"")

    def where(self, name: str) -> tuple[str, str]:
        """Return what a cell is called, and the command that removes it; see `Cells`."""
        path = self._volume.where(name)
        return path, f"rm -r {path}"

    def _put(self, name: str, before: str, data: bytes) -> str:
        number, cell = self._cell(name)
        if (cell.version if cell else "") != before:
            raise MovedError(name)
        mine = number + 1
        made = self._volume.link(f"{name}/{_file(mine)}", data)
        faults.point("record.pushed")
        if not made:
            raise MovedError(name)
        there = self._numbers(name)
        if not there or there[-1] - mine >= _KEPT:
            # it stood still for so long that the number was there, and was removed, before
            self._volume.remove(f"{name}/{_file(mine)}")
            raise MovedError(name)
        for old in there:
            if old <= mine - _KEPT:
                self._volume.remove(f"{name}/{_file(old)}")
        return _version(mine, data)

    def _cell(self, name: str) -> tuple[int, Cell | None]:
        """Return the number of the value that counts (0 for none), and the value."""
        there = self._numbers(name)
        if not there:
            return 0, None
        try:
            data = self._volume.read(f"{name}/{_file(there[-1])}", MOST)
        except Broken:
            return there[-1], Cell(version=_version(there[-1], b"broken"), data=None)
        if not data:
            return there[-1], None
        return there[-1], Cell(version=_version(there[-1], data), data=data)

    def _numbers(self, name: str) -> list[int]:
        names = self._volume.names(name)
        return sorted(int(n) for n in names if len(n) == _DIGITS and n.isascii() and n.isdigit())


class VolumeObjects:
    """Objects on a volume; see `Objects`.

    Args:
        path: a folder on it that is ours.
    """

    def __init__(self, path: str) -> None:
        self._volume = Volume(path)

    def put(self, name: str, data: bytes) -> bool:
        """Make an object that is not there; see `Objects`."""
        return self._volume.link(name, data)

    def get(self, name: str) -> bytes | None:
        """Return what is in an object; see `Objects`."""
        try:
            return self._volume.read(name, MOST_OBJECT)
        except Broken:
            return None

    def names(self, folder: str, start: str = "") -> list[Kept]:
        """Return the objects in a folder, in order; see `Objects`."""
        there = self._volume.names(folder)
        return [Kept(name, size) for name, size in sorted(there.items()) if name >= start]

    def drop(self, name: str) -> None:
        """Remove an object; see `Objects`."""
        self._volume.remove(name)
        self._volume.remove_folder(name.rpartition("/")[0])


def _file(number: int) -> str:
    return f"{number:0{_DIGITS}d}"


def _version(number: int, data: bytes) -> str:
    return f"{number}.{hashlib.sha256(data).hexdigest()[:16]}"
