"""Who besides this user could change what is found at a path; folders that nobody else can.

A file is as safe as everything above it: whoever can write a folder can put another thing under a
name in it. So a path is looked at from `/` down, as ssh does with `StrictModes`: each folder, link
and file belongs to this user or to root, and nobody else can write it. A shared temporary folder
(sticky) is a way to what is ours, since only its owner can rename what is in it. A folder that is
writable for a group counts as ours when nobody else is in that group, which is how many systems
set up their users.
A volume that whoever made this machine said to be ours (`volumes`) does, too.

Imported by the lean supervisor: `os` and nothing heavier, until something is wrong.
"""

from __future__ import annotations

import os
from errno import ELOOP, ENOTDIR
from stat import S_ISDIR, S_ISLNK

from outpost_shared.access import STICKY, NotPrivateError, name_of, writers

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

#: Links that are followed on one path, as the system does.
_LINKS = 40


def walk(path: str, *, above: bool = False) -> tuple[str, list[str]]:
    """Follow a path from `/` down, as far as it exists.

    Args:
        path: what to look at; the last part may be a link, and is followed too.
        above: look at what is above it alone; the caller looks at it himself.

    Returns:
        The path without links, as far as it exists, and the names that are missing under it.

    Raises:
        NotPrivateError: somebody but this user and root could change what is found there.
        OSError: it cannot be looked at.
    """
    whole = path if path.startswith("/") else os.path.join(os.getcwd(), path)
    waiting = [part for part in reversed(whole.split("/")) if part]
    at, shared, links = "/", False, 0
    _check(at, os.lstat(at), known=False)
    while waiting:
        name = waiting.pop()
        if name == ".":
            continue
        if name == "..":
            at = os.path.dirname(at)
            shared = _is_shared(os.lstat(at))
            continue
        here = os.path.join(at, name)
        try:
            found = os.lstat(here)
        except FileNotFoundError:
            return at, [name, *reversed(waiting)]
        link = S_ISLNK(found.st_mode)
        if waiting or link or not above:
            _check(here, found, known=shared or not (waiting or link))
        if link:
            links += 1
            if links > _LINKS:
                raise OSError(ELOOP, os.strerror(ELOOP), path)
            target = os.readlink(here)
            waiting.extend(part for part in reversed(target.split("/")) if part)
            if target.startswith("/"):
                at, shared = "/", False
            continue
        at, shared = here, _is_shared(found)
    return at, []


def check(path: str) -> str:
    """Return a path without links, when nobody but this user and root could change what it names.

    Raises:
        NotPrivateError: somebody could.
        FileNotFoundError: there is nothing.
        OSError: it cannot be looked at.
    """
    real, missing = walk(path)
    if missing:
        raise FileNotFoundError(2, os.strerror(2), path)
    return real


def check_open(fd: int, path: str) -> os.stat_result:
    """Return what is known of an open file that only this user and root can change.

    Raises:
        NotPrivateError: somebody else can.
    """
    found = os.fstat(fd)
    _check(path, found, known=True)
    return found


def claim(root: str, *, make: bool = True) -> str:
    """Have a state folder that is this user's alone: make it, or look at the one that is there.

    What is missing above it is made, for nobody else to look into, whatever the umask. One that
    others could write, as older versions made it under a careless umask, is closed when all that is
    in it is this user's own.

    Args:
        root: the folder; it may be a link to one.
        make: make it where it is missing; else one that is missing is fine.

    Returns:
        A sentence when it was closed; else "".

    Raises:
        NotPrivateError: it, or a folder above it, is somebody else's, or somebody else could have
            put something there.
        OSError: it cannot be made.
    """
    real, missing = walk(root, above=True)
    if missing:
        if make:
            _make_all(real, missing)
        return ""
    found = os.lstat(real)
    _check_mine(real, found)
    if not found.st_mode & 0o077:
        return ""
    from outpost_shared import closing  # which most folders do not need

    return closing.close(real, found)


def make(path: str) -> None:
    """Have a folder inside of a state folder that nobody else can look into.

    Args:
        path: the folder; what is missing above it is made as private.

    Raises:
        NotPrivateError: it is somebody else's, or leads to a place of somebody else.
        OSError: it cannot be made, or is something else.
    """
    try:
        _mkdir(path)
    except FileExistsError:
        found = os.lstat(path)
        if S_ISLNK(found.st_mode):  # put there by the user, for want of room say
            path = check(path)
            found = os.lstat(path)
        _check_mine(path, found)
        if found.st_mode & 0o077:
            os.chmod(path, 0o700)
    except FileNotFoundError:
        above = os.path.dirname(path)
        if above == path:
            raise
        make(above)
        make(path)


def make_missing(path: str) -> None:
    """Make a folder and those above it that are missing, as private; what is there is left alone.

    Raises:
        OSError: one cannot be made.
    """
    if os.path.isdir(path):
        return
    make_missing(os.path.dirname(os.path.abspath(path)))
    try:  # noqa: SIM105 - contextlib would have to be imported
        _mkdir(path)
    except FileExistsError:
        pass


def _make_all(at: str, names: list[str]) -> None:
    for name in names:
        at = os.path.join(at, name)
        try:
            _mkdir(at)
        except FileExistsError:  # by another program, at this moment
            _check_mine(at, os.lstat(at))


def _mkdir(path: str) -> None:
    os.mkdir(path, 0o700)
    if os.lstat(path).st_mode & 0o777 != 0o700:  # an odd umask takes even from the owner
        os.chmod(path, 0o700)


def _check_mine(path: str, found: os.stat_result) -> None:
    if not S_ISDIR(found.st_mode):
        raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR), path)
    if found.st_uid != os.geteuid():
        raise NotPrivateError(
            path,
            f"it belongs to {name_of(found.st_uid)}, and you are {name_of(os.geteuid())}",
            "be that user, or let $OUTPOST_STATE (for an outpost its state_path) name a folder of"
            " your own",
        )


# --- one folder, link or file --------------------------------------------------------------------


def _check(path: str, found: os.stat_result, *, known: bool) -> None:
    """Refuse what somebody else owns or can write; `known`: its owner has to be one with a name."""
    me = os.geteuid()
    if found.st_uid not in (0, me) and (known or not _is_unmapped(found.st_uid)):
        raise NotPrivateError(
            path,
            f"it belongs to {name_of(found.st_uid)}",
            f"use a place that belongs to {'you or root' if me else 'root, who you are'}",
        )
    if S_ISLNK(found.st_mode) or _is_shared(found):
        return
    who = writers(found, path)
    if who:
        from outpost_shared import volumes  # which few machines have

        if volumes.ours(path, found):
            return
        raise NotPrivateError(path, f"{who} can write it", f"chmod go-w {path}")


def _is_shared(found: os.stat_result) -> bool:
    """Whether a folder is one where all can write and nobody can touch what is another's."""
    return S_ISDIR(found.st_mode) and bool(found.st_mode & STICKY and found.st_mode & 0o022)


def _is_unmapped(uid: int) -> bool:
    """Whether an owner is one that this user namespace has no number for, such as the real root.

    Everybody outside looks the same then, so this is believed of folders above only, and not in
    places where everybody can make something.
    """
    try:
        with open("/proc/sys/kernel/overflowuid", "rb") as file:
            if uid != int(file.read()):
                return False
        with open("/proc/self/uid_map", "rb") as file:
            ranges = [[int(word) for word in line.split()] for line in file]
    except (OSError, ValueError):
        return False
    return not any(first <= uid < first + count for first, _, count in ranges)
