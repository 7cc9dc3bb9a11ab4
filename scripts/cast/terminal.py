"""A terminal without a window: a real shell, and every picture that it shows."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Final, Self, TypeAlias

import pyte

#: seconds that a step may take on a machine that is very busy.
PATIENCE: Final = 120.0
PROMPT: Final = "$ "
#: to the screen of a program that fills the window, and back.
_OTHER_SCREEN: Final = re.compile(rb"(\x1b\[\?1049[hl])")


@dataclass(frozen=True)
class Run:
    """Characters of a line that look the same.

    Args:
        column: where they begin, from 0.
        text: the characters.
        colour: name of the colour; "default" for none.
        bold: whether they are bold.
    """

    column: int
    text: str
    colour: str
    bold: bool


Row: TypeAlias = tuple[Run, ...]


@dataclass
class Frame:
    """One picture.

    Args:
        rows: from the top to the bottom.
        seconds: how long it is shown.
    """

    rows: tuple[Row, ...]
    seconds: float


class Terminal:
    """A shell that is typed to, and what it shows.

    Args:
        columns: of the window.
        lines: of the window.
        env: the shell's environment.
        cwd: where it starts.
        pause: the most seconds between two pictures; more is cut.
    """

    def __init__(
        self, columns: int, lines: int, env: Mapping[str, str], cwd: Path, pause: float = 0.7
    ) -> None:
        self.frames: list[Frame] = []
        self._pause = pause
        self._screens = [pyte.Screen(columns, lines), pyte.Screen(columns, lines)]
        self._streams = [pyte.ByteStream(screen) for screen in self._screens]
        self._at = 0
        self._pid, self._line = pty.fork()
        if not self._pid:
            os.chdir(cwd)
            shell = ["bash", "--norc", "--noprofile", "-i"]
            os.execvpe(shell[0], shell, {**env, "PS1": PROMPT})  # noqa: S606
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._line, termios.TIOCSWINSZ, size)
        self.wait(self._prompts)
        self.frames.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGHUP)
        os.close(self._line)
        os.waitpid(self._pid, 0)

    def type(self, command: str) -> None:
        """Type a command and press Enter; return when the prompt is there again."""
        self.begin(command)
        self.wait(self._prompts)

    def begin(self, command: str) -> None:
        """Type a command and press Enter."""
        for start in range(0, len(command), 4):
            typed = command[start : start + 4]
            os.write(self._line, typed.encode())
            self.wait(partial(self._ends_with, typed.rstrip()))
            self.frames[-1].seconds = 0.06
        self.linger(0.3)
        os.write(self._line, b"\n")

    def interrupt(self) -> None:
        """Press Ctrl-C; return when the prompt is there again."""
        os.write(self._line, b"\x03")
        self.wait(self._prompts)

    def wait(self, until: Callable[[], bool]) -> None:
        """Take pictures until something is to be seen.

        Raises:
            TimeoutError: it does not come; the message is what is there.
        """
        deadline = time.monotonic() + PATIENCE
        since = time.monotonic()
        while not until():
            ready, _, _ = select.select([self._line], [], [], 0.2)
            if ready:
                for part in _OTHER_SCREEN.split(os.read(self._line, 65536)):
                    if _OTHER_SCREEN.fullmatch(part):
                        self._at = int(part.endswith(b"h"))
                        self._screens[1].reset()
                    else:
                        self._streams[self._at].feed(part)
            now = time.monotonic()
            if self._take(now - since):
                since = now
            if now > deadline:
                raise TimeoutError(f"after {PATIENCE:.0f} s this is there:\n{self.text()}")

    def linger(self, seconds: float) -> None:
        """Show what is there for some time longer."""
        self.frames[-1].seconds += seconds

    def text(self) -> str:
        """Return what is to be seen, without colours."""
        return "\n".join(line.rstrip() for line in self._screens[self._at].display).rstrip("\n")

    def _ends_with(self, text: str) -> bool:
        return self.text().endswith(text)

    def _prompts(self) -> bool:
        shown = self._screens[self._at]
        return self._at == 0 and shown.display[shown.cursor.y].rstrip() == PROMPT.rstrip()

    def _take(self, since: float) -> bool:
        rows = tuple(map(self._row, range(self._screens[self._at].lines)))
        if self.frames and self.frames[-1].rows == rows:
            return False
        if self.frames:
            self.frames[-1].seconds = max(self.frames[-1].seconds, min(since, self._pause))
        self.frames.append(Frame(rows, 0.05))
        return True

    def _row(self, number: int) -> Row:
        screen = self._screens[self._at]
        line = screen.buffer[number]
        cells = [(x, line[x].data, line[x].fg, line[x].bold) for x in range(screen.columns)]
        while cells and cells[-1][1] == " ":
            cells.pop()
        return tuple(
            Run(some[0][0], "".join(cell[1] for cell in some), colour, bold)
            for (colour, bold), group in groupby(cells, key=lambda cell: cell[2:])
            for some in [list(group)]
            if any(cell[1] != " " for cell in some)
        )
