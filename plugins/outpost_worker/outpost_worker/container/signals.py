"""Hears SIGTERM for certain.

`loop.add_signal_handler` does not: its signals come through the very pipe by which other threads
wake the loop, and where that is full, as with some hundred streams that end at once, the signal is
dropped. So signals have a pipe of their own here.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable


def on_end(call: Callable[[], None]) -> None:
    """Have a function called in the running loop at SIGTERM and SIGINT; in the main thread."""
    loop = asyncio.get_running_loop()
    heard, told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def hear() -> None:
        if os.read(heard, 4096):
            call()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _heard)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    loop.add_reader(heard, hear)


def _heard(number: int, frame: object) -> None:
    """Do nothing: the number is in the pipe already."""
