"""A process as one word, to be written down and asked about later: boot, pid and start time."""

from __future__ import annotations

import os

from outpost_core.worker import process


def me() -> str:
    """Return this process's word: `<boot id>:<pid>:<start ticks>`."""
    pid = os.getpid()
    return f"{process.boot_id()}:{pid}:{process.start_time(pid)}"


def alive(word: str) -> bool:
    """Whether the process of a word lives; what follows a `/` in it does not matter.

    A word of another boot is of a process that is gone. So is one that cannot be read.
    """
    boot, _, rest = word.partition("/")[0].partition(":")
    pid, _, start = rest.partition(":")
    return pid.isdigit() and start.isdigit() and process.lives(int(pid), int(start), boot)
