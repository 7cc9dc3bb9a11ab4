"""Makes a worker's repository usable again after its agent broke it.

An agent may remove `.git`, make a new one in its place, or leave a part of it broken; a disk that
filled up or a machine that lost its power may too. The files of the working tree are what counts
then: they are put on top of what the worker started from, in a new `.git`.
"""

from __future__ import annotations

import os
import time

from outpost_core.errors import WorkerError
from outpost_core.worker.changes import Changes, look
from outpost_core.worker.files import BROKEN, root_of
from outpost_core.worker.git import Git, read
from outpost_core.worker.index import uncover
from outpost_core.worker.mirror import Snapshot, mirror_path, remove_locks
from outpost_core.worker.workspace import point_branch, rebuild, repository

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def mend(
    order: Mapping[str, Any], folder: str, workspace: Mapping[str, Any]
) -> tuple[Changes, str]:
    """Look at the working tree, after its `.git` was made anew where it cannot be used.

    The agent's processes must have ended. What the agent had committed in a `.git` that cannot be
    used is not taken over; it stays in the worker's folder as `broken-git-…`.

    Args:
        order: the order's JSON.
        folder: the worker's folder.
        workspace: what `workspace.prepare` returned.

    Returns:
        What is changed, and a sentence on what was mended, "" when nothing had to be.

    Raises:
        WorkerError: `commit_failed` when the working tree is gone, or it could not be done;
            `disk_full`.
    """
    git = repository(order, folder)
    if os.path.isdir(git.git_dir):
        remove_locks(git.git_dir)
        _uncover(git, folder)
    changes, why = _usable(git, workspace)
    if changes is not None:
        return changes, ""
    if not has_files(folder):
        raise WorkerError("the agent removed its working tree", reason="commit_failed")
    kept = _restore(order, folder, workspace)
    note = f"its .git could not be used ({why}) and was made anew"
    return look(git), f"{note}; the old one is {kept}" if kept else note


def _uncover(git: Git, folder: str) -> None:
    try:
        uncover(git, os.path.join(folder, "work"), os.path.join(git.git_dir, "index"), folder)
    except WorkerError as error:
        if error.reason == "disk_full":
            raise
        # the index cannot be read: that is found and mended next


def _usable(git: Git, workspace: Mapping[str, Any]) -> tuple[Changes | None, str]:
    """Return what is changed, or None and why the repository cannot be used."""
    if not os.path.exists(os.path.join(git.git_dir, "HEAD")):
        return None, "it was removed"
    changes, why = _look(git)
    if changes is None:
        return None, why
    if changes.branch == "(unknown)":
        return None, "the branch that is checked out is broken"
    base = workspace["base_commit"]
    # With the mirror's objects, the base is there; without them, a clone may have brought it.
    borrows = read(os.path.join(git.git_dir, "objects/info/alternates"))
    if base and not borrows and git.run("cat-file", "-e", base + "^{commit}").code:
        return None, "it does not hold the commit that the work began from"
    return changes, ""


def _look(git: Git) -> tuple[Changes | None, str]:
    try:
        return look(git), ""
    except WorkerError as error:
        if error.reason == "disk_full" or not _broken(git):
            raise  # it was killed, or too slow: that says nothing of the repository
        why = error.message
    index = os.path.join(git.git_dir, "index")
    if os.path.exists(index):  # what it says is in HEAD and in the files as well
        os.rename(index, f"{index}.broken")
        git.run("read-tree", "HEAD")
    return (None, why) if _broken(git) else (look(git), "")


def _broken(git: Git) -> bool:
    """Whether git itself says that it cannot work with the repository."""
    return git.run("status", "--porcelain", "--untracked-files=no").code == 128


def has_files(folder: str) -> bool:
    """Whether there is anything in the working tree besides `.git`."""
    try:
        return any(name != ".git" for name in os.listdir(os.path.join(folder, "work")))
    except OSError:
        return False


def _restore(order: Mapping[str, Any], folder: str, workspace: Mapping[str, Any]) -> str:
    """Write `.git` again and leave the files as they are; returns where the old one is."""
    root = root_of(folder)
    git = repository(order, folder)
    kept = ""
    try:
        if os.path.lexists(git.git_dir):
            kept = os.path.join(folder, f"{BROKEN}{time.time_ns()}")
            os.rename(git.git_dir, kept)
        rebuild(order, folder, Snapshot(mirror_path(root, order["rig"])))
        if workspace.get("lfs"):
            from outpost_core.worker import lfs

            lfs.configure(git.git_dir)
        modules = os.path.join(kept, "modules")
        if kept and os.path.isdir(modules):  # the submodules' own repositories are not broken
            os.rename(modules, os.path.join(git.git_dir, "modules"))
        start, base = workspace["start_commit"], workspace["base_commit"]
        # what an earlier attempt had committed was only in the old one, the base is in the mirror
        if start != base and git.run("cat-file", "-e", start + "^{commit}").code:
            start = base
        if start:
            point_branch(git.git_dir, workspace["branch"], start)
            git.must("read-tree", start, doing="read the base", reason="commit_failed")
    except OSError as error:
        raise WorkerError(f"could not make .git again: {error}", reason="commit_failed") from error
    return kept
