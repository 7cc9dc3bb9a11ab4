"""Brings an agent's session along to a new working tree.

Claude Code keeps a session below its configuration, in a folder that is named after the working
folder, and finds it only from there. Each attempt has a working tree of its own, so that the
session of the attempt before is copied to where the next one will look for it. Codex and opencode
find theirs by the id alone.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outpost_worker.folder.folders import Folder

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
    from outpost_core.errors import WorkerError
    from outpost_worker.folder.folders import open_folder

    home = env.get("CLAUDE_CONFIG_DIR") or os.path.join(env.get("HOME", ""), ".claude")
    name = f"{session}.jsonl"
    try:
        # an agent writes there: a link of one would have somebody's file copied to the next
        return _bring(open_folder(os.path.join(home, "projects")), _folder_of(work), name)
    except (OSError, WorkerError):  # it is not there: the agent says so itself
        return False


def _bring(projects: Folder, goal: str, name: str) -> bool:
    target = projects.enter(goal)
    if target and target.stat(name):
        return True
    newest, source = 0, -1
    try:
        for entry in projects.names():
            about = projects.stat(entry)
            folder = projects.enter(entry) if about and stat.S_ISDIR(about.st_mode) else None
            there = folder.stat(name) if folder else None
            if not folder or not there or not stat.S_ISREG(there.st_mode):
                continue
            if source < 0 or there.st_mtime_ns > newest:
                found = folder.open(name)
                if found >= 0:
                    newest, old, source = there.st_mtime_ns, source, found
                    if old >= 0:
                        os.close(old)
        if source < 0:
            return False
        if target is None:
            os.mkdir(goal, 0o700, dir_fd=projects.fd)
            target = projects.enter(goal)
        return target is not None and _copy(source, target.fd, name)
    finally:
        if source >= 0:
            os.close(source)


def _folder_of(work: str) -> str:
    """Return how Claude Code names the folder of a working folder's sessions."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in os.path.realpath(work))


def _copy(source: int, at: int, name: str) -> bool:
    """Copy an open file into an open folder in one step, for its owner alone."""
    staged = f"{name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    new = os.open(staged, flags, 0o600, dir_fd=at)
    with open(source, "rb", closefd=False) as old, open(new, "wb") as copy:
        while chunk := old.read(1 << 20):
            copy.write(chunk)
    os.rename(staged, name, src_dir_fd=at, dst_dir_fd=at)
    return True
