"""Closing a state folder that others could get into: it is looked through before and afterwards.

Older versions left folders open under a careless umask. What others could have put there is not
told from what is ours by its content, only by its owner: one thing of somebody else, or one that
others could write, and the folder is refused as it is.
"""

from __future__ import annotations

import os
from stat import S_ISDIR, S_ISLNK

from outpost_shared.access import STICKY, NotPrivateError, name_of, writers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Entries that are looked at.
_MOST = 20_000
#: What lies in a state folder: one that holds something else is somebody's folder for more.
_STATE = frozenset(
    {
        "ledger.db", "ledger.db-wal", "ledger.db-shm", "facts.json", "clean_after", "logs",
        "outposts", "far", "staging", "workers", "rigs", "trash", "rescued", "sealed", "mail",
        "hosted", "tmux",
    }
)  # fmt: skip


def close(real: str, found: os.stat_result) -> str:
    """Let nobody else into a state folder of this user.

    Args:
        real: its path, without links.
        found: its status, as it is still.

    Returns:
        A sentence where others could write; else "".

    Raises:
        NotPrivateError: something in it may be of others, or it cannot be closed; it is as it was.
        OSError: it cannot be looked at.
    """
    who = writers(found, real)
    if who and found.st_mode & STICKY:
        raise NotPrivateError(
            real,
            "it is shared by all users",
            f"name a folder of its own, for example {os.path.join(real, 'outpost')}",
        )
    opened = _open_folders(real, who)
    # what holds more than state stays as it is for readers: what is ours in it is closed by itself
    closing = opened if who or not _STATE.issuperset(os.listdir(real)) else [real, *opened]
    before = [(path, os.lstat(path).st_mode & 0o7777) for path in closing]
    for path in closing:
        try:
            os.chmod(path, 0o700)
        except OSError as error:
            if path in opened:
                why = f"others can write it, and it cannot be closed: {error.strerror}"
                raise NotPrivateError(path, why, f"chmod go-w {path}") from None
    # until a moment ago, somebody could still put something there
    if any(why for path in opened for _, why, _ in _entries(path, True)):
        for path, mode in before:  # as it was, so that it is refused the next time, too
            os.chmod(path, mode)
        return close(real, os.lstat(real))
    if not opened:
        return ""
    return (
        f"{who or 'others'} could write {opened[0]}; nothing of others was in it, and it is closed"
        " to them now"
    )


def _open_folders(real: str, who: str) -> list[str]:
    """Return the folders in a state folder, and itself, that others can write.

    Raises:
        NotPrivateError: something in them is not ours.
    """
    opened = [real] if who else []
    for number, (path, why, writable) in enumerate(_entries(real, bool(who))):
        if why or number >= _MOST:
            raise NotPrivateError(
                real,
                f"{who or 'others'} can write {'it' if who else 'in it'}, and "
                + (f"{path} {why}" if why else "it holds too much to look at all of it"),
                f"look at what others have put there: find {real} ! -user {os.geteuid()};"
                f" then: chmod -R go-w {real}",
            )
        if writable:
            opened.append(path)
    return opened


def _entries(folder: str, writable: bool, *, top: bool = True) -> Iterator[tuple[str, str, bool]]:
    """Look through a state folder, where others can write or could get to where they can.

    Args:
        folder: the folder.
        writable: others can write it: then all in it counts, else only what is state.
        top: it is the state folder itself.

    Yields:
        The path of what is in it, what is wrong with that or "", and whether it is a folder that
        others can write.
    """
    owners = (os.geteuid(),) if writable else (os.geteuid(), 0)
    with os.scandir(folder) as entries:
        for entry in entries:
            if top and not writable and entry.name not in _STATE:
                continue
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # another program of ours is at it
                continue
            if found.st_uid not in owners:
                yield entry.path, f"belongs to {name_of(found.st_uid)}", False
                continue
            link, is_folder = S_ISLNK(found.st_mode), S_ISDIR(found.st_mode)
            is_open = not link and bool(writers(found, entry.path))
            wrong = "can be written by others, too" if is_open and not is_folder else ""
            yield entry.path, wrong, is_open and is_folder
            if is_folder and found.st_mode & 0o011 and found.st_uid == os.geteuid():
                yield from _entries(entry.path, is_open, top=False)
