"""Looks into git's index for what `git status` hides: paths that git was told not to look at.

The index is read here rather than by git, because it has to be asked for every worker and almost
never says anything (https://git-scm.com/docs/index-format).
"""

from __future__ import annotations

import os

from outpost_worker.repository.git import Git, write

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_ASSUMED = 0x80  # a flag of an entry: `assume-unchanged`
_LINK = 0xE0  # the upper byte of the mode of a link to a commit
_MODE = b"\0\0\xe0\0"  # the whole mode of such a link, in every format
_SLASH = 0x2F
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
    if seen is not None and not seen.hides:
        return
    env = {"GIT_INDEX_FILE": index}
    listed = git.must(
        *("ls-files", "-v", "-z"), doing="look for hidden changes", reason="commit_failed", env=env
    )
    elsewhere = links(git, index)
    assumed: list[str] = []
    skipped: list[str] = []
    for entry in os.fsdecode(listed.out).split("\0"):
        tag, name = entry[:1], entry[2:]
        if tag.islower() and name not in elsewhere:
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
    feed(git, [*options, "--stdin"], names, folder, env, doing="stage the work")


def feed(
    git: Git,
    options: Sequence[str],
    lines: Iterable[str],
    folder: str,
    env: Mapping[str, str] | None,
    *,
    doing: str,
) -> None:
    """Run `git update-index -z OPTIONS` on what the last of them reads, however much that is.

    Args:
        git: the repository.
        options: of `git update-index`, the last one `--stdin` or `--index-info`.
        lines: what it reads, one by one.
        folder: where they may be put for a moment.
        env: more environment.
        doing: what it is for, after "could not".

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    listing = os.path.join(folder, f"paths-{os.getpid()}")
    write(listing, "".join(f"{line}\0" for line in lines))
    try:
        git.must(
            *("update-index", "-z", *options),
            doing=doing,
            reason="commit_failed",
            stdin=listing,
            env=env,
        )
    finally:
        os.unlink(listing)


def leads_out(git: Git, index: str) -> bool:
    """Whether an index names a path that is not below its working tree.

    git itself never writes such a one, and would read what is there when it stages.

    Args:
        git: the repository.
        index: the index.
    """
    seen = _scan(index)
    if seen is not None:
        return seen.leads_out
    env = {"GIT_INDEX_FILE": index}
    return any(map(_is_outside, git.run("ls-files", "-z", env=env).out.split(b"\0")))


def _is_outside(name: bytes) -> bool:
    return name.startswith(b"/") or b".." in name.split(b"/")


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
        return seen.links
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


class _Seen:
    """What was read in an index.

    Attributes:
        hides: git was told not to look at some file.
        links: links to commits of other repositories, path to commit.
        leads_out: it names a path outside of the working tree.
    """

    __slots__ = ("hides", "leads_out", "links")

    def __init__(self) -> None:
        self.hides = False
        self.links: dict[str, str] = {}
        self.leads_out = False


def _scan(path: str) -> _Seen | None:
    """Return what an index says; None when git has to be asked.

    Only the plainest format is understood: version 2, in which nothing can be left out of the
    working tree, with SHA-1 and in one file.
    """
    seen = _Seen()
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return seen
    if data[:8] != b"DIRC\0\0\0\2":
        return None
    at, dots = 12, b"../" in data or b"/.." in data
    try:
        for _ in range(int.from_bytes(data[8:12], "big")):
            flags = data[at + 60]
            length = (flags & 0x0F) << 8 | data[at + 61]
            end = at + 62 + length
            if length == _LONGEST or data[end] or not length:
                return None
            if data[at + 26] == _LINK:
                seen.links[os.fsdecode(data[at + 62 : end])] = data[at + 40 : at + 60].hex()
            elif flags >= _ASSUMED:
                seen.hides = True
            if data[at + 62] == _SLASH or (dots and _is_outside(data[at + 62 : end])):
                seen.leads_out = True
            at += (62 + length + 8) & ~7
    except IndexError:
        return None
    after = data[at : at + 4]
    if at != len(data) - 20 and (not after.isalpha() or after == b"link"):
        return None  # that was another format, or most of it is in another file
    return seen
