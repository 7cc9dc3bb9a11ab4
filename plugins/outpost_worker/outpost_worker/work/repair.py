"""Continues where an agent broke its repository.

An agent may remove `.git`, make a new one in its place, or leave a part of it broken; a disk that
filled up or a machine that lost its power may too. The files of the working tree are what counts
then: in our repository they are on top of what was last taken over from the agent's, or of what
the worker started from.
"""

from __future__ import annotations

import os
import time

from outpost_core.errors import WorkerError
from outpost_worker.folder import files, folders
from outpost_worker.folder.folders import StrangeError
from outpost_worker.repository import ownrefs
from outpost_worker.repository.changes import look
from outpost_worker.repository.changeset import Changes
from outpost_worker.repository.index import uncover
from outpost_worker.repository.mirror import remove_locks
from outpost_worker.repository.repostate import UnusableError
from outpost_worker.work.aside import stashes
from outpost_worker.work.workspace import point_branch

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from outpost_worker.repository.owngit import Own


def mend(
    git: Own, folder: str, workspace: Mapping[str, Any], *, strict: bool = False
) -> tuple[Changes, str]:
    """Take over what the agent left, also where its `.git` cannot be used, and look at it.

    The agent's processes must have ended. What the agent had committed in a `.git` that cannot be
    used is not taken over; it stays in the worker's folder as `broken-git-…`.

    Args:
        git: our repository of the worker.
        folder: the worker's folder.
        workspace: what `workspace.prepare` returned.
        strict: a `.git` that is no real folder is an error, not one more way to be broken.

    Returns:
        What is changed, and a sentence on what was repaired, "" when nothing had to be.

    Raises:
        WorkerError: `commit_failed` when the working tree is gone or no real folder, or it could
            not be done; `disk_full`.
    """
    remove_locks(git.git_dir)
    git.clear(ended=True)
    try:
        git.take(workspace["base_commit"])
    except UnusableError as error:
        return _without(git, folder, workspace, error.why)
    except StrangeError as error:
        if strict:
            raise error.broken() from None
        return _without(git, folder, workspace, error.message)
    _uncover(git, folder)
    changes, why = _look(git)
    if changes is None or changes.branch == "(unknown)":
        _begin_again(git, workspace)
        return _without(git, folder, workspace, why or "the branch that is checked out is broken")
    return changes, ""


def _without(git: Own, folder: str, workspace: Mapping[str, Any], why: str) -> tuple[Changes, str]:
    """Look at the files alone, and set the agent's repository aside."""
    if not has_files(folder):
        raise WorkerError("the agent removed its working tree", reason="commit_failed")
    try:
        kept = _set_aside(git, folder)
        git.forget()
    except OSError as error:
        raise WorkerError(f"could not set .git aside: {error}", reason="commit_failed") from error
    _uncover(git, folder)
    changes, _ = _look(git)
    if changes is None:
        _begin_again(git, workspace)
        changes = look(git)
    note = f"its .git could not be used ({why}) and was made anew"
    return changes, f"{note}; the old one is {kept}" if kept else note


def heal(git: Own, folder: str, workspace: Mapping[str, Any]) -> bool:
    """Continue without commits of the agent whose objects are missing or broken.

    Its repository stays in the worker's folder as `broken-git-…`, and its files are what counts.

    Args:
        git: our repository of the worker.
        folder: the worker's folder.
        workspace: what `workspace.prepare` returned.

    Returns:
        Whether anything is different now.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    base = [str(known) for known in (workspace["base_commit"],) if known]
    listed = git.run("for-each-ref", "--format=%(refname)", "refs/heads", "refs/stash")
    names = [*listed.text.split(), "HEAD"]
    whole = ("rev-list", "--objects", "--quiet")
    broken = [name for name in names if git.run(*whole, name, "--not", *base, "--").code]
    stash = [tip for tip in stashes(git) if git.run(*whole, tip, "--not", *base, "--").code]
    if git.tip() == "" and "HEAD" in broken:
        broken.remove("HEAD")  # it is not born yet
    if not (broken or stash or listed.code):
        if not git.run("write-tree").code:
            return False
        _reset_index(git)  # only what was staged is missing: the files are there
        return True
    _set_aside(git, folder)
    git.forget()
    ownrefs.drop(git.git_dir, [name for name in broken if name != "HEAD"])
    if stash:
        folders.remove([os.path.join(git.git_dir, "logs/refs/stash")])
    if "HEAD" in broken or listed.code:
        _begin_again(git, workspace)
    return True


def _set_aside(git: Own, folder: str) -> str:
    """Move the agent's `.git` away; returns where it is, "" where there was nothing to keep."""
    assert git.top is not None
    about = git.top.stat(".git")
    if about is None:
        return ""
    kept = os.path.join(folder, f"{files.BROKEN}{time.time_ns()}")
    os.rename(".git", kept, src_dir_fd=git.top.fd)
    if os.path.islink(kept):  # what it led to is somebody's
        os.unlink(kept)
        return ""
    modules = os.path.join(kept, "modules")
    if os.path.isdir(modules) and not os.path.islink(modules):
        # the submodules' own repositories are not broken
        os.mkdir(".git", 0o700, dir_fd=git.top.fd)
        os.rename(modules, os.path.join(git.theirs, "modules"))
    return kept


def _begin_again(git: Own, workspace: Mapping[str, Any]) -> None:
    """Let ours be as it was when the worker started, with the files as they are."""
    start, base = workspace["start_commit"], workspace["base_commit"]
    if start != base and git.run("cat-file", "-e", start + "^{commit}").code:
        start = base
    git.run("symbolic-ref", "HEAD", f"refs/heads/{workspace['branch']}")
    folders.remove([os.path.join(git.git_dir, "index")])
    if start:
        point_branch(git.git_dir, workspace["branch"], start)
        git.must("read-tree", start, doing="read the base", reason="commit_failed")


def _uncover(git: Own, folder: str) -> None:
    try:
        uncover(git, git.work, os.path.join(git.git_dir, "index"), folder)
    except WorkerError as error:
        if error.reason == "disk_full":
            raise
        # the index cannot be read: that is found and repaired next


def _look(git: Own) -> tuple[Changes | None, str]:
    try:
        return look(git), ""
    except WorkerError as error:
        if error.reason == "disk_full" or not _broken(git):
            raise  # it was killed, or too slow: that says nothing of the repository
        why = error.message
    _reset_index(git)  # what it says is in HEAD and in the files as well
    return (None, why) if _broken(git) else (look(git), "")


def _reset_index(git: Own) -> None:
    folders.remove([os.path.join(git.git_dir, "index")])
    git.run("read-tree", "HEAD")


def _broken(git: Own) -> bool:
    """Whether git itself says that it cannot work with the repository."""
    return git.run("status", "--porcelain", "--untracked-files=no").code == 128


def has_files(folder: str) -> bool:
    """Whether there is anything in the working tree besides `.git`."""
    try:
        return any(name != ".git" for name in os.listdir(os.path.join(folder, files.WORK)))
    except OSError:
        return False
