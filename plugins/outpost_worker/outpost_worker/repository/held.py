"""Changed files that must not get into a commit of ours, and what becomes of them.

Two kinds: what only the checkout made different (`dirt.py`), and files whose attributes name a
filter that cannot be run here. The second would go out as they stand in the tree, in plain text
where the filter encrypts; they are kept in an archive on this machine and pushed nowhere.
"""

from __future__ import annotations

import os

from outpost_shared import faults
from outpost_worker.repository import attributes, dirt, notes
from outpost_worker.repository.git import Git, write
from outpost_worker.repository.index import feed

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from outpost_worker.repository.changeset import Changes

#: In the worker's folder: which archive has the files whose filter is missing.
NOTE = "unfiltered.json"
_ENDING = ".unfiltered.tar"
MEND = (
    "install and configure the filter on the outpost (git config --global filter.NAME.clean …),"
    " then take the files from the archive"
)


def hold(git: Git, folder: str, changes: Changes, *, checkout: bool = True) -> None:
    """Take out of the changes what must not be committed: into `changes.dirt` and `.unfiltered`.

    Args:
        git: the worker's repository.
        folder: the worker's folder.
        changes: what `look` found; changed in place.
        checkout: it is the tree that was checked out for the worker, no other one inside it.

    Raises:
        WorkerError: `commit_failed`, the attributes cannot be read.
    """
    if checkout:
        changes.take_out(dirt.unchanged(folder, changes.entries), unfiltered=False)
    names = attributes.filters(attributes.texts(git, [*changes.entries, *changes.new]))
    changes.filters = names
    changes.lacking = attributes.lacking(git, names)
    changes.take_out(
        under(git, folder, changes.lacking, [*changes.entries, *changes.new]), unfiltered=True
    )


def under(git: Git, folder: str, names: Iterable[str], paths: Iterable[str]) -> set[str]:
    """Return those of the paths whose attributes name one of the filters."""
    names, paths = set(names), list(paths)
    if not names or not paths:
        return set()
    listing = os.path.join(folder, f"paths-{os.getpid()}")
    write(listing, "".join(f"{path}\0" for path in paths))
    try:
        told = git.must(
            *("check-attr", "-z", "--stdin", "filter"),
            doing="read the attributes",
            reason="commit_failed",
            stdin=listing,
        )
    finally:
        os.unlink(listing)
    fields = os.fsdecode(told.out).split("\0")
    return {path for path, value in zip(fields[::3], fields[2::3], strict=False) if value in names}


def fails(git: Git, folder: str, changes: Changes, said: str) -> bool:
    """Take out the files of a filter that failed when it was run; False when none did.

    Args:
        git: the worker's repository.
        folder: the worker's folder.
        changes: changed in place.
        said: the errors of git.
    """
    parts = said.split("clean filter '")[1:]
    failed = {part.partition("' failed")[0] for part in parts if "' failed" in part}
    failed -= changes.lacking
    if not failed:
        return False
    changes.lacking |= failed
    paths = under(git, folder, failed, [*changes.entries, *changes.new])
    changes.take_out(paths, unfiltered=True)
    return bool(paths)


def required(changes: Changes) -> list[str]:
    """Return options of git with which a filter that fails is an error, not a file as it stands."""
    return [
        word
        for name in sorted(changes.filters - changes.lacking)
        for word in ("-c", f"filter.{name}.required=true")
    ]


def shut_out(
    git: Git, folder: str, changes: Changes, env: Mapping[str, str] | None = None
) -> list[str]:
    """Let the index show what is held as it is in HEAD; returns options of `git add` besides.

    Args:
        git: the worker's repository.
        folder: the worker's folder.
        changes: what `hold` left.
        env: with `GIT_INDEX_FILE`, for an index of our own.

    Raises:
        WorkerError: `commit_failed`.
    """
    staged, known = [], []
    for path in changes.held:
        entry = changes.known.get(path)
        if entry is None:
            continue  # git does not know it yet
        kind, mode, value = entry
        there = set(value) != {"0"}
        if kind != ".":
            staged.append(f"{mode} {value}\t{path}" if there else f"0 {value}\t{path}")
        if there:
            known.append(path)
    for argv, lines in (("--index-info",), staged), (("--assume-unchanged", "--stdin"), known):
        if lines:
            feed(git, argv, lines, folder, env, doing="leave files out")
    return [
        f":(exclude,literal){path}"
        for path in changes.held
        if path not in changes.known or set(changes.known[path][2]) == {"0"}
    ]


# --- what becomes of files without their filter ---------------------------------------------------


def keep(folder: str, paths: Iterable[str]) -> str:
    """Put files into the archive of this worker, and read it back; returns its path.

    Args:
        folder: the worker's folder.
        paths: of files in the working tree; one that is gone or no file is passed over.

    Raises:
        WorkerError: `commit_failed` or `disk_full`, not all of them are kept.
    """
    from outpost_worker.repository import archive

    content = _content(folder, paths)
    path = notes.archive(folder, NOTE, _ENDING)
    if not path or not archive.holds(path, content):
        path = archive.keep(folder, NOTE, _ENDING, content, sorted(content))
    faults.point("worker.unfiltered_kept")
    return path


def is_kept(folder: str, paths: Iterable[str]) -> bool:
    """Whether the archive holds all of these files as they are."""
    content = _content(folder, paths)
    if not content:
        return True
    from outpost_worker.repository import archive

    path = notes.archive(folder, NOTE, _ENDING)
    return bool(path) and archive.holds(path, content)


def _content(folder: str, paths: Iterable[str]) -> dict[str, str]:
    whole = {name: os.path.join(folder, "work", name) for name in paths}
    return {n: path for n, path in whole.items() if os.path.islink(path) or os.path.isfile(path)}


def said(paths: Iterable[str], filters: Iterable[str]) -> str:
    """Return a sentence that names files whose filter is missing."""
    paths = sorted(paths)
    some = ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
    names = ", ".join(sorted(filters))
    return f"{some}: the filter {names} is missing here, so it was not committed"


def leaks(
    git: Git, folder: str, workspace: Mapping[str, object], lacking: Iterable[str], commit: str
) -> list[str]:
    """Return files of commits that the rig does not have, committed without their filter.

    Args:
        git: the worker's repository.
        folder: the worker's folder.
        workspace: what `workspace.prepare` returned.
        lacking: filters that cannot be run here.
        commit: the newest of the commits.

    Raises:
        WorkerError: `commit_failed`.
    """
    if not lacking or not commit:
        return []
    base = [str(workspace["base_commit"])] if workspace["base_commit"] else []
    listed = git.must(
        *("log", "--format=", "--name-only", "-z", "--no-renames", "--diff-filter=AMT", "-c"),
        *(commit, "--not", "--remotes=origin", *base, "--"),
        doing="look through the commits",
        reason="commit_failed",
    )
    names = {name.lstrip("\n") for name in os.fsdecode(listed.out).split("\0") if name}
    return sorted(under(git, folder, lacking, names))
