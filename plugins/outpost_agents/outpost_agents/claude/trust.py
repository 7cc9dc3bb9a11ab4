"""Tells Claude Code beforehand that a worker's folder is trusted, as a person would in its dialog.

On a terminal, Claude Code 2.1 asks so of each folder that is new to it, and a worker's folder
always is. The answer is kept in `.claude.json` of the user, which other sessions rewrite while
they run: it is changed under the lock that Claude Code itself takes (a folder beside the file, as
npm's proper-lockfile makes it), in one step, and looked at afterwards. Whatever is unusual, the
file stays as it is, and the person is asked.
"""

from __future__ import annotations

import contextlib
import os
import time

from outpost_shared.backoff import every

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_FLAG = "hasTrustDialogAccepted"
#: Seconds for others to let go of the lock, and after which a lock is one of a killed program.
_PATIENCE = 2.0
_STALE = 10.0
#: A larger file is none of Claude Code's.
_MOST = 64 * 1024 * 1024


def accept(env: Mapping[str, str], work: str) -> bool:
    """Write down that a folder is trusted; False when that was not possible.

    Args:
        env: the agent's environment.
        work: the folder.
    """
    folder = env.get("CLAUDE_CONFIG_DIR") or env.get("HOME", "")
    path = os.path.realpath(os.path.join(folder, ".claude.json"))
    if not folder or not os.path.isfile(path):
        return False  # never used here: there is more to ask than this
    lock = f"{path}.lock"
    try:
        if not _take(lock):
            return False
        try:
            return _write(path, work) and _trusts(path, work)
        finally:
            os.rmdir(lock)
    except (OSError, ValueError, RecursionError):
        return False


def _take(lock: str) -> bool:
    for _ in every(0.02, within=_PATIENCE).tries():
        try:
            os.mkdir(lock)
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - os.stat(lock).st_mtime > _STALE:
                    os.rmdir(lock)  # free at the next look
        else:
            return True
    return False


def _load(path: str) -> dict[str, object]:
    import json

    with open(path, "rb") as file:
        value = json.loads(file.read(_MOST))
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _trusts(path: str, work: str) -> bool:
    projects = _load(path).get("projects")
    entry = projects.get(work) if isinstance(projects, dict) else None
    return isinstance(entry, dict) and entry.get(_FLAG) is True


def _write(path: str, work: str) -> bool:
    import json

    if _trusts(path, work):
        return True
    value = _load(path)
    projects = value.setdefault("projects", {})
    entry = projects.setdefault(work, {}) if isinstance(projects, dict) else None
    if not isinstance(entry, dict):
        return False
    entry[_FLAG] = True
    about = os.stat(path)
    staged = f"{path}.{os.getpid()}.outpost"
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False)
            file.flush()
            os.fchmod(file.fileno(), about.st_mode & 0o777)
            os.fsync(file.fileno())
        os.rename(staged, path)
    except BaseException:
        os.unlink(staged)
        raise
    return True
