"""Brings an agent's session along to a new working tree.

Claude Code keeps a session below its configuration, in a folder that is named after the working
folder, and finds it only from there. Each attempt has a working tree of its own, so that the
session of the attempt before is copied to where the next one will look for it. Codex and opencode
find theirs by the id alone.
"""

from __future__ import annotations

import os

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
    projects = os.path.join(home, "projects")
    name = f"{session}.jsonl"
    target = os.path.join(projects, _folder_of(work))
    try:
        if os.path.exists(os.path.join(target, name)):
            return True
        found = [os.path.join(projects, entry, name) for entry in os.listdir(projects)]
        newest = max((path for path in found if os.path.isfile(path)), key=os.path.getmtime)
        os.makedirs(target, 0o700, exist_ok=True)
        _copy(newest, os.path.join(target, name))
    except (OSError, ValueError):  # it is not there: the agent says so itself
        return False
    return True


def _folder_of(work: str) -> str:
    """Return how Claude Code names the folder of a working folder's sessions."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in os.path.realpath(work))


def _copy(source: str, target: str) -> None:
    """Copy a file in one step, for its owner alone."""
    staged = f"{target}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(source, "rb") as old, open(os.open(staged, flags, 0o600), "wb") as new:
        while chunk := old.read(1 << 20):
            new.write(chunk)
    os.rename(staged, target)
