"""Which warm process is meant, and where it listens.

A supervisor inherits what its parent is: its files, its environment, its limits, its groups, its
namespaces. So a name is made of all that, and a process that would hand on anything else has
another name: after an upgrade, under another `ulimit`, in another container nobody finds it.
"""

from __future__ import annotations

import _socket
import os
import sys

import outpost_agents
import outpost_core
import outpost_shared
from outpost_worker.system import sockets

try:  # hashlib would load all of OpenSSL for its other algorithms
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PREFIX = "w"
#: Characters of a name for the version, and as many for the surroundings.
_HALF = 8
_PACKAGES = (outpost_agents, outpost_core, outpost_shared)
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
#: Lines of `/proc/self/status` that a child inherits.
_STATUS = (
    b"Umask:", b"Uid:", b"Gid:", b"Groups:", b"Cap", b"NoNewPrivs:", b"Seccomp", b"Cpus_allowed:",
)  # fmt: skip


def name(root: str, env: Mapping[str, str]) -> str:
    """Return the name of the warm process that stands for this process's supervisors.

    Args:
        root: the state root.
        env: the environment that they are to have.
    """
    return _PREFIX + version() + _surroundings(root, env)


def is_name(name: str) -> bool:
    """Whether something is a name of a warm process."""
    digits = name.removeprefix(_PREFIX)
    return len(digits) == 2 * _HALF and name != digits and not digits.strip("0123456789abcdef")


def number(name: str) -> int:
    """Return a number for a name, of 60 bits."""
    return int(name.removeprefix(_PREFIX)[1:], 16)


def path(root: str, name: str) -> str:
    """Return the path of the socket of that name; its folder is one that only we can enter."""
    return os.path.join(sockets.folder(root), name)


def peer(caller: _socket.socket) -> int:
    """Return whose process, or whose socket, is at the other end."""
    told = caller.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    return int.from_bytes(told[4:8], sys.byteorder)


def version() -> str:
    """Return what changes with every change of our files: they are not read, only looked at."""
    found = []
    folders = [_HERE, *(os.path.dirname(package.__file__ or "") for package in _PACKAGES)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.endswith(".py"):
                        about = entry.stat()
                        found.append((entry.path, about.st_size, about.st_mtime_ns, about.st_ino))
                    elif entry.name[0] not in "._" and entry.is_dir():
                        folders.append(entry.path)
        except OSError:  # it is being replaced
            continue
    return _digest([repr(sorted(found))])


def _surroundings(root: str, env: Mapping[str, str]) -> str:
    status = _read("/proc/self/status").splitlines()
    return _digest(
        [
            os.path.realpath(root),
            sys.executable,
            sys.version,
            repr(sorted(env.items())),
            repr([line for line in status if line.startswith(_STATUS)]),
            repr(_read("/proc/self/limits")),
            repr(_read("/proc/self/cgroup")),
            repr(_read("/proc/self/oom_score_adj")),
            repr([_link(f"/proc/self/ns/{kind}") for kind in _NAMESPACES]),
            repr(os.getpriority(os.PRIO_PROCESS, 0)),
        ]
    )


def _digest(parts: Iterable[str]) -> str:
    text = "\0".join(parts).encode("utf-8", "surrogateescape")
    return blake2b(text, digest_size=_HALF // 2).hexdigest()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
