"""What differs between a working tree and its last commit, and how it gets into an index."""

from __future__ import annotations

import os

from outpost_core.errors import WorkerError
from outpost_core.worker import held
from outpost_core.worker.git import Done, Git, write


class Changes:
    """The state of a working tree.

    Attributes:
        head: the commit that is checked out; None before the first.
        branch: the branch that is checked out; None when HEAD is detached.
        conflicts: paths with an unresolved merge conflict.
        tracked: a tracked file was changed, added or deleted.
        untracked: there are files that git does not know and does not ignore.
        nested: folders (ending in `/`) that are git repositories of their own.
        entries: changed paths that git knows: `(X of the status, mode in HEAD, blob in HEAD)`.
        new: paths that git does not know and does not ignore.
        dirt: paths that only the checkout made different; never to be committed.
        unfiltered: changed paths whose filter cannot be run here; likewise.
        filters, lacking: filters that attributes name, and those of them that cannot be run.
        known: `entries` as they were before anything was taken out.
    """

    __slots__ = (
        "branch",
        "conflicts",
        "dirt",
        "entries",
        "filters",
        "head",
        "known",
        "lacking",
        "nested",
        "new",
        "tracked",
        "unfiltered",
        "untracked",
    )

    def __init__(self, told: str) -> None:
        self.head: str | None = None
        self.branch: str | None = None
        self.conflicts: list[str] = []
        self.tracked = False
        self.untracked = False
        self.nested: list[str] = []
        self.entries: dict[str, tuple[str, str, str]] = {}
        self.new: list[str] = []
        self.dirt: list[str] = []
        self.unfiltered: list[str] = []
        self.filters: set[str] = set()
        self.lacking: set[str] = set()
        for record in told.split("\0"):
            kind, _, rest = record.partition(" ")
            if kind == "?":
                if rest.endswith("/"):
                    self.nested.append(rest)
                else:
                    self.untracked = True
                    self.new.append(rest)
            elif kind == "u":
                self.conflicts.append(rest.split(" ", 9)[9])
            elif kind == "1":
                self.tracked = True
                fields = rest.split(" ", 7)
                self.entries[fields[7]] = (fields[0][0], fields[2], fields[5])
            elif rest.startswith("branch.oid ") and rest != "branch.oid (initial)":
                self.head = rest[len("branch.oid ") :]
            elif rest.startswith("branch.head ") and rest != "branch.head (detached)":
                self.branch = rest[len("branch.head ") :]
        self.known = dict(self.entries)

    def take_out(self, paths: set[str], *, unfiltered: bool) -> None:
        """Count these paths as not changed, since they must not be committed."""
        if not paths:
            return
        (self.unfiltered if unfiltered else self.dirt).extend(sorted(paths))
        self.entries = {path: v for path, v in self.entries.items() if path not in paths}
        self.new = [path for path in self.new if path not in paths]
        self.tracked, self.untracked = bool(self.entries), bool(self.new)

    @property
    def held(self) -> list[str]:
        """The paths that were taken out."""
        return [*self.dirt, *self.unfiltered]

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
    done = _add(git, changes, folder, options, env)
    while done.code and held.fails(git, folder, changes, done.err):
        done = _add(git, changes, folder, options, env)
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


def _add(
    git: Git, changes: Changes, folder: str, options: list[str], env: dict[str, str] | None
) -> Done:
    without = [f":(exclude,literal){path}" for path in changes.nested]
    if changes.held:
        without += held.shut_out(git, folder, changes, env)
    listing = os.path.join(folder, f"paths-{os.getpid()}")
    write(listing, "\0".join([".", *without]))
    try:
        return git.run(
            *held.required(changes),
            *("add", *options, f"--pathspec-from-file={listing}", "--pathspec-file-nul"),
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
