"""A second ordinary user: his files, and code that runs as him. Both need root.

No account is made: the system knows users by numbers. Code runs in a forked process that has
everything imported already, so it does not matter whether that user could read this checkout.
"""

from __future__ import annotations

import grp  # noqa: F401 - imported while it can be read
import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

#: Numbers that nobody has on a usual system.
ME, OTHER = 54321, 54322


def give(path: Path, user: int) -> Path:
    """Make a user the owner of a file, or of a folder with all in it."""
    for each in (path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else ())):
        os.lchown(each, user, user)
    return path


def as_user(user: int, code: Callable[[], T], *, umask: int = 0o022) -> T:
    """Run code as a user without groups, in a process of its own; return what it returns.

    Args:
        user: his number, and that of his group.
        code: what to run.
        umask: the mask of his process.

    Raises:
        Exception: what it raised.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer: tuple[bool, Any]
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            os.umask(umask)
            answer = (True, code())
        except BaseException as error:
            answer = (False, _portable(error))
        os.write(write, pickle.dumps(answer))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    good, value = pickle.loads(said)
    if good:
        return value  # type: ignore[no-any-return]
    raise value


def _portable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return AssertionError("".join(traceback.format_exception(error)))
    return error
