"""The output of one worker as it is written down: a file of exact offsets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from outpost_cloudrun.keeper.disk import writing
from outpost_shared import faults

#: Bytes that are read at once.
PIECE: Final = 1 << 18


class HoleError(ValueError):
    """A piece of a log does not begin where the log ends, or before; what lies between is missing.

    Args:
        held: how many bytes the log has.
        offset: where the piece begins.
    """

    def __init__(self, held: int, offset: int) -> None:
        super().__init__(f"a piece of the log begins at byte {offset}, and {held} bytes are here")


class Output:
    """A worker's output. Written by one process only; reading is for everybody.

    Args:
        path: the file.
        cap: bytes that are kept; what is beyond is dropped.

    Attributes:
        held: bytes that are here.
        seen: offset of the first byte that was not seen yet, whether or not there was room.
    """

    def __init__(self, path: Path, cap: int) -> None:
        self._path = path
        self._cap = cap
        self.held = self.seen = _size(path)

    def put(self, offset: int, data: bytes) -> bool:
        """Write a piece where it belongs; return whether anything of it was new.

        Args:
            offset: of the first byte of `data` in the whole output.
            data: the bytes.

        Raises:
            HoleError: bytes before it are missing; nothing was written.
            NotWrittenError: the disk said no; what was written before that counts.
        """
        if offset > self.seen or offset < 0:
            raise HoleError(self.held, offset)
        end = offset + len(data)
        if end <= self.seen:
            return False
        fresh = memoryview(data)[self.held - offset : self._cap - offset]
        if len(fresh) and self.held < self._cap:
            with writing(self._path):
                self._write(fresh)
            faults.point("keeper.logged")
        self.seen = end
        return True

    def _write(self, fresh: memoryview) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        try:
            while fresh:
                written = os.pwrite(fd, fresh, self.held)
                self.held += written
                self.seen = max(self.seen, self.held)
                fresh = fresh[written:]
        finally:
            os.close(fd)

    def read(self, offset: int, most: int = PIECE) -> bytes:
        """Return what there is from byte `offset` on; b"" when nothing is there."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(fd, most, offset)
        finally:
            os.close(fd)

    def sync(self) -> None:
        """Bring it to the disk.

        Raises:
            NotWrittenError: the disk said no.
        """
        if self.held:
            with writing(self._path):
                fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0
