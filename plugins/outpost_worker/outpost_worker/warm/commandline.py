"""The command line that others see of this process: another one, in the room of its own.

A supervisor is known by `boot.py run FOLDER`. One that was forked has the memory of the process
that it comes from, and the kernel reads a command line from there each time it is asked.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: Fields of `/proc/self/stat` after the name, which is the second.
_ARG_START, _ARG_END = 48 - 3, 49 - 3


class CommandLine:
    """Where the command line of this process, and of all that it forks, lies in memory.

    Attributes:
        words: the arguments that it was started with.
    """

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        self._start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        self._room = end - self._start
        self.words = _read().split(b"\0")[:-1]

    def fits(self, words: Sequence[bytes]) -> bool:
        """Whether there is room for these arguments."""
        return sum(map(len, words)) + len(words) <= self._room

    def show(self, words: Sequence[bytes]) -> None:
        """Have this process's command line be these arguments from now on.

        Raises:
            OSError: this system does not let us, or there is no room for them.
        """
        text = b"\0".join(words) + b"\0"
        if not self.fits(words):
            raise OSError(0, "there is no room for that command line")
        memory = os.open("/proc/self/mem", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(memory, text.ljust(self._room, b"\0"), self._start)
        finally:
            os.close(memory)
        if _read().rstrip(b"\0") != text.rstrip(b"\0"):
            raise OSError(0, "this system shows another command line")


def _read() -> bytes:
    with open("/proc/self/cmdline", "rb", buffering=0) as file:
        return file.read()
