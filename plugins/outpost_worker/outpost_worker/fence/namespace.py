"""The fence of namespaces: mounts and processes of the agent's own, made without any rights.

A user namespace gives the right to make the others. In them everything becomes read-only, what
may be written is mounted writable again, what is hidden is covered; then all rights are dropped.
Mounts that come from a namespace with more rights are locked: neither the agent nor a user
namespace that it makes itself can take the covers off.
"""

from __future__ import annotations

import os
from stat import S_ISDIR, S_ISLNK

from outpost_worker.fence import calls
from outpost_worker.fence.places import HIDE, OWN, TEMPORARY, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: Devices that an agent of root may open; all others of /dev are only names to it. (An ordinary
#: user opens what his permissions allow: his graphics card, a virtual machine, a serial port.)
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "fuse", "kvm")
#: Of /proc, what root could change the machine by, and read its memory.
_OF_ROOT = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "kcore", "kmsg", "keys", "scsi")
#: Options of the empty folder that covers a hidden one.
_EMPTY = "mode=000,size=4k,nr_inodes=2"
_FRAME = "mode=755,size=1m"
#: Options of what holds the agent's copies.
_OWN = "mode=700,size=256m"
_NEW = calls.CLONE_NEWUSER | calls.CLONE_NEWNS | calls.CLONE_NEWIPC
#: Where the agent finds its terminal.
_CONSOLE = "/dev/console"


def fork() -> int:
    """Fork, with the child in new namespaces, as the first process of one of processes.

    The child still has to `settle`.

    Raises:
        OSError: this system does not let us do all of it at once.
    """
    return calls.fork(_NEW | calls.CLONE_NEWPID)


def settle(uid: int, gid: int) -> None:
    """Be the same user and group in a new user namespace as outside of it.

    Raises:
        OSError: this system does not let us.
    """
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1\n")
    _write("/proc/self/gid_map", f"{gid} {gid} 1\n")


def enter(*, processes: bool) -> None:
    """Go into new namespaces, as the same user; this process must have one thread only.

    Args:
        processes: let the children be in a process namespace of their own.

    Raises:
        OSError: this system does not let us.
    """
    uid, gid = os.geteuid(), os.getegid()
    calls.unshare(_NEW | (calls.CLONE_NEWPID if processes else 0))
    settle(uid, gid)


def cover(rules: Sequence[tuple[str, str]], terminal: str = "") -> str:
    """Make everything as the rules say, in this mount namespace.

    Args:
        rules: paths with `HIDE`, `READ` or `WRITE`, each after what it lies in.
        terminal: path of the agent's terminal, or "".

    Returns:
        The path of that terminal in here.

    Raises:
        OSError: a mount was refused; give up this namespace then.
    """
    calls.mount("", "/", "", calls.MS_REC | calls.MS_PRIVATE)
    # what is behind a cover is reached by these, also once it is covered
    behind = _open(rules)
    rules = [(path, kind) for path, kind in rules if path in behind]
    calls.attributes("/", put=calls.ATTR_RDONLY, whole=True)
    frames: list[str] = []
    own: list[str] = []
    for place, (path, kind) in enumerate(rules):
        inside = _inside(path, rules[place + 1 :]) if kind == HIDE else []
        try:
            if kind == OWN:
                own.append(path)
            elif kind != HIDE:
                _bind(path, kind, behind[path])
            elif inside and _is_folder(behind[path]):
                calls.mount("outpost", path, "tmpfs", calls.MS_NOSUID | calls.MS_NODEV, _FRAME)
                for deep in inside:
                    _make_place(deep, behind[deep])
                frames.append(path)
            else:
                _hide(path, behind[path])
        except FileNotFoundError:
            if not path.startswith(TEMPORARY):
                raise
    if own and frames:
        _lend(own, behind, frames[0])
    shown = _terminals(terminal)
    for path in frames:
        calls.attributes(path, put=calls.ATTR_RDONLY)
    for fd in behind.values():
        os.close(fd)
    if os.geteuid() == 0:
        _close_devices()
    return shown


def _inside(path: str, rules: Sequence[tuple[str, str]]) -> list[str]:
    """Return what has a rule of its own in a folder."""
    return [deep for deep, _ in rules if deep.startswith(f"{path}/")]


def _bind(path: str, kind: str, behind: int) -> None:
    calls.mount(f"/proc/self/fd/{behind}", path, "", calls.MS_BIND | calls.MS_REC)
    if kind == WRITE:
        _writable(path)
    else:
        calls.attributes(path, put=calls.ATTR_RDONLY, whole=True)


