"""Which fence can be made here: found out by making one, and by trying to get through it."""

from __future__ import annotations

import os
import shutil
import tempfile

from outpost_shared.process import become_subreaper
from outpost_worker.fence import start
from outpost_worker.fence.places import Wanted
from outpost_worker.folder import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: Ends well when the secret cannot be read, the outside not written, and the work be written.
_TRY = """\
if cat "$1" || ( : >"$2" ) || mv "$3" "$3.away"; then exit 3; fi
: >"$3/made" && test -f "$3/made"
"""
#: What a system says to user namespaces, and what lets them be made.
_SWITCHES = (
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
     "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0",
     "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=15000"),
)  # fmt: skip


def look(only: Sequence[str] = start.WAYS) -> dict[str, Any]:
    """Make a fence around a small program that tries to get through it.

    Call this in a process of its own with one thread; it becomes the parent of orphans.

    Args:
        only: ways that may be tried.

    Returns:
        `fence`: in words, "" for none; `missing`: why no better one could be made, by way; `hint`:
        what would let a better one be made, "" when nobody knows.
    """
    become_subreaper()
    place = tempfile.mkdtemp(prefix="outpost-fence-")
    try:
        return _look(place, only)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _look(place: str, only: Sequence[str]) -> dict[str, Any]:
    root = os.path.join(place, "state")
    folder = os.path.join(root, files.WORKERS, "probe")
    work = os.path.join(folder, files.WORK)
    os.makedirs(work)
    os.makedirs(os.path.join(folder, files.EXCHANGE))
    secret, outside = os.path.join(root, "secret"), os.path.join(folder, "outside")
    files.write(secret, b"x")
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    missing: dict[str, str] = {}
    try:
        ways = [way for way in start.WAYS if way in only]
        while ways:
            command = start.Command(
                ["/bin/sh", "-c", _TRY, "probe", secret, outside, work], os.environ, work, null
            )
            made = start.start(command, Wanted(folder, root, os.environ, None, {}), ways)
            missing |= made.missing
            if not made.fence:
                break
            if _holds(made) and not os.path.exists(outside):
                return {"fence": made.fence, "missing": missing, "hint": _hint(missing)}
            missing[made.way] = "it was made, and does not hold"
            ways = ways[ways.index(made.way) + 1 :]
    finally:
        os.close(null)
    return {"fence": "", "missing": missing, "hint": _hint(missing)}


def _holds(made: start.Fenced) -> bool:
    if not made.init:
        return os.waitpid(made.pid, 0)[1] == 0
    try:
        said = os.read(made.told, 64)
        os.waitpid(made.init, 0)
    finally:
        os.close(made.told)
        os.close(made.life)
    return said.split()[:1] == [b"0"]


def _hint(missing: dict[str, str]) -> str:
    if start.NAMESPACE not in missing:
        return ""
    for path, value, hint in _SWITCHES:
        try:
            with open(path, encoding="ascii") as file:
                if file.read().strip() == value:
                    return hint
        except (OSError, ValueError):
            continue
    return "allow user namespaces; in a container: --security-opt seccomp=unconfined"
