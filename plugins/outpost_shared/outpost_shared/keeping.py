"""Keepers: processes that hold something for the commands of one user, and are never in the way.

A keeper is found at a socket in a folder that nobody else can look into, under a name made from
what it keeps. Whoever holds the lock beside the socket is the keeper; a killed one leaves both,
and holds neither. It is started in the background with a small environment of its own: what it has
to know goes over its standard input, where nobody else sees it. Both ends make sure that the other
one is the same user.

What it keeps, for how long and what it answers are the business of who uses this.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_shared import private, programs

if TYPE_CHECKING:
    from outpost_core.types import Json

#: Longest path of a socket on every system (macOS has 104 bytes).
_LONGEST: Final = 100
#: Bytes that a keeper may be told.
_TOLD: Final = 8 << 20


def socket_of(about: Mapping[str, Json]) -> Path | None:
    """Return the path of the socket of what is kept; None where no keeper can be.

    Args:
        about: what tells it from everything else that is kept; nothing in it is a secret.
    """
    folder = _folder() if hasattr(socket, "AF_UNIX") else None
    if folder is None:
        return None
    text = json.dumps(about, sort_keys=True).encode()
    path = folder / f"{hashlib.blake2b(text, digest_size=10).hexdigest()}.sock"
    return path if len(os.fsencode(path)) <= _LONGEST else None


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

    Returns:
        The open lock: it is held until that is closed.

    Raises:
        OSError: the lock cannot be made.
    """
    while True:
        fd = os.open(_lock_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if is_held(path, fd):
            return fd
        os.close(fd)  # somebody has removed the file in between


def is_held(path: Path, fd: int) -> bool:
    """Whether a lock that was taken still is the one of its socket.

    Where its file was removed, another keeper can take a new one: whoever has the old one ends.

    Args:
        path: of the socket.
        fd: what `lock` returned.
    """
    return is_at(_lock_of(path), os.fstat(fd))


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


def is_kept(path: Path) -> bool:
    """Whether a keeper lives that has the lock of a socket, be it only just starting.

    Raises:
        OSError: nobody can say.
    """
    fd = lock(path)
    if fd is None:
        return True
    os.close(fd)
    return False


def is_ours(end: socket.socket) -> bool:
    """Whether the process at the other end of a socket is this user's."""
    return peer(end) == os.geteuid()


def peer(end: socket.socket) -> int:
    """Return whose process is at the other end of a private socket.

    Raises:
        OSError: the connection is gone.
    """
    if not hasattr(socket, "SO_PEERCRED"):  # the folder's mode has to do
        return os.geteuid()
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


def environment(environ: Mapping[str, str], needed: Iterable[str] = ()) -> dict[str, str]:
    """Return the environment of a keeper: as long as it lives, others may be able to read it.

    Args:
        environ: the caller's.
        needed: names that it needs besides what every long-lived process of ours gets.
    """
    names = (*needed, "XDG_RUNTIME_DIR", "PYTHONPATH")
    wanted = {name: environ[name] for name in names if name in environ}
    return {**programs.own_env(environ), **wanted, "PYTHONSAFEPATH": "1"}


def start(module: str, said: Mapping[str, Json], env: Mapping[str, str]) -> None:
    """Start a keeper in the background; it has a session of its own and holds nothing of ours.

    Whether there is one already is for the lock to say: a second one ends at once.

    Args:
        module: the program, as of `python -m`.
        said: what it is told on its standard input; may hold what others must not see.
        env: its environment, see `environment`.

    Raises:
        OSError: it cannot be started.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
        env=dict(env),
    )
    assert process.stdin is not None
    with process.stdin as told:
        told.write(json.dumps(said).encode())
    # it outlives this program; nobody collects it, and nobody is warned of that
    process.returncode = 0


def told() -> dict[str, Any]:
    """Return what the keeper that this process is was told when it was started.

    Raises:
        ValueError: nothing that makes sense.
    """
    said = json.loads(sys.stdin.buffer.read(_TOLD))
    if not isinstance(said, dict):
        raise ValueError("a keeper is told an object")
    return said


def listen(path: Path) -> socket.socket:
    """Return the listening socket of the keeper that has the lock; only this user can connect.

    Raises:
        OSError: it cannot be made.
    """
    path.unlink(missing_ok=True)  # of a killed one: we hold the lock
    server = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        server.bind(str(path))
    except OSError:
        server.close()
        raise
    finally:
        os.umask(before)
    return server


def is_at(path: Path, mine: os.stat_result) -> bool:
    """Whether what is found at a path is still the file that was made there."""
    try:
        return os.path.samestat(path.stat(), mine)
    except OSError:
        return False
