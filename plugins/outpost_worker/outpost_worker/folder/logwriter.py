"""Writes `output.log`: byte-exact, masked, and never longer than its cap and a marker."""

from __future__ import annotations

import errno
import os

from outpost_worker.folder import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from outpost_worker.folder.masking import Masker

#: Of an output that is read for its last lines (usage, outcome), this much of the end is kept
#: behind the marker.
TAIL = 64 * 1024


class LogWriter:
    """Appends what the agent prints to the log.

    A full disk or any other error of the disk ends the writing, never the agent: `error` tells
    its number.

    Args:
        path: the file.
        cap: bytes after which nothing but a marker is written.
        masker: takes secrets out; None when there are none.
        keep_tail: write the last `TAIL` bytes of what was cut behind the marker.
    """

    def __init__(self, path: str, cap: int, masker: Masker | None, *, keep_tail: bool) -> None:
        self._fd = files.open_own(path, os.O_WRONLY | os.O_APPEND)
        self._cap = cap
        self._masker = masker
        self._keep_tail = keep_tail
        self._tail = b""
        self.size = 0
        self.truncated = False
        self.error = 0

    def feed(self, data: bytes) -> bytes:
        """Write what the agent printed; return it as it may be shown on a terminal."""
        if self._masker:
            data = self._masker.feed(data)
        self._append(data)
        return data

    def close(self) -> bytes:
        """Write what was held back and let go of the file; return it as `feed` does.

        Fine when it was closed before.
        """
        if self._fd < 0:
            return b""
        rest = self._masker.close() if self._masker else b""
        self._append(rest)
        if self._tail:
            # cut at a line, so that what reads the log by lines finds whole ones
            self._write(self._tail[self._tail.find(b"\n") + 1 :])
        os.close(self._fd)
        self._fd = -1
        return rest

    def _append(self, data: bytes) -> None:
        if not self.truncated and not self.error:
            room = self._cap - self.size
            self._write(data[:room] if len(data) > room else data)
            data = data[room:]
            if data:
                self.truncated = True
                self._write(b"\n[outpost: the log was cut here, at %d bytes]\n" % self._cap)
        if data and self.truncated and self._keep_tail:
            self._tail = (self._tail + data)[-TAIL:]

    def _write(self, data: bytes) -> None:
        if self.error or not data:
            return
        try:
            while data:
                done = os.write(self._fd, data)
                self.size += done
                data = data[done:]
        except OSError as error:
            self.error = error.errno or errno.EIO
            self.truncated = True
            self._keep_tail = False
