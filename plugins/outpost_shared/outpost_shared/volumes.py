"""Folders that everybody could write by their mode, and that nobody else reaches.

Kubernetes makes the volumes of a pod with mode 0777, owned by root, and no user in the pod can
change that; nobody but the pod's own containers reaches them. Only who makes a machine or an image
knows such a thing, and says it in a file that is root's alone: an absolute path a line.
"""

from __future__ import annotations

import os
from stat import S_ISDIR, S_ISREG

#: The file. Its folders are root's as well, and what it names is believed exactly as it stands.
LIST = "/etc/outpost/volumes"
#: Bytes of it that are read.
_MOST = 64 * 1024


def ours(path: str, found: os.stat_result) -> bool:
    """Whether a folder of root, which others could write, was said to be reached by nobody else.

    Args:
        path: the folder, absolute and without links.
        found: what it is.
    """
    if not S_ISDIR(found.st_mode) or found.st_uid != 0:
        return False
    above = os.path.dirname(LIST)
    try:
        if not all(_is_roots(os.lstat(each)) for each in (os.path.dirname(above), above)):
            return False
        fd = os.open(LIST, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            about = os.fstat(fd)
            if not (S_ISREG(about.st_mode) and _is_roots(about)):
                return False
            lines = os.read(fd, _MOST).split(b"\n")
        finally:
            os.close(fd)
    except OSError:
        return False
    return os.fsencode(path) in lines


def _is_roots(found: os.stat_result) -> bool:
    """Whether root alone can change something."""
    return found.st_uid == 0 and not found.st_mode & 0o022
