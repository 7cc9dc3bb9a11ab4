"""A whole terminal for a view that continues: the other screen, given back on every way out."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final, Self

from outpost_manager.cli import output
from outpost_manager.cli.render import crop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

#: to the other screen, without a cursor; and back.
ENTER: Final = "\x1b[?1049h\x1b[?25l"
LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
#: what ends this program; SIGKILL cannot be answered.
_ENDS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Screen:
    """The other screen of the terminal on standard output; use it as a context manager.

    What a person saw before is there again afterwards, also when this program is told to end, or
    is stopped (Ctrl-Z) and continues.

    Args:
        changed: is set when the window got another size, or the program continues.
    """

    def __init__(self, changed: asyncio.Event) -> None:
        self._changed = changed
        self._before: dict[int, Any] = {}
        self._inside = False

    def __enter__(self) -> Self:
        for number in _ENDS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup wants no end
                self._before[number] = signal.signal(number, self._end)
        self._before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stop)
        self._before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, self._redraw)
        self._enter()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def show(self, lines: Sequence[str]) -> None:
        """Show the lines, cut to the window."""
        columns, rows = self.size()
        shown = [output.shown(crop(line, columns)) + _REST_OF_LINE for line in lines[:rows]]
        # no newline after the last one: it would push the first out of the window
        self._write(_HOME + "\r\n".join(shown) + _REST_OF_SCREEN)

    def size(self) -> tuple[int, int]:
        """Return columns and rows of the window."""
        try:
            columns, rows = os.get_terminal_size(sys.stdout.fileno())
        except (OSError, ValueError):
            return 80, 24
        return columns or 80, rows or 24

    def _enter(self) -> None:
        self._inside = True
        self._write(ENTER)

    def _leave(self) -> None:
        if self._inside:
            self._inside = False
            self._write(LEAVE)

    def _write(self, text: str) -> None:
        """Write past Python's buffer, which a signal may have found in use."""
        rest = memoryview(text.encode(sys.stdout.encoding or "utf-8", "replace"))
        fd = sys.stdout.fileno()
        while rest:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:
                continue
            except OSError:  # the terminal is gone
                return

    def _end(self, number: int, _frame: object) -> None:
        self._leave()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _stop(self, number: int, _frame: object) -> None:
        self._leave()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # returns when the program continues
        signal.signal(number, self._stop)
        self._enter()
        self._changed.set()

    def _redraw(self, _number: int, _frame: object) -> None:
        self._changed.set()
