"""A process as one word, to be written down and asked about later: boot, pid and start time.

Where there is no `/proc` (macOS), `ps` says when a process began, and the boot stays empty. What
even `ps` does not know is in doubt, and counts as living as long as there is such a process: who
waits in vain can be told to continue, what was taken from a living process cannot be given back.
"""

from __future__ import annotations

import os
from functools import lru_cache

from outpost_shared import process, programs

#: Seconds for `ps`, which looks at one process.
_PATIENCE = 5.0


def me() -> str:
    """Return this process's word: `<boot id>:<pid>:<start>`."""
    return _word(os.getpid())


def alive(word: str) -> bool:
    """Whether the process of a word lives; what follows a `/` in it does not matter.

    A word of another boot is of a process that is gone. So is one that cannot be read.
    """
    boot, _, rest = word.partition("/")[0].partition(":")
    number, _, start = rest.partition(":")
    if not (number.isascii() and number.isdigit()):
        return False
    pid = int(number)
    if process.start_time(os.getpid()):
        return start.isdigit() and process.lives(pid, int(start), boot)
    if not _exists(pid):
        return False
    known = "" if boot else start  # by a machine's boot and its ticks, `ps` knows nobody
    return not known or _began(pid) in ("", known)


@lru_cache(maxsize=1)
def _word(pid: int) -> str:
    if start := process.start_time(pid):
        return f"{process.boot_id()}:{pid}:{start}"
    return f":{pid}:{_began(pid)}"


def _began(pid: int) -> str:
    """Return when a process began, to the second, as one word; "" when `ps` does not say."""
    import subprocess

    try:
        done = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)],
            env={"PATH": programs.outside(os.environ.get("PATH", "")), "LC_ALL": "C", "TZ": "UTC0"},
            capture_output=True, text=True, check=False, timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "".join(c for c in done.stdout if c.isascii() and c.isalnum())


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:  # somebody else's
        return True
    except (OSError, OverflowError):
        return False
    return True
