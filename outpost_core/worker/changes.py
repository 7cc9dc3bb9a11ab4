"""What differs between a working tree and its last commit, and how it gets into an index."""

from __future__ import annotations

import os

from outpost_core.errors import WorkerError
from outpost_core.worker.git import Git, write


class Changes:
    """The state of a working tree.

    Attributes:
        head: the commit that is checked out; None before the first.
        branch: the branch that is checked out; None when HEAD is detached.
        conflicts: paths with an unresolved merge conflict.
        tracked: a tracked file was changed, added or deleted.
        untracked: there are files that git does not know and does not ignore.
        nested: folders (ending in `/`) that are git repositories of their own.
    """

    __slots__ = ("branch", "conflicts", "head", "nested", "tracked", "untracked")

    def __init__(self, told: str) -> None:
        self.head: str | None = None
        self.branch: str | None = None
        self.conflicts: list[str] = []
        self.tracked = False
        self.untracked = False
        self.nested: list[str] = []
        for record in told.split("\0"):
            kind, _, rest = record.partition(" ")
            if kind == "?":
                if rest.endswith("/"):
                    self.nested.append(rest)
                else:
                    self.untracked = True
            elif kind == "u":
                self.conflicts.append(rest.split(" ", 9)[9])
            elif kind == "1":
                self.tracked = True
            elif rest.startswith("branch.oid ") and rest != "branch.oid (initial)":
                self.head = rest[len("branch.oid ") :]
            elif rest.startswith("branch.head ") and rest != "branch.head (detached)":
                self.branch = rest[len("branch.head ") :]

    @property
    def dirty(self) -> bool:
        """Whether there is anything that is in no commit."""
        return bool(self.tracked or self.untracked or self.conflicts or self.nested)


def look(git: Git, env: dict[str, str] | None = None) -> Changes:
    """Return what is changed. Nothing is written, the agent's index neither.

    Args:
        git: the worker's repository.
        env: more environment, as `GIT_INDEX_FILE`.

    Raises:
        WorkerError: `commit_failed`, the repository cannot be read.
    """
    told = git.must(
        *("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all"),
        *("--no-renames", "--ignore-submodules=dirty", "--no-ahead-behind"),
        doing="read the working tree",
        reason="commit_failed",
        env=env,
    )
    return Changes(os.fsdecode(told.out))


def stage(
    git: Git, work: str, changes: Changes, folder: str, *, env: dict[str, str] | None = None
) -> None:
    """Bring everything that is not ignored into the index.

    The files of a git repository that the agent left inside the tree are taken as plain files:
    git itself would record a link to a commit that nobody else has. A linked working tree
    (`.git` is a file) is left out, its commits are in this repository anyway.

    Args:
        git: the worker's repository.
        work: its working tree.
        changes: what `look` found.
        folder: where a list of files may be put for a moment.
        env: more environment; with `GIT_INDEX_FILE` the agent may be at work, and a file that
            vanishes under way is passed over.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    options = ["-A"]
    if env:
        options.append("--ignore-errors")
    without = [f":(exclude,literal){path}" for path in changes.nested]
    done = git.run("add", *options, "--", ".", *without, env=env)
    if done.code and not (env and done.code == 1):
        raise git.error(done, "stage the work", "commit_failed")
    files = [name for path in changes.nested for name in _plain_files(work, path)]
    if files:
        listing = os.path.join(folder, f"nested-{os.getpid()}")
        write(listing, "".join(f"{name}\0" for name in files))
        try:
            git.must(
                *("update-index", "-z", "--add", "--remove", "--stdin"),
                doing="stage the files of a nested repository",
                reason="commit_failed",
                stdin=listing,
                env=env,
            )
        finally:
            os.unlink(listing)


def _plain_files(work: str, nested: str) -> list[str]:
    """Return the files of a nested repository that it does not ignore, relative to `work`."""
    top = os.path.join(work, nested)
    if not os.path.isdir(os.path.join(top, ".git")):
        return []
    try:
        listed = Git(os.path.join(top, ".git"), top).must(
            *("ls-files", "--cached", "--others", "--exclude-standard", "-z"),
            doing="list a nested repository",
            reason="commit_failed",
        )
    except WorkerError:
        return []
    found: list[str] = []
    for name in filter(None, os.fsdecode(listed.out).split("\0")):
        path = os.path.join(top, name)
        if name.endswith("/"):
            found += _plain_files(work, nested + name)
        elif os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
            found.append(nested + name)
    return found
