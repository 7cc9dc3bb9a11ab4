"""Copies the worker's log to standard output, where the cluster keeps it: byte by byte.

What is copied is read from the file, so nothing is held for a reader who is slow, and nothing here
waits for one: the copy is made by a thread of its own. Nothing but the log is printed, neither here
nor to standard error, since a cluster keeps both in one.

containerd takes the end of a line away before it keeps the line, and a carriage return before that
with it (`readLine` of internal/cri/io/logger.go). So one more is printed before each end of a line
that has one; whoever reads a log whose runtime keeps it takes it out (`near.printed`).
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Final

from outpost_shared.backoff import Backoff
from outpost_worker.folder import files

_CHUNK: Final = 64 << 10
#: Seconds between two looks at the file: right after something came, and when nothing does.
_SOON: Final = 0.01
_LATE: Final = 0.25
#: Seconds without a reader after which the end of the log is not waited for any more.
STALL: Final = 15.0


def _untaken(fd: int) -> int:
    """Return how many bytes in a pipe nobody has read; 0 of what is no pipe."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return 0
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4), sys.byteorder)


class Copy:
    """The copy of one log.

    Args:
        path: the log, which may not be there yet.
        out: the descriptor to write to.

    Attributes:
        copied: bytes of the log that were written.
        newline: a line end was written behind the log that is none of its own.
        trouble: why nothing is written any more; "" while it is.
    """

    def __init__(self, path: Path, out: int) -> None:
        self.copied = 0
        self.newline = False
        self.trouble = ""
        self._path = path
        self._out = out
        self._whole = threading.Event()
        self._moved = time.monotonic()
        self._last = b""
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self, within: float) -> bool:
        """Write what is left, once nobody writes to the log any more; whether all of it was.

        Args:
            within: seconds at most; a reader who takes nothing is waited for less.
        """
        self._whole.set()
        self._moved = time.monotonic()
        end = time.monotonic() + within
        while self._thread.is_alive():
            now = time.monotonic()
            if now > min(end, self._moved + STALL):
                return False
            self._thread.join(0.05)
        # what is in the pipe yet when this program ends, no runtime keeps
        while not self.trouble and _untaken(self._out):
            if time.monotonic() > min(end, self._moved + STALL):
                return False
            time.sleep(_SOON)
        return not self.trouble

    # --- in the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        fd = -1
        try:
            pause = Backoff(_SOON, _LATE, growth=1.5)
            while True:
                # asked before reading: what was written before the end is then read for certain
                whole = self._whole.is_set()
                if fd < 0:
                    fd = self._open()
                while fd >= 0 and (data := os.pread(fd, _CHUNK, self.copied)):
                    self._write(data)
                    pause.reset()
                if whole:
                    break
                self._whole.wait(pause.pause())
            if self._last not in (b"", b"\n"):
                files.write_all(self._out, b"\r\n" if self._last == b"\r" else b"\n")
                self.newline = True
        except OSError as error:
            self.trouble = error.strerror or str(error)
        finally:
            if fd >= 0:
                os.close(fd)

    def _open(self) -> int:
        try:
            return files.open_plain(str(self._path))
        except FileNotFoundError:
            return -1

    def _write(self, data: bytes) -> None:
        shown = data.replace(b"\r\n", b"\r\r\n")
        if self._last == b"\r" and data.startswith(b"\n"):
            shown = b"\r" + shown
        before, done = self.copied, 0
        while done < len(shown):
            done += os.write(self._out, memoryview(shown)[done:])
            self._moved = time.monotonic()
            if done < len(shown):  # it may be the last that anybody takes
                self.copied = before + len(shown[:done].replace(b"\r\r\n", b"\r\n"))
        self._last = data[-1:]
        self.copied = before + len(data)
