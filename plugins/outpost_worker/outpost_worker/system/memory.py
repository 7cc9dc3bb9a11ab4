"""Whether the system killed something for want of memory: of this control group, a container's say.

Linux counts the processes that it killed in a control group (kernel documentation, "Control Group
v2", `memory.events`; "Memory Resource Controller", `memory.oom_control`). Imported by the lean
supervisor.
"""

from __future__ import annotations

import os

_ROOT = "/sys/fs/cgroup"
#: A limit of version 1 that is none is nearly 2^63.
_NO_LIMIT = 1 << 60


def kills(proc: str = "/proc", root: str = _ROOT) -> int:
    """Return how many processes of this control group were killed so far for want of memory.

    Args:
        proc: where processes are looked at.
        root: where control groups are.
    """
    for folder in _folders(proc, root):
        for name in ("memory.events", "memory.oom_control"):
            for line in _read(folder, name).splitlines():
                word, _, value = line.partition(b" ")
                if word == b"oom_kill" and value.isdigit():
                    return int(value)
    return 0


def limit(proc: str = "/proc", root: str = _ROOT) -> int | None:
    """Return the bytes that this control group may have; None without a limit that is known."""
    for folder in _folders(proc, root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            value = _read(folder, name).strip()
            if value.isdigit():
                return int(value) if int(value) < _NO_LIMIT else None
    return None


def _folders(proc: str, root: str) -> list[str]:
    """Return where this control group can be: as it is named, and as a container is shown it."""
    found = []
    for line in _read(proc, "self/cgroup").splitlines():
        _, names, path = [*line.split(b":", 2), b"", b""][:3]
        if names == b"" or b"memory" in names.split(b","):
            above = f"{root}/memory" if names else root
            found += [above + os.fsdecode(path), above]
    return found


def _read(folder: str, name: str) -> bytes:
    try:
        fd = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 64 * 1024)
    except OSError:
        return b""
    finally:
        os.close(fd)
