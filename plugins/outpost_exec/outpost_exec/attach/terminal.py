"""The near terminal: lent to a program far away, and given back as it was, whatever happens.

Two things are given back: what the kernel keeps (`termios`), and what the terminal itself was told
by the far program (other screen, mouse, hidden cursor, …), which a program whose connection broke
can not undo any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import struct
import termios
import tty
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Final, TypeAlias

Size: TypeAlias = tuple[int, int, int, int]

#: What a terminal that tells no size is taken for.
_USUAL: Final = (80, 24)
#: RFC 4254, 8: the keys that a program finds set on its terminal. Backspace is the one that shows.
_KEYS: Final = {
    1: termios.VINTR, 2: termios.VQUIT, 3: termios.VERASE, 4: termios.VKILL, 5: termios.VEOF,
    6: termios.VEOL, 7: termios.VEOL2, 8: termios.VSTART, 9: termios.VSTOP, 10: termios.VSUSP,
}  # fmt: skip
_IUTF8, _ISIG, _ICANON, _ICRNL, _ECHO = 42, 50, 51, 36, 53
#: Set in `c_iflag` when the kernel is to rub out whole characters (the same on Linux and macOS).
_C_IUTF8: Final = 0o40000
#: `\e[?1049h` and its like, and the beginning of one at the end of a piece.
_MODES: Final = re.compile(rb"\x1b\[\?([0-9;]{1,40})([hl])")
_UNFINISHED: Final = re.compile(rb"\x1b(?:\[[?>]?[0-9;]{0,40} ?)?\Z")
#: What else is told to terminals, and how it is taken back: the cursor's shape, reports of keys.
_OTHERS: Final = (
    (re.compile(rb"\x1b\[[1-6] q"), b"\x1b[0 q"),
    (re.compile(rb"\x1b\[>4;[12]m"), b"\x1b[>4;0m"),
    (re.compile(rb"\x1b\[>[0-9]+u"), b"\x1b[<9u"),
)
#: On from the start: line wrap and the cursor. All other modes are off.
_ON_AT_FIRST: Final = frozenset((7, 25))
_OTHER_SCREEN: Final = (47, 1047, 1049)
#: Ends a sequence that the connection broke in two.
_NO_MORE: Final = b"\x18"
#: Colours, character set and keypad.
_PLAIN: Final = b"\x1b[0m\x1b(B\x0f\x1b>"
#: The whole screen scrolls again; that moves the cursor, which is put back.
_SCROLLS: Final = b"\x1b7\x1b[r\x1b8"


class Traces:
    """What a terminal was told to be by the output that went through."""

    def __init__(self) -> None:
        self._changed: dict[int, None] = {}  # in the order of their change
        self._others: set[bytes] = set()
        self._escaped = False
        self._tail = b""

    def note(self, data: bytes) -> None:
        """Look at output on its way to the terminal."""
        if b"\x1b" not in data and not self._tail:
            return
        self._escaped = True
        data = self._tail + data
        for match in _MODES.finditer(data):
            for number in match[1].split(b";"):
                if number:
                    self._set(int(number), match[2] == b"h")
        self._others.update(undo for told, undo in _OTHERS if told.search(data))
        unfinished = _UNFINISHED.search(data)
        self._tail = unfinished[0] if unfinished else b""

    def _set(self, mode: int, on: bool) -> None:
        self._changed.pop(mode, None)
        if on is not (mode in _ON_AT_FIRST):
            self._changed[mode] = None

    @property
    def elsewhere(self) -> bool:
        """Whether the other screen is shown, the one that leaves the first as it was."""
        return any(mode in self._changed for mode in _OTHER_SCREEN)

    def undo(self) -> bytes:
        """Return what makes the terminal a usual one again; b"" when it never was another."""
        if not self._escaped:
            return b""
        # Leaving the other screen comes last: what was told before that may belong to it.
        modes = [
            b"\x1b[?%d%s" % (mode, b"h" if mode in _ON_AT_FIRST else b"l")
            for mode in sorted(self._changed, key=lambda mode: mode in _OTHER_SCREEN)
        ]
        scrolls = b"\x1b[r" if self.elsewhere else _SCROLLS
        return b"".join((_NO_MORE, scrolls, _PLAIN, *sorted(self._others), *modes))


class Terminal:
    """The terminal that this program was started on.

    Args:
        reading: descriptor of its keyboard.
        writing: descriptor of its screen.

    Attributes:
        clean: the far program has ended well, and has undone all that it told the terminal.
    """

    def __init__(self, reading: int = 0, writing: int = 1) -> None:
        self._in = reading
        self._out = writing
        self._screen = -1
        self._before = termios.tcgetattr(reading)
        self.traces = Traces()
        self.clean = False

    # --- what it is ---------------------------------------------------------------------------

    def size(self) -> Size:
        """Return columns, rows, and the same in pixels (0 where it does not say)."""
        try:
            answer = fcntl.ioctl(self._out, termios.TIOCGWINSZ, b"\0" * 8)
        except OSError:
            answer = b"\0" * 8
        rows, columns, width, height = struct.unpack("HHHH", answer)
        return columns or _USUAL[0], rows or _USUAL[1], width, height

    def modes(self) -> Mapping[int, int]:
        """Return the modes to ask sshd for: our keys, and neither echo nor lines at first."""
        keys = self._before[6]
        modes = {
            code: keys[index][0]
            for code, index in _KEYS.items()
            if isinstance(keys[index], bytes) and keys[index] != b"\0"
        }
        modes[_IUTF8] = int(bool(self._before[0] & _C_IUTF8))
        return modes | {_ECHO: 0, _ICANON: 0, _ISIG: 0, _ICRNL: 0}

    # --- lending it ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def lent(self, resized: Callable[[], object], ended: Callable[[], object]) -> Iterator[None]:
        """Pass every key and every byte through, until the end of the block; then as before.

        Args:
            resized: called when its size has changed.
            ended: called when this program is told to end (TERM, HUP) while it is lent; that
                signal then takes its usual effect after the terminal was given back.
        """
        told: list[int] = []

        def end(signum: int) -> None:
            told.append(signum)
            ended()

        def woken() -> None:  # after a stop: whoever had the terminal meanwhile has changed it
            self._enter()
            resized()

        handlers = {
            signal.SIGWINCH: resized,
            signal.SIGCONT: woken,
            signal.SIGTERM: lambda: end(signal.SIGTERM),
            signal.SIGHUP: lambda: end(signal.SIGHUP),
        }
        try:
            with _signals(handlers):
                try:
                    self._screen = _reopened(self._out)
                    self._enter()
                    yield
                finally:
                    self._leave()
        finally:
            if told:
                os.kill(os.getpid(), told[0])

    def _enter(self) -> None:
        tty.setraw(self._in, termios.TCSANOW)

    def _leave(self) -> None:
        with contextlib.suppress(termios.error, OSError):  # it has gone
            termios.tcsetattr(self._in, termios.TCSANOW, self._before)
            if not self.clean and (undo := self.traces.undo()):
                # A terminal that takes nothing is not waited for.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._screen, undo)
                # What the mouse was still telling the far program is no input for a shell.
                termios.tcflush(self._in, termios.TCIFLUSH)
        if self._screen >= 0:
            os.close(self._screen)
            self._screen = -1

    async def read(self) -> bytes:
        """Wait for keys; b"" when the terminal has gone."""
        await _ready(self._in, writing=False)
        try:
            return os.read(self._in, 65536)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        """Show output; returns when the terminal has taken it all.

        Raises:
            OSError: the terminal has gone.
        """
        self.traces.note(data)
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._screen, rest) :]
            except BlockingIOError:
                await _ready(self._screen, writing=True)


def _reopened(fd: int) -> int:
    """Open a terminal anew: non-blocking must not become a property of what others use."""
    for name in (os.ttyname(fd), "/dev/tty"):
        with contextlib.suppress(OSError):
            return os.open(name, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return os.dup(fd)  # it belongs to somebody else: a full screen may hold us up


async def _ready(fd: int, *, writing: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    if writing:
        loop.add_writer(fd, wake)
    else:
        loop.add_reader(fd, wake)
    try:
        await ready
    finally:
        if writing:
            loop.remove_writer(fd)
        else:
            loop.remove_reader(fd)


@contextlib.contextmanager
def _signals(handlers: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Handle signals in the running loop for a while; then whoever handled them does again."""
    loop = asyncio.get_running_loop()
    before: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}
    try:
        for number, handler in handlers.items():
            # Only the main thread is told of signals; an attach in another one misses them.
            with contextlib.suppress(ValueError, RuntimeError):
                earlier = signal.getsignal(number)
                if earlier is signal.SIG_IGN:  # whoever started us wants it so (nohup)
                    continue
                loop.add_signal_handler(number, handler)
                before[number] = earlier
        yield
    finally:
        for number, earlier in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)
