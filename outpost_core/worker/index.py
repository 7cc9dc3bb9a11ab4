"""Looks into git's index for what `git status` hides: paths that git was told not to look at.

The index is read here rather than by git, because it has to be asked for every worker and almost
never says anything (https://git-scm.com/docs/index-format).
"""

from __future__ import annotations

import os

from outpost_core.worker.git import Git, write

_ASSUMED = 0x80  # a flag of an entry: `assume-unchanged`
_LINK = 0xE0  # the upper byte of the mode of a link to a commit
_MODE = b"\0\0\xe0\0"  # the whole mode of such a link, in every format
_LONGEST = 0xFFF  # the length of a name that is longer than that


def uncover(git: Git, work: str, index: str, folder: str) -> None:
    """Let git look again at the paths that it was told not to look at.

    `assume-unchanged` goes from every path. `skip-worktree` goes from those that are there: a
    sparse checkout leaves files out, so an absent one was not deleted.

    Args:
        git: the repository.
        work: its working tree.
        index: the index to change; its owner must not be at work.
        folder: where a list of paths may be put for a moment.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    seen = _scan(index)
    if seen is not None and not seen[0]:
        return
    env = {"GIT_INDEX_FILE": index}
    listed = git.must(
        *("ls-files", "-v", "-z"), doing="look for hidden changes", reason="commit_failed", env=env
    )
    assumed: list[str] = []
    skipped: list[str] = []
    for entry in os.fsdecode(listed.out).split("\0"):
        tag, name = entry[:1], entry[2:]
        if tag.islower():
            assumed.append(name)
        if tag in ("S", "s") and os.path.lexists(os.path.join(work, name)):
            skipped.append(name)
    for option, names in (("assume-unchanged", assumed), ("skip-worktree", skipped)):
        if names:
            update(git, [f"--no-{option}"], names, folder, env)


def update(
    git: Git, options: list[str], names: list[str], folder: str, env: dict[str, str] | None
) -> None:
    """Run `git update-index OPTIONS` on paths, however many and whatever they are called.

    Args:
        git: the repository.
        options: of `git update-index`.
        names: paths, relative to the working tree.
        folder: where their list may be put for a moment.
        env: more environment.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    listing = os.path.join(folder, f"paths-{os.getpid()}")
    write(listing, "".join(f"{name}\0" for name in names))
    try:
        git.must(
            *("update-index", *options, "-z", "--stdin"),
            doing="stage the work",
            reason="commit_failed",
            stdin=listing,
            env=env,
        )
    finally:
        os.unlink(listing)


def links(git: Git, index: str) -> dict[str, str]:
    """Return the links to commits of other repositories in an index, path to commit.

    Args:
        git: the repository.
        index: the index.

    Raises:
        WorkerError: `commit_failed`.
    """
    try:
        with open(index, "rb") as file:
            data = file.read()
    except OSError:
        return {}
    if _MODE not in data and b"link" not in data:
        return {}  # it holds none, and no other file holds a part of it
    seen = _scan(index)
    if seen is not None:
        return seen[1]
    listed = git.must(
        *("ls-files", "--stage", "-z"),
        doing="look for submodules",
        reason="commit_failed",
        env={"GIT_INDEX_FILE": index},
    )
    found: dict[str, str] = {}
    for entry in os.fsdecode(listed.out).split("\0"):
        about, _, name = entry.partition("\t")
        if about.startswith("160000 "):
            found[name] = about.split(" ")[1]
    return found


def links_of(git: Git, commit: str) -> dict[str, str]:
    """Return the links to commits of other repositories in a commit, path to commit.

    Args:
        git: the repository.
        commit: the commit.

    Raises:
        WorkerError: `commit_failed`.
    """
    listed = git.must(
        *("ls-tree", "-r", "-z", commit), doing="look for submodules", reason="commit_failed"
    )
    found = {}
    for entry in os.fsdecode(listed.out).split("\0"):
        about, _, name = entry.partition("\t")
        if about.startswith("160000 "):
            found[name] = about.split(" ")[2]
    return found


def _scan(path: str) -> tuple[bool, dict[str, str]] | None:
    """Return whether an index hides changes, and its links; None when git has to be asked.

    Only the plainest format is understood: version 2, in which nothing can be left out of the
    working tree, with SHA-1 and in one file.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return False, {}
    if data[:8] != b"DIRC\0\0\0\2":
        return None
    hides, found, at = False, {}, 12
    try:
        for _ in range(int.from_bytes(data[8:12], "big")):
            flags = data[at + 60]
            length = (flags & 0x0F) << 8 | data[at + 61]
            end = at + 62 + length
            if length == _LONGEST or data[end] or not length:
                return None
            hides = hides or flags >= _ASSUMED
            if data[at + 26] == _LINK:
                found[os.fsdecode(data[at + 62 : end])] = data[at + 40 : at + 60].hex()
            at += (62 + length + 8) & ~7
    except IndexError:
        return None
    after = data[at : at + 4]
    if at != len(data) - 20 and (not after.isalpha() or after == b"link"):
        return None  # that was another format, or most of it is in another file
    return hides, found
