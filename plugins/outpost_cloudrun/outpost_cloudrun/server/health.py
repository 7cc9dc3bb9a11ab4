"""What an instance says of itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Final

from outpost_agents.presets import PRESETS
from outpost_cloudrun.server.instance import Instance
from outpost_core import __version__
from outpost_core.errors import UsageError
from outpost_core.types import Json

#: Version of the work protocol; counts up only when a caller could misunderstand.
PROTOCOL: Final = 1
#: Programs that are looked for besides those of the agents.
_PROGRAMS: Final = ("git", "git-lfs", "tmux", "bd")
#: Limits of cgroup v2 and v1. A limit of v1 that is none is close to 2**63.
_MEMORY: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_NO_LIMIT: Final = 1 << 60
_MOST_PROGRAMS: Final = 100


async def look(instance: Instance, programs: Sequence[str]) -> Json:
    """Return the answer of `/health` and `/healthz`.

    Args:
        instance: the one that is asked.
        programs: names of programs that are looked for; empty for the usual ones.

    Raises:
        UsageError: there are too many.
    """
    if len(programs) > _MOST_PROGRAMS:
        raise UsageError(f"`programs` of the query names more than {_MOST_PROGRAMS}")
    health = await instance.outpost_ping()
    agents = [preset.headless[0] for preset in PRESETS.values() if preset.headless]
    found = await asyncio.to_thread(instance.find_programs, programs or [*agents, *_PROGRAMS])
    workers = await instance.outpost_list()
    return {
        "ok": health.ok,
        "detail": health.detail,
        "protocol": PROTOCOL,
        "version": __version__,
        "instance": instance.id,
        "workers": sum(status.result is None for status in workers),
        "cpus": cpus(),
        "memory": memory(),
        "programs": {**found},
    }


def cpus() -> float:
    """Return how many cores this container may use."""
    cores = float(len(os.sched_getaffinity(0)))
    words = _read("/sys/fs/cgroup/cpu.max").split()
    if len(words) != 2 or words[0] == "max":
        quota = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip()
        words = [quota, _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()]
    if all(word.isdecimal() for word in words) and int(words[1]):
        return min(cores, int(words[0]) / int(words[1]))
    return cores


def memory() -> int | None:
    """Return the bytes of memory that this container may use; None when nobody knows."""
    found = [int(text) for text in map(str.strip, map(_read, _MEMORY)) if text.isdecimal()]
    for line in _read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            found.append(int(value.split()[0]) * 1024)
    return min((size for size in found if size < _NO_LIMIT), default=None)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123 - as small as that
            return file.read(1 << 16)
    except (OSError, ValueError):
        return ""
