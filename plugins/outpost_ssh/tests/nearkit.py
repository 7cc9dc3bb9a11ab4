"""A near terminal with a person at it, and an agent that tells of every key."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence

DEADLINE = 30.0

AGENT = """
import os, signal, tty
def say(text): os.write(1, text.encode())
def resized(*_):
    size = os.get_terminal_size(0)
    say(f"<{size.columns}x{size.lines}>")
signal.signal(signal.SIGWINCH, resized)
tty.setraw(0)
say("\x1b[38;5;208mORANGE\x1b[0m \x1b[?1000h\x1b[?1006h \xe4\xf6\xfc ready ")
while True:
    keys = os.read(0, 100)
    say(f"[{keys.hex()}]")
    if keys == b"q":
        break
"""


class Near:
    """A program on a terminal of its own, and the person at it."""

    def __init__(self, argv: Sequence[str], env: dict[str, str], columns: int, rows: int) -> None:
        self.master, self.slave = os.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self.slave)
        self.seen = bytearray()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            stdin=self.slave, stdout=self.slave, stderr=self.slave, env=env,
        )  # fmt: skip

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        while keys:
            keys = keys[os.write(self.master, keys) :]

    def look(self, seconds: float = 0.05) -> None:
        if select.select([self.master], [], [], seconds)[0]:
            self.seen += os.read(self.master, 65536)

    def until(self, wanted: bytes) -> bytes:
        """Look until something is shown; return all that was shown up to there."""
        deadline = time.monotonic() + DEADLINE
        start = 0
        while (at := self.seen.find(wanted, start)) < 0:
            start = max(0, len(self.seen) - len(wanted))
            assert time.monotonic() < deadline, self.seen[-3000:]
            assert self.process.poll() is None or self._more(), self.seen[-3000:]
            self.look()
        shown = bytes(self.seen[: at + len(wanted)])
        del self.seen[: at + len(wanted)]
        return shown

    def _more(self) -> bool:
        return bool(select.select([self.master], [], [], 0.2)[0])

    def end(self, seconds: float = DEADLINE) -> int:
        """Look until the program has ended; return its exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.seen[-3000:]
            self.look()
        while self._more():
            self.look()
        return self.process.returncode

    def as_before(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        for fd in (self.master, self.slave):
            os.close(fd)
