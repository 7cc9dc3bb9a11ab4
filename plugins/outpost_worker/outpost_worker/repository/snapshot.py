"""A working tree as a tree of git, made beside its index, so that nothing of it is changed."""

from __future__ import annotations

import os

from outpost_worker.folder.folders import open_folder
from outpost_worker.repository import gitdirs, held, leftover, reached
from outpost_worker.repository.changes import look, stage
from outpost_worker.repository.git import Git, read
from outpost_worker.repository.index import uncover

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from outpost_worker.repository.owngit import Own

_IDENTITY = {
    "GIT_AUTHOR_NAME": "outpost",
    "GIT_AUTHOR_EMAIL": "outpost@localhost",
    "GIT_COMMITTER_NAME": "outpost",
    "GIT_COMMITTER_EMAIL": "outpost@localhost",
}


class Taken:
    """A working tree as it was at one moment.

    Attributes:
        head: the commit that is checked out; None before the first.
        tree: what is in it, when that is not what `head` holds; else "".
        plain: repositories below it whose files are in `tree`, relative to it.
        left: what is in the working tree and not in `tree`.
        unfiltered: changed files that are not in `tree` since their filter is missing.
        lacking: the filters that are missing.
    """

    __slots__ = ("head", "lacking", "left", "plain", "tree", "unfiltered")

    def __init__(self, head: str | None) -> None:
        self.head = head
        self.tree = ""
        self.plain: list[str] = []
        self.left = leftover.NotAdded()
        self.unfiltered: list[str] = []
        self.lacking: set[str] = set()


def take(git: Own, work: str, folder: str, *, final: bool, main: bool = False) -> Taken:
    """Take everything in a working tree that is not ignored.

    Args:
        git: the repository.
        work: its working tree.
        folder: where an index may be put for a moment.
        final: nobody is at work in it, so what is not in the tree then was left out.
        main: it is the tree that was checked out for the worker.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    index = os.path.join(folder, f"checkpoint-{os.getpid()}.index")
    env = {"GIT_INDEX_FILE": index}
    try:
        _copy_index(os.path.join(git.git_dir, "index"), index)
        uncover(git, work, index, folder)
        changes = look(git, env)
        held.hold(git, folder, changes, checkout=main)
        taken = Taken(changes.head)
        after = changes
        if changes.dirty:
            taken.plain = stage(git, work, changes, folder, env=env, aside=True)
            if not final or reached.may_hide(folder):
                reached.only(git, folder, changes.head, env)
            after = look(git, env)
            # a linked tree with some files in this index looks like a folder: `linked_work` has it
            linked = [path for path in changes.nested if path.rstrip("/") not in taken.plain]
            after.open = [path for path in after.open if not path.startswith(tuple(linked))]
            if after.staged:
                written = git.must("write-tree", doing="save", reason="commit_failed", env=env)
                taken.tree = written.text
        taken.unfiltered, taken.lacking = changes.unfiltered, changes.lacking
        if final:
            after.open = [path for path in after.open if path not in set(changes.held)]
            taken.left = leftover.find(git, work, after)
            if not main:
                taken.left.files += changes.unfiltered
    finally:
        for path in (index, index + ".lock"):
            if os.path.lexists(path):
                os.unlink(path)
    return taken


def commit(git: Git, tree: str, parents: list[str], message: str, when: int | None = None) -> str:
    """Commit a tree without any ref; returns the commit.

    Args:
        git: the repository.
        tree: the tree.
        parents: commits.
        message: the whole message.
        when: its time, so that the same content gives the same commit; None for now.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    dates = {f"GIT_{role}_DATE": f"@{when} +0000" for role in ("AUTHOR", "COMMITTER")}
    made = git.must(
        *("commit-tree", tree, *(word for parent in parents for word in ("-p", parent))),
        *("-m", message),
        doing="commit the checkpoint",
        reason="commit_failed",
        env=_IDENTITY if when is None else {**_IDENTITY, **dates},
    )
    return made.text


def open_work(git: Own, taken: Taken, name: str) -> str | None:
    """Return the commit of what a working tree holds: its HEAD, or one on top of that, or None.

    Args:
        git: its repository, or its own folder in one that it is linked to.
        taken: what `take` found there.
        name: what it is called in the message.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    if not taken.tree:
        return taken.head
    when = int(os.stat(os.path.join(git.git_dir, "HEAD")).st_mtime)
    parents = [taken.head] if taken.head else []
    return commit(git, taken.tree, parents, f"Not committed in {name}", when)


def linked_work(git: Own, folder: str, *, final: bool) -> dict[str, Taken]:
    """Return what is in the working trees that are linked to a repository.

    Args:
        git: the repository.
        folder: where an index may be put for a moment.
        final: nobody is at work in them.

    Returns:
        by commit of all that is in it (`open_work`); `left.files` are absolute.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    found: dict[str, Taken] = {}
    for own, work in gitdirs.linked(git.git_dir):
        name = os.path.basename(own)
        if work and gitdirs.leads_back(work, os.path.join(git.theirs, "worktrees", name)):
            there = git.linked(name, open_folder(work))
            taken = take(there, work, folder, final=final)
            taken.left.anchor(work)
            tip = open_work(there, taken, f"the linked working tree {name}")
        else:
            taken = Taken(_detached(own))
            tip = taken.head
        if tip:
            found[tip] = taken
    return found


def _detached(own: str) -> str | None:
    """Return the commit at which a linked working tree was that is gone, unless on a branch."""
    said = read(os.path.join(own, "HEAD")).strip()
    return said if len(said) in (40, 64) and set(said) <= set("0123456789abcdef") else None


def _copy_index(theirs: str, ours: str) -> None:
    """Copy the agent's index, if there is one: it tells which files git need not read again.

    The time of the index belongs to what it says: git reads a file again that was written in the
    same second as the index or later. With a copy that looks younger it would miss a change of the
    same size in the second of the checkout (https://git-scm.com/docs/racy-git).
    """
    try:
        with open(theirs, "rb") as source, open(ours, "wb") as copy:
            copy.write(source.read())
            copy.flush()
            written = os.fstat(source.fileno())
            os.utime(copy.fileno(), ns=(written.st_atime_ns, written.st_mtime_ns))
    except FileNotFoundError:
        pass
