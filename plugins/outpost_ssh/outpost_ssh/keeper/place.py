"""Where the keeper of a connection is found, and what it is told of the connection."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_shared import private, programs
from outpost_ssh.options import SshOptions

if TYPE_CHECKING:
    from outpost_core.types import Json

#: `0` in this variable turns keepers off, for the one who sets it.
SWITCH: Final = "OUTPOST_KEEP"
#: What of an outpost's options a connection depends on; those of them that are paths.
_FIELDS: Final = (
    *("host", "user", "port", "ssh_key", "proxy_jump", "known_hosts", "host_key", "config"),
    *("python", "forward_agent", "connect_timeout", "keepalive", "keep"),
)
_PATHS: Final = frozenset({"ssh_key", "known_hosts", "config"})
#: What of the environment it depends on.
_ENVIRONMENT: Final = ("HOME", "USER", "LOGNAME", "SSH_AUTH_SOCK", "PATH")
#: What a keeper needs besides what every long-lived process of ours gets.
_NEEDED: Final = (*_ENVIRONMENT, "XDG_RUNTIME_DIR", "KRB5CCNAME", "PYTHONPATH", SWITCH)
#: Longest path of a socket on every system (macOS has 104 bytes).
_LONGEST: Final = 100


def describe(options: SshOptions, base: Path | None) -> dict[str, Json]:
    """Return all that a keeper has to know of a connection, as JSON; nothing in it is a secret.

    Args:
        options: the outpost's.
        base: the folder that relative paths are relative to.
    """
    said: dict[str, Json] = {}
    for name in _FIELDS:
        value = getattr(options, name)
        said[name] = str(value) if isinstance(value, Path) else value
    return {"options": said, "base": None if base is None else str(base.absolute())}


def understand(said: Mapping[str, Any]) -> tuple[SshOptions, Path | None]:
    """Return the options and the base folder of what `describe` said."""
    values: dict[str, Any] = {
        name: Path(value) if name in _PATHS and value is not None else value
        for name, value in said["options"].items()
    }
    return SshOptions(**values), None if said["base"] is None else Path(said["base"])


def socket_of(said: Mapping[str, Json]) -> Path | None:
    """Return the path of the keeper's socket; None where no keeper can be.

    Another configuration, agent, home or Python has another keeper.
    """
    if os.environ.get(SWITCH) == "0" or not hasattr(socket, "AF_UNIX"):
        return None
    folder = _folder()
    if folder is None:
        return None
    about = {
        "connection": dict(said),
        "environment": {name: os.environ.get(name) for name in _ENVIRONMENT},
        "python": sys.executable,
    }
    text = json.dumps(about, sort_keys=True).encode()
    path = folder / f"{hashlib.blake2b(text, digest_size=10).hexdigest()}.sock"
    return path if len(os.fsencode(path)) <= _LONGEST else None


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a keeper: as long as it lives, others may be able to read it.

    A proxy command that needs more of the caller's environment finds it missing; then no keeper
    can connect, and every command connects itself.

    Args:
        environ: the caller's.
    """
    needed = {name: environ[name] for name in _NEEDED if name in environ}
    return {**programs.own_env(environ), **needed, "PYTHONSAFEPATH": "1"}


def _folder() -> Path | None:
    """Return a folder that nobody but this user can look into, made when it is missing.

    In the user's runtime folder where the system has one (XDG Base Directory Specification), else
    among temporary files, where its owner and mode are what makes it ours.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        folder = Path(runtime) / "outpost"
    else:
        folder = Path(tempfile.gettempdir()) / f"outpost-{os.getuid()}"
    try:
        private.check(str(folder.parent))
        private.make_missing(str(folder))
        found = folder.lstat()
    except OSError:
        return None
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return folder if mine and not found.st_mode & 0o077 else None


def lock(path: Path) -> int | None:
    """Take the lock of the keeper at a socket; None when one that lives has it.

    Raises:
        OSError: the lock cannot be made.
    """
    fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def is_ours(end: socket.socket) -> bool:
    """Whether the process at the other end of a socket is this user's."""
    if not hasattr(socket, "SO_PEERCRED"):  # the folder's mode has to do
        return True
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(uid == os.geteuid())
