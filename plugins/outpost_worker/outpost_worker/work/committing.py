"""Commit what an agent left uncommitted, and look whether the commit holds all of it."""

from __future__ import annotations

import os

from outpost_core.errors import WorkerError
from outpost_worker.repository import leftover, reached
from outpost_worker.repository.changes import look, stage
from outpost_worker.repository.changeset import Changes
from outpost_worker.repository.git import surroundings, write
from outpost_worker.repository.preflight import identity

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from outpost_worker.repository.owngit import Own


def refuse_half_done(git: Own, changes: Changes) -> None:
    """Refuse to commit in the middle of a merge or rebase.

    Raises:
        WorkerError: `commit_failed`.
    """
    if changes.conflicts:
        some = ", ".join(changes.conflicts[:5])
        raise WorkerError(f"the agent left a merge conflict in {some}", reason="commit_failed")
    for name in ("rebase-merge", "rebase-apply"):
        if os.path.exists(os.path.join(git.git_dir, name)):
            raise WorkerError("the agent left a rebase half done", reason="commit_failed")


def commit_all(
    git: Own, order: Mapping[str, Any], folder: str, work: str, changes: Changes
) -> str | None:
    """Commit everything that is not ignored, running no hook and without signing.

    Args:
        git: the repository.
        order: the order's JSON.
        folder: the worker's folder.
        work: the working tree.
        changes: what `look` found there.

    Returns:
        The new HEAD, or the old one.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    delivery = order["delivery"]
    # `commit --all` alone does not see files that git does not know yet.
    everything = ["--all"]
    hiding = reached.may_hide(folder)
    if changes.untracked or changes.nested or changes.held or changes.filters or hiding:
        stage(git, work, changes, folder)
        everything = []
    if hiding:
        reached.only(git, folder, changes.head, {})
    message = os.path.join(folder, "commit-message")
    write(message, delivery["message"] + "\n")
    argv = ("commit", "--quiet", "--cleanup=whitespace", *everything, "-F", message)
    known = _identity(delivery["author_name"], delivery["author_email"])
    done = git.run(*argv, env=known)
    if done.code == 128 and ("tell me who you are" in done.err or "ident" in done.err):
        anybody = identity(delivery, surroundings())
        anybody = _identity(anybody.get("name", ""), anybody.get("email", ""))
        done = git.run(*argv, env={**anybody, **known})
    if done.code == 1 and not done.err.strip():
        return changes.head  # what looked like a change was none
    if done.code:
        check(git, work, look(git), changes.held)  # names what cannot be read, if that is why
        raise git.error(done, "commit the work", "commit_failed")
    return git.must("rev-parse", "HEAD", doing="read HEAD", reason="commit_failed").text


def _identity(name: str, email: str) -> dict[str, str]:
    return {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", name), ("EMAIL", email))
        if value
    }


def check(git: Own, work: str, after: Changes, held_back: list[str]) -> list[str]:
    """Look whether the commit holds everything; returns the files that git did not take.

    Args:
        git: the repository.
        work: the working tree.
        after: what `look` found after the commit.
        held_back: paths that were not to be committed.

    Raises:
        WorkerError: `commit_failed`, there is something that cannot be read.
    """
    after.open = [path for path in after.open if path not in set(held_back)]
    left = leftover.find(git, work, after)
    if left.unreadable:
        raise left.error(work)
    return left.files
