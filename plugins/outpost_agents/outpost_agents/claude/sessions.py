"""Brings a session of Claude Code along to a new working tree.

Claude Code keeps a session below its configuration, in a folder that is named after the working
folder, and finds it only from there. Each attempt has a working tree of its own, so that the
session of the attempt before is copied to where the next one will look for it. Codex and opencode
find theirs by the id alone.
"""

from __future__ import annotations

import os
import stat

from outpost_shared import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: What names a session in a command, before its id.
RESUME = "--resume"


def bring(argv: Sequence[str], env: Mapping[str, str], work: str) -> bool:
    """Copy the session that a command of Claude Code resumes to where it looks for it.

    Args:
        argv: the command; one that resumes nothing is left alone.
        env: the agent's environment.
        work: the working tree in which it will run.

    Returns:
        True when the session is there.
    """
    if RESUME not in argv[:-1] or os.path.basename(argv[0]) != "claude":
        return False
    session = argv[list(argv).index(RESUME) + 1]
    if not session.replace("-", "").isalnum():
        return False
    home = env.get("CLAUDE_CONFIG_DIR") or os.path.join(env.get("HOME", ""), ".claude")
    try:
        # an agent writes there: a link of one would have somebody's file copied to the next
        above = plain.folder(home)
        try:
            projects = plain.inner(above, "projects")
        finally:
            os.close(above)
        try:
            return _bring(projects, _folder_of(work), f"{session}.jsonl")
        finally:
            os.close(projects)
    except OSError:  # it is not there: the agent says so itself
        return False


def _bring(projects: int, goal: str, name: str) -> bool:
    """Copy a session into the folder `goal`, from the folder that has its newest state."""
    source = _newest(projects, name)
    if source < 0:
        return False
    try:
        if _about(projects, goal) is None:
            os.mkdir(goal, 0o700, dir_fd=projects)
        target = plain.inner(projects, goal)
        try:
            if _about(target, name) is None:
                _copy(source, target, name)
        finally:
            os.close(target)
    finally:
        os.close(source)
    return True


def _newest(projects: int, name: str) -> int:
    """Open the newest plain file of that name in the folders of an open folder; -1 for none."""
    newest, source = 0, -1
    for entry in sorted(os.listdir(projects)):
        about = _about(projects, entry)
        if about is None or not stat.S_ISDIR(about.st_mode):
            continue
        folder = plain.inner(projects, entry)
        try:
            there = _about(folder, name)
            if there is None or not stat.S_ISREG(there.st_mode):
                continue
            if source < 0 or there.st_mtime_ns > newest:
                found = plain.opened(folder, name)
                if source >= 0:
                    os.close(source)
                newest, source = there.st_mtime_ns, found
        finally:
            os.close(folder)
    return source


def _about(at: int, name: str) -> os.stat_result | None:
    """Return what the system says of an entry itself; None when there is none."""
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    except OSError:
        return None


def _folder_of(work: str) -> str:
    """Return how Claude Code names the folder of a working folder's sessions."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in os.path.realpath(work))


def _copy(source: int, at: int, name: str) -> None:
    """Copy an open file into an open folder in one step, for its owner alone."""
    staged = f"{name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    new = os.open(staged, flags, 0o600, dir_fd=at)
    with open(source, "rb", closefd=False) as old, open(new, "wb") as copy:
        while chunk := old.read(1 << 20):
            copy.write(chunk)
    os.rename(staged, name, src_dir_fd=at, dst_dir_fd=at)
