"""How much memory and disk is left, and whether that is enough for one more worker."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from outpost_core.errors import SpawnRefusedError
from outpost_worker.system.fitness import ELSEWHERE, unfit

_CGROUP = Path("/sys/fs/cgroup")


def available_memory(proc: Path = Path("/proc"), cgroup: Path = _CGROUP) -> int | None:
    """Return the bytes of memory that new processes can have, or None when nobody says.

    The smaller of what the kernel calls available and what the memory limit of our own control
    group leaves (containers see the machine's `/proc/meminfo`).
    """
    found = [value for value in (_kernel(proc), _group(proc, cgroup)) if value is not None]
    return min(found, default=None)


def _kernel(proc: Path) -> int | None:
    try:
        text = (proc / "meminfo").read_text("ascii")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _group(proc: Path, cgroup: Path) -> int | None:
    try:
        own = (proc / "self" / "cgroup").read_text()
        group = next(line[3:] for line in own.splitlines() if line.startswith("0::"))
        folder = cgroup / group.strip("/")
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        statistics = dict(
            line.split() for line in (folder / "memory.stat").read_text().splitlines()
        )
    except (OSError, StopIteration, ValueError):  # no cgroup v2, or "max": no limit
        return None
    # The page cache of files that nobody uses right now goes as soon as memory is asked for.
    return max(0, limit - used + int(statistics.get("inactive_file", 0)))


def cores() -> int:
    """Return the cores that this process and its children may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def whole_memory(cgroup: Path = _CGROUP, proc: Path = Path("/proc")) -> int | None:
    """Return the bytes of memory of this machine, or the limit of our control group."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError, StopIteration, ValueError):  # no cgroup v2, or no limit
        own = (proc / "self" / "cgroup").read_text()
        group = next(line[3:] for line in own.splitlines() if line.startswith("0::"))
        found = min(found, int((cgroup / group.strip("/") / "memory.max").read_text()))
    return found


#: Agents mostly wait for their model; two of them share a core, with builds and tests in between.
_PER_CORE: Final = 2
#: Bytes that an agent takes with what it builds and tests.
_PER_AGENT: Final = 2 * 2**30


def slots() -> tuple[int, str]:
    """Return how many agents this machine carries at once, and where the number comes from."""
    count, memory = cores() * _PER_CORE, whole_memory()
    why = f"{cores()} core{'' if cores() == 1 else 's'}"
    if memory is not None:
        count = min(count, memory // _PER_AGENT)
        why += f" and {size(memory)} of memory"
    return max(1, count), why


def free_disk(folder: Path) -> int:
    """Return the bytes that this user may still write where `folder` is or will be made.

    Raises:
        OSError: no parent of it can be looked at.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize


def size(count: int) -> str:
    """Return bytes for people: `1.5 GiB`."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def shortage(root: Path, memory_floor: int | None, disk_floor: int) -> str:
    """Return why no further worker should start, with figures, or "" when one may."""
    memory = available_memory() if memory_floor is not None else None
    if memory_floor is not None and memory is not None and memory < memory_floor:
        return f"{size(memory)} of memory is available, below the floor of {size(memory_floor)}"
    try:
        disk = free_disk(root)
    except OSError as error:
        return f"the state folder {root} cannot be used: {error.strerror}"
    if disk < disk_floor:
        return f"{size(disk)} of disk is free at {root}, below the floor of {size(disk_floor)}"
    return ""


def check(root: Path, memory_floor: int | None, disk_floor: int) -> None:
    """Refuse one more worker when none can run here, or memory or disk is short.

    Raises:
        SpawnRefusedError: with the cause, or the figures.
    """
    if why := unfit():
        raise SpawnRefusedError(why, hint=ELSEWHERE)
    if why := shortage(root, memory_floor, disk_floor):
        raise SpawnRefusedError(
            why, hint="wait for workers to end, clean ended ones, or lower the floor"
        )
