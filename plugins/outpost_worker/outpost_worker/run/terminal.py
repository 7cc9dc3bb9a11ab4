"""The relay of an interactive agent's terminal.

An interactive agent gets a terminal of its own. What it prints goes to the log, and, when the
supervisor itself sits on a terminal (a tmux pane), there too, as does the typing back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time

from outpost_worker.folder import files
from outpost_worker.run.view import WAITING, view
from outpost_worker.system.loop import READ, Outlet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from outpost_worker.system.loop import Loop

#: Rows and columns of an interactive agent that nobody looks at.
_SIZE = (50, 200)
#: Seconds for the last output to reach a slow terminal.
_PATIENCE = 1.0


class Relay:
    """An agent's terminal, and everything that is connected to it.

    Args:
        loop: where its descriptors are waited for.
        folder: the worker's folder; the FIFO for nudges is made in it.
        output: called with what the agent prints.

    Attributes:
        name: path of the agent's terminal.
        slave: its descriptor, to be closed once the agent has the terminal.
    """

    def __init__(self, loop: Loop, folder: str, output: Callable[[bytes], object]) -> None:
        self._loop = loop
        self._output = output
        self._master, self.slave = os.openpty()
        self.name = os.ttyname(self.slave)
        os.set_blocking(self._master, False)
        self._keyboard = Outlet(loop, os.dup(self._master), WAITING)
        self._fifo_path = os.path.join(folder, files.INPUT)
        self._fifo = files.make_fifo(self._fifo_path)
        self._view = view(loop, 1) if os.isatty(0) and os.isatty(1) else None
        self._before: list[Any] | None = None
        if self._view:
            self._enter()
        self.resize()
        loop.add(self._master, READ, self._print)
        loop.add(self._fifo, READ, lambda: self._type(self._fifo))

    @property
    def ended(self) -> bool:
        """Whether nobody has the agent's terminal open any more and all was read."""
        return self._master < 0

    def resize(self) -> None:
        """Give the agent's terminal the size of ours."""
        import termios

        size = b""
        if self._view:
            with contextlib.suppress(OSError):
                size = fcntl.ioctl(1, termios.TIOCGWINSZ, b"\0" * 8)
        if not any(size[:4]):
            size = struct.pack("HHHH", *_SIZE, 0, 0)
        if self._master >= 0:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def close(self) -> None:
        """Let the last output reach our terminal, and leave that as it was."""
        self._end()
        if self._fifo >= 0:
            self._loop.remove(self._fifo)
            os.close(self._fifo)
            self._fifo = -1
            files.discard(self._fifo_path)
        if self._view:
            self._loop.remove(0)
            end = time.monotonic() + _PATIENCE
            while self._view.busy and time.monotonic() < end:
                self._loop.turn(0.05)
            self._view.close()
            self._leave()
            self._view = None

    def _print(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: the last one has closed it
                raise
            data = b""
        if not data:
            self._end()
            return
        self._output(data)
        if self._view:
            self._view.write(data)

    def _end(self) -> None:
        if self._master >= 0:
            self._loop.remove(self._master)
            self._keyboard.close()
            os.close(self._master)
            self._master = -1

    def _type(self, source: int) -> None:
        try:
            data = os.read(source, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._keyboard.write(data)
        else:  # our own terminal is gone
            self._loop.remove(source)

    def _enter(self) -> None:
        import termios
        import tty

        try:
            self._before = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSANOW)
        except termios.error:
            return
        self._loop.add(0, READ, lambda: self._type(0))

    def _leave(self) -> None:
        import termios

        if self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSANOW, self._before)
