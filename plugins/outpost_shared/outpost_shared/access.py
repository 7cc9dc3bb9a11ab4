"""Who besides this user can write at a path."""

from __future__ import annotations

import os
from errno import EPERM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OTHERS = 0o002
_GROUP = 0o020
STICKY = 0o1000


class NotPrivateError(PermissionError):
    """Somebody else could change, or has made, what is at a path.

    Args:
        path: the folder, link or file on the way that is not ours alone.
        why: whose it is, or who can write it.
        hint: what the user can do.
    """

    def __init__(self, path: str, why: str, hint: str) -> None:
        super().__init__(EPERM, why, path)
        self.path = path
        self.why = why
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.why, self.hint)


def writers(found: os.stat_result, path: str) -> str:
    """Return who besides its owner can write something; "" when nobody."""
    if found.st_mode & _OTHERS:
        return "everybody"
    if found.st_mode & _GROUP and not _is_own_group(found.st_gid, path):
        return f"the group {_group(found.st_gid)}"
    return ""


def _is_own_group(gid: int, path: str) -> bool:
    """Whether nobody but this user and root is in a group, and no list of others is at the path."""
    import grp
    import pwd

    try:
        # of a file with an access control list, the group's bits stand for all who are in it
        if "system.posix_acl_access" in os.listxattr(path, follow_symlinks=False):
            return False
    except (OSError, AttributeError):  # not on this system, or file system
        pass
    try:
        ours = {pwd.getpwuid(os.geteuid()).pw_name, pwd.getpwuid(0).pw_name}
        members = {*grp.getgrgid(gid).gr_mem}
    except KeyError:
        return False
    members |= {user.pw_name for user in pwd.getpwall() if user.pw_gid == gid}
    return bool(members) and members <= ours


def name_of(uid: int) -> str:
    """Return a user's name with his number, or the number alone."""
    import pwd

    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return f"the user {uid}"


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
