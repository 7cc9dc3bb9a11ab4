"""Takes secrets out of where other programs of this user could read them about this process.

`del os.environ[NAME]` does not: what stood in the environment when a process began stays readable
in `/proc/PID/environ` as long as it lives, and agents run as the same user.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Final

#: prctl(2), PR_SET_DUMPABLE: with 0, `/proc/PID` belongs to root, and nobody of the same user can
#: read this process's memory or trace it.
_SET_DUMPABLE: Final = 4
#: Places of env_start and env_end in /proc/PID/stat (proc(5)), counted from after the name.
_ENV_START, _ENV_END = 47, 48


def hide(names: Iterable[str]) -> None:
    """Overwrite the values of variables in this process's first environment, and lock it.

    Args:
        names: of variables that were read before.
    """
    place = _environment()
    if place is not None:
        start, size = place
        block = ctypes.string_at(start, size)
        for name in names:
            at = 0 if block.startswith(f"{name}=".encode()) else block.find(f"\0{name}=".encode())
            if at >= 0:
                begin = block.index(b"=", at) + 1
                end = block.find(b"\0", begin)
                ctypes.memset(start + begin, 0, (size if end < 0 else end) - begin)
    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def _environment() -> tuple[int, int] | None:
    """Return where the first environment is, and how long; None when nobody says."""
    try:
        with open("/proc/self/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if len(words) <= _ENV_END:
        return None
    start, end = int(words[_ENV_START]), int(words[_ENV_END])
    return (start, end - start) if 0 < start < end else None
