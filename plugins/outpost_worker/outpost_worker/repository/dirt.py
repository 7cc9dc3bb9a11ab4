"""What a checkout itself leaves changed: line ends against the attributes, blobs past a filter.

Such a file differs from its blob although nobody touched it. It is remembered right after the
checkout with a hash of its content, and stays out of checkpoints and delivery as long as that is
its content.
"""

from __future__ import annotations

import os

from outpost_worker.repository.git import Git, read, write

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Iterable

#: In the worker's folder: `<hash> <path>`, each ended by a zero byte.
FILE = "checkout-dirt"
_CHUNK = 1 << 20


def remember(git: Git, folder: str) -> list[str]:
    """Compare every file with its blob, and write down those that differ; returns their paths.

    Args:
        git: the worker's repository, just checked out.
        folder: the worker's folder.

    Raises:
        WorkerError: `workspace_failed`, the tree cannot be read.
        OSError: it cannot be written down.
    """
    index = os.path.join(git.git_dir, "index")
    before = os.stat(index)
    # git reads a file again that is as young as its index or younger: now that is every file
    os.utime(index, (1, 1))
    try:
        told = git.must(
            *("status", "--porcelain=v2", "-z", "--untracked-files=no", "--no-renames"),
            "--ignore-submodules=all",
            doing="compare the checkout",
            reason="workspace_failed",
        )
    finally:
        os.utime(index, ns=(before.st_atime_ns, before.st_mtime_ns))
    paths = [
        record.split(" ", 8)[8]
        for record in os.fsdecode(told.out).split("\0")
        if record.startswith("1 ") and record[3] != "."
    ]
    if paths:
        work = os.path.join(folder, "work")
        lines = (f"{hash_of(os.path.join(work, path))} {path}\0" for path in paths)
        write(os.path.join(folder, FILE), "".join(lines))
    return paths


def unchanged(folder: str, changed: Iterable[str]) -> set[str]:
    """Return those of the changed paths that are as the checkout left them.

    Args:
        folder: the worker's folder.
        changed: paths that differ from the last commit.
    """
    told = read(os.path.join(folder, FILE))
    if not told:
        return set()
    known = {path: value for value, _, path in (r.partition(" ") for r in told.split("\0"))}
    work = os.path.join(folder, "work")
    return {
        path for path in changed if known.get(path, "") == hash_of(os.path.join(work, path)) != ""
    }


def hash_of(path: str) -> str:
    """Return a hash of a file's mode and content; `-` where there is none, "" when unreadable."""
    from hashlib import sha256

    try:
        if os.path.islink(path):
            return "l" + sha256(os.fsencode(os.readlink(path))).hexdigest()
        if not os.path.isfile(path):
            return "d" if os.path.lexists(path) else "-"
        digest = sha256()
        with open(path, "rb") as file:
            executable = os.fstat(file.fileno()).st_mode & 0o100
            while data := file.read(_CHUNK):
                digest.update(data)
    except OSError:
        return ""
    return ("x" if executable else "f") + digest.hexdigest()