def _lend(paths: list[str], behind: dict[str, int], frame: str) -> None:
    """Mount copies of files, and empty folders, that are gone with this namespace."""
    place = f"{frame}/own"
    os.mkdir(place, 0o700)
    calls.mount("outpost", place, "tmpfs", calls.MS_NOSUID | calls.MS_NODEV, _OWN)
    for number, path in enumerate(paths):
        source, copy = f"/proc/self/fd/{behind[path]}", f"{place}/{number}"
        if os.path.isdir(source):
            os.mkdir(copy, 0o700)
        elif os.path.isfile(source):
            _copy(source, copy)
        else:
            copy = "/dev/null"
        calls.mount(copy, path, "", calls.MS_BIND)
    calls.call("umount2", os.fsencode(place), calls.MNT_DETACH, what=place)
    os.rmdir(place)


def _copy(source: str, target: str) -> None:
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    new = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    while part := os.read(fd, 1 << 20):
        os.write(new, part)
    os.close(fd)
    os.close(new)


def _hide(path: str, behind: int) -> None:
    if _is_folder(behind):
        flags = calls.MS_NOSUID | calls.MS_NODEV | calls.MS_RDONLY
        calls.mount("outpost", path, "tmpfs", flags, _EMPTY)
    else:
        calls.mount("/dev/null", path, "", calls.MS_BIND)


def _open(rules: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Open what the rules are about; what is gone by now, or became a link, needs none."""
    found = {}
    for path, _ in rules:
        try:
            fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if S_ISLNK(os.fstat(fd).st_mode) or os.readlink(f"/proc/self/fd/{fd}") != path:
            os.close(fd)  # a link on the way, too: what it leads to was not meant
        else:
            found[path] = fd
    return found


def mount_proc() -> None:
    """Show the processes of this namespace alone.

    Raises:
        OSError: refused, as in a container whose own /proc is partly covered.
    """
    flags = calls.MS_NOSUID | calls.MS_NODEV | calls.MS_NOEXEC
    calls.mount("proc", "/proc", "proc", flags)
    if os.geteuid() == 0:
        for name in _OF_ROOT:
            path = f"/proc/{name}"
            if os.path.isdir(path):
                calls.mount(path, path, "", calls.MS_BIND | calls.MS_REC)
                calls.attributes(path, put=calls.ATTR_RDONLY, whole=True)
            elif os.path.exists(path):
                calls.mount("/dev/null", path, "", calls.MS_BIND)


def _writable(path: str) -> None:
    try:
        calls.attributes(path, take=calls.ATTR_RDONLY, whole=True)
    except PermissionError:  # something in it is read-only outside as well, and stays so
        try:  # noqa: SIM105 - contextlib would have to be imported
            calls.attributes(path, take=calls.ATTR_RDONLY)
        except PermissionError:
            pass


def _make_place(path: str, behind: int) -> None:
    """Make the name to mount something at, in the frame that covers what it is in."""
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    if _is_folder(behind):
        os.makedirs(path, 0o755, exist_ok=True)
    elif not os.path.lexists(path):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _terminals(own: str) -> str:
    """Give the agent terminals of its own, since the user's lie where every program of his can
    read what is typed and write what it likes; returns where its own is now.
    """
    if not os.path.isdir("/dev/pts") or (own and not os.path.exists(_CONSOLE)):
        return own  # as in some containers: there is no place to show its own at
    kept = os.open(own, os.O_PATH | os.O_CLOEXEC) if own else -1
    flags = calls.MS_NOSUID | calls.MS_NOEXEC
    calls.mount("devpts", "/dev/pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=0620")
    if not os.path.islink("/dev/ptmx"):
        calls.mount("/dev/pts/ptmx", "/dev/ptmx", "", calls.MS_BIND)
    if kept < 0:
        return ""
    calls.mount(f"/proc/self/fd/{kept}", _CONSOLE, "", calls.MS_BIND)
    os.close(kept)
    return _CONSOLE


def _close_devices() -> None:
    for name in _DEVICES:
        path = f"/dev/{name}"
        if os.path.exists(path) and not os.path.islink(path):
            calls.mount(path, path, "", calls.MS_BIND)
    calls.attributes("/dev", put=calls.ATTR_NODEV)


def _is_folder(fd: int) -> bool:
    return S_ISDIR(os.fstat(fd).st_mode)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
