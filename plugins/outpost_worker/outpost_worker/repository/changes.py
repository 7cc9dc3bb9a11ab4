"""What differs between a working tree and its last commit, and how it gets into an index."""

from __future__ import annotations

import os

from outpost_core.errors import WorkerError
from outpost_worker.repository import gitdirs, held, leftover, links
from outpost_worker.repository.changeset import Changes
from outpost_worker.repository.git import Done, Git, write
from outpost_worker.repository.index import update

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from outpost_worker.repository.owngit import Own

_FULL = "No space left on device"
#: What git ends with when a file vanishes between two of its looks; and how often it is tried then.
_VANISHED, _TRIES = "fatal: unable to stat", 3


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
    for _ in range(_TRIES):
        done = _add(git, changes, folder, options, env)
        if _VANISHED not in done.err:
            break
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
