"""Collects what ends without a parent, where this program is the first process of its container."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

#: Seconds between two looks. A child of our own is collected by whoever started it long before it
#: was seen twice.
LOOK_EVERY: Final = 5.0


async def collect(every: float = LOOK_EVERY) -> None:
    """Collect ended children that nobody waits for, until cancelled.

    Args:
        every: seconds between two looks.
    """
    before: set[int] = set()
    while True:
        await asyncio.sleep(every)
        now = ended()
        for pid in now & before:
            _collect(pid)
        before = now - before


def _collect(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def ended() -> set[int]:
    """Return the children of this process that have ended and were not collected."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            for word in (task / "children").read_text().split():
                with contextlib.suppress(OSError):
                    about = Path(f"/proc/{word}/stat").read_text()
                    if about.rpartition(")")[2].split()[0] == "Z":
                        found.add(int(word))
    return found
