"""A mark that every process of a worker carries, and that it cannot take off by accident.

Whoever starts a process can clear its environment, close its pipes, give it a session of its own
and end before it, so that nothing of these tells whose it is. A resource limit stays: every child
has it, and without privileges it can only be lowered. Linux keeps, and has not looked at since
2.4, a limit on file locks (`RLIMIT_LOCKS`); the number in it is made from the worker's folder.

It proves nothing against a program that means to hide, which can lower the number; a PID namespace
does. It finds what is left of all others.
"""

from __future__ import annotations

import os
import sys

import outpost_shared.process as process

_RLIMIT_LOCKS = 10
_NAME = b"Max file locks"


def number(folder: str) -> int:
    """Return the mark of the worker in `folder`, in this boot of the machine."""
    import _blake2

    text = os.fsencode(os.path.realpath(folder)) + process.boot_id().encode()
    digest = _blake2.blake2b(text, digest_size=8).digest()
    return 1 << 61 | int.from_bytes(digest, "big") >> 3


def take(folder: str) -> bool:
    """Mark this process and all that it will start; returns whether the system does that."""
    mark = number(folder)
    try:
        import _ctypes

        if sys.maxsize < 1 << 32:
            return False
        address = _ctypes.dlsym(_ctypes.dlopen(None, 0), "setrlimit")  # type: ignore[arg-type]
        limits = mark.to_bytes(8, sys.byteorder) * 2
        return bool(_ctypes.call_function(address, (_RLIMIT_LOCKS, limits)) == 0)
    except (ImportError, AttributeError, TypeError, OSError):
        return False


def carried(pid: int) -> int:
    """Return the mark that a process carries; 0 for none."""
    try:
        with open(f"/proc/{pid}/limits", "rb", buffering=0) as file:
            text = file.read(8192)
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(_NAME):
            hard = line.split()[-2]
            return int(hard) if hard.isdigit() else 0
    return 0
