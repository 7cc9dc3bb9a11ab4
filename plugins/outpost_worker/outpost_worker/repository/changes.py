"""What differs between a working tree and its last commit, and how it gets into an index."""

from __future__ import annotations

import os

from outpost_core.errors import WorkerError
from outpost_worker.repository import gitdirs, held, leftover, links
from outpost_worker.repository.git import Done, Git, write
from outpost_worker.repository.index import update

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from outpost_worker.repository.owngit import Own

_FULL = "No space left on device"
#: What git says, besides its answer, when there is a file or folder that it cannot look at.
_BLIND = ("could not open directory", "unable to access", "Permission denied")


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
        staged: the index holds something else than `head`.
        open: paths of which the index does not hold what is in the tree.
        blind: git could not look everywhere.
    """

    __slots__ = (
        *("blind", "branch", "conflicts", "dirt", "entries", "filters", "head", "known"),
        *("lacking", "nested", "new", "open", "staged", "tracked", "unfiltered", "untracked"),
    )

    def __init__(self, told: str, said: str = "") -> None:
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
        self.staged = False
        self.open: list[str] = []
        self.blind = any(sign in said for sign in _BLIND)
        for record in told.split("\0"):
            kind, _, rest = record.partition(" ")
            if kind == "?":
                if rest.endswith("/"):
                    self.nested.append(rest)
                else:
                    self.untracked = True
                    self.new.append(rest)
                    self.open.append(rest)
            elif kind == "u":
                self.conflicts.append(rest.split(" ", 9)[9])
            elif kind == "1":
                self.tracked = True
                fields = rest.split(" ", 7)
                self.entries[fields[7]] = (fields[0][0], fields[2], fields[5])
                self.staged = self.staged or rest[0] != "."
                # in a submodule git shows work that belongs to another repository
                if rest[1] != "." and rest[3] != "S":
                    self.open.append(fields[7])
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


def look(git: Own, env: dict[str, str] | None = None) -> Changes:
    """Return what is changed; only links to submodules are brought up to date in the index.

    Args:
        git: our repository.
        env: more environment, as `GIT_INDEX_FILE`.

    Raises:
        WorkerError: `commit_failed`, the repository cannot be read.
    """
    links.settle(git, (env or {}).get("GIT_INDEX_FILE") or os.path.join(git.git_dir, "index"))
    told = git.must(
        *("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all"),
        *("--no-renames", "--ignore-submodules=dirty", "--no-ahead-behind"),
        doing="read the working tree",
        reason="commit_failed",
        env=env,
    )
    return Changes(os.fsdecode(told.out), told.err)


def stage(
    git: Own,
    work: str,
    changes: Changes,
    folder: str,
    *,
    env: dict[str, str] | None = None,
    aside: bool = False,
) -> list[str]:
    """Bring everything that is not ignored into the index, as far as it can be read.

    The files of a git repository that the agent left inside the tree are taken as plain files:
    git itself would record a link to a commit that nobody else has. A linked working tree
    (`.git` is a file) is left out, its commits are in this repository anyway; for a rescue, the
    files in it that are in no commit are taken.

    What git could not take is not told here: look again, and ask `leftover.find`.

    Args:
        git: our repository.
        work: its working tree.
        changes: what `look` found.
        folder: where a list of files may be put for a moment.
        env: more environment; with `GIT_INDEX_FILE` the agent may be at work, and a file that
            vanishes under way is passed over.
        aside: it is for a rescue.

    Returns:
        The repositories below the tree whose files were taken, relative to it.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    options = ["-A", "--ignore-errors"]
    done = _add(git, changes, folder, options, env)
    while done.code and held.fails(git, folder, changes, done.err):
        done = _add(git, changes, folder, options, env)
    if done.code and _FULL not in done.err:
        unreadable = leftover.unreadable(git, work, changes.open)
        if unreadable:
            done = _add(git, changes, folder, options, env, list(unreadable))
    if done.code not in (0, 1) or (done.code and _FULL in done.err):
        raise git.error(done, "stage the work", "commit_failed")
    nested: list[str] = []
    files = [n for path in changes.nested for n in _plain_files(git, path, nested, aside=aside)]
    if files:
        update(git, ["--add", "--remove"], files, folder, env)
    return nested


def _add(
    git: Git,
    changes: Changes,
    folder: str,
    options: list[str],
    env: dict[str, str] | None,
    besides: list[str] | None = None,
) -> Done:
    without = [f":(exclude,literal){path}" for path in [*changes.nested, *(besides or ())]]
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


def _plain_files(git: Own, nested: str, taken: list[str], *, aside: bool) -> list[str]:
    """Return the files of a nested repository that it does not ignore, relative to the tree.

    Each repository that was looked into is added to `taken`.
    """
    top = os.path.join(git.work, nested)
    is_own = os.path.isdir(os.path.join(top, ".git"))
    if not (is_own or aside):
        return []
    which = ["--cached"] if is_own else ["--modified"]
    try:
        inside = git.at(nested.rstrip("/"))
        if inside is None:
            return []
        listed = inside.must(
            *("ls-files", *which, "--others", "--exclude-standard", "-z"),
            doing="list a nested repository",
            reason="commit_failed",
        )
    except WorkerError:
        return []
    if is_own:
        taken.append(nested.rstrip("/"))
    found: list[str] = []
    for name in filter(None, os.fsdecode(listed.out).split("\0")):
        path = os.path.join(top, name)
        if not gitdirs.is_below(top, name):
            continue
        if name.endswith("/") or (os.path.isdir(path) and not os.path.islink(path)):
            found += _plain_files(git, nested + name.rstrip("/") + "/", taken, aside=aside)
        elif os.path.lexists(path):
            found.append(nested + name)
    return found
