"""Where the sockets of Outpost's own servers lie, so that nobody else can reach them.

Whoever reaches the socket of a tmux server can type into every session of it, and have it run
commands. So it lies in a folder of its own that only its owner can enter: in the state root, which
a fence hides from agents, and where the path would be too long for a socket, in one folder for each
user among the temporary files.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: The folder in a state root.
TMUX = "tmux"
#: Longest path of a socket on every system: Linux takes 107 bytes, macOS 103.
LONGEST = 103
#: Longest name of a socket in one of our folders, with its slash.
_NAME = 20


def folder(root: str) -> str:
    """Return the folder of the tmux socket that belongs to a state root.

    It does not depend on the environment: every program must find the same server.

    Args:
        root: the state root; links in it are followed.
    """
    inside = os.path.join(os.path.realpath(root), TMUX)
    return inside if len(os.fsencode(inside)) + _NAME <= LONGEST else _shared("/tmp")  # noqa: S108


def path(root: str) -> str:
    """Return the path of the tmux socket that belongs to a state root."""
    place = folder(root)
    if os.path.basename(place) == TMUX:
        return os.path.join(place, "server")
    import hashlib

    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:12]
    return os.path.join(place, f"tmux-{name}")


def folders(root: str, env: Mapping[str, str]) -> list[str]:
    """Return all folders with sockets of Outpost: an agent must not see into any of them.

    Those of the user's own tmux are not among them.

    Args:
        root: the state root of the agent's worker.
        env: says where the user's runtime folder and temporary files are.
    """
    found = [folder(root), _shared("/tmp"), _shared(env.get("TMPDIR") or "/tmp")]  # noqa: S108
    runtime = env.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        found.append(os.path.join(runtime, "outpost"))
    return list(dict.fromkeys(found))


def claim(place: str) -> str:
    """Make a folder of sockets, or take the one that is there if it is ours alone.

    Returns:
        "" when nobody else can enter it, else what is wrong with it.
    """
    try:
        try:  # noqa: SIM105 - contextlib would have to be imported
            os.mkdir(place, 0o700)
        except FileExistsError:
            pass
        wrong = trouble(place)
        if wrong == _OPEN:  # made under another mode, by us
            os.chmod(place, 0o700)
            wrong = trouble(place)
    except OSError as error:
        return f"{place} cannot be made: {error.strerror}"
    return wrong and f"{place} {wrong}"


_OPEN = "can be entered by others"


def trouble(place: str) -> str:
    """Return why a folder is not ours alone; "" when it is.

    Raises:
        OSError: it is not there, or cannot be looked at.
    """
    about = os.lstat(place)
    if not stat.S_ISDIR(about.st_mode):
        return "is no folder"
    if about.st_uid != os.geteuid():
        return f"belongs to another user ({about.st_uid})"
    return _OPEN if about.st_mode & 0o077 else ""


def _shared(temporary: str) -> str:
    return os.path.join(temporary, f"outpost-{os.geteuid()}")
