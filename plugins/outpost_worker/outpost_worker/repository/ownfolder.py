"""Where our repositories are, and what in them has to be ours."""

from __future__ import annotations

import os

from outpost_worker.folder import files, folders
from outpost_worker.folder.folders import Folder, StrangeError, open_folder
from outpost_worker.repository.git import read, write

#: In the worker's folder.
NAME = "git"
_OTHERS = "others"
#: What would have git read something else, or run something, and is never there.
_NEVER = ("commondir", "config.worktree", "info/attributes", "info/grafts")
_SHA256 = "[extensions]\n\tobjectformat = sha256\n"
#: As `git lfs install` writes it: the one filter that any rig may use without more ado.
LFS = """[filter "lfs"]
\tclean = git-lfs clean -- %f
\tsmudge = git-lfs smudge -- %f
\tprocess = git-lfs filter-process
\trequired = true
"""


def place(folder: str, theirs: str) -> str:
    """Return where our repository for one of the agent's is.

    Args:
        folder: the worker's folder.
        theirs: the agent's repository.
    """
    inside = os.path.relpath(theirs, folder)
    if inside == os.path.join(files.WORK, ".git"):
        return os.path.join(folder, NAME)
    try:  # hashlib would load all of OpenSSL for its other algorithms
        from _blake2 import blake2b
    except ImportError:
        from hashlib import blake2b
    key = blake2b(os.fsencode(inside), digest_size=12).hexdigest()
    return os.path.join(folder, NAME, _OTHERS, key)


def config(*, sha256: bool, more: str = "") -> str:
    """Return the configuration of a repository of ours.

    Args:
        sha256: it names objects so.
        more: further lines.
    """
    core = "[core]\n\trepositoryformatversion = {}\n\tbare = false\n\tlogallrefupdates = false\n"
    return core.format(int(sha256)) + _SHA256 * sha256 + LFS + more


def hash_length(git_dir: str) -> int:
    """Return how many hexadecimal digits the name of an object has in a repository of ours."""
    return 64 if _SHA256 in read(os.path.join(git_dir, "config")) else 40


def borrowed(git_dir: str) -> str:
    """Return the folder `objects` that a repository of ours borrows from."""
    return read(os.path.join(git_dir, "objects/info/alternates")).rstrip("\n")


def make(git_dir: str, borrows: str, settings: str) -> None:
    """Make a repository of ours, or put right what has to be ours in one that is there.

    That is done each time: an agent that no fence keeps in could have changed it.

    Args:
        git_dir: where it is.
        borrows: the folder `objects` that it borrows from.
        settings: its whole configuration.

    Raises:
        StrangeError: it is no real folder of this user.
        OSError: it could not be written.
    """
    os.makedirs(git_dir, 0o700, exist_ok=True)
    there = open_folder(git_dir)
    for name in ("objects", "objects/info", "objects/pack", "refs", "refs/heads", "info"):
        if there.walk(name) is None:
            os.mkdir(os.path.join(git_dir, name), 0o700)
    for name in _NEVER:
        above, _, last = name.rpartition("/")
        inside = there.walk(above) if above else there
        if inside is not None and inside.stat(last) is not None:
            os.unlink(last, dir_fd=inside.fd)
    if _said(there, "config") != settings:
        write(os.path.join(git_dir, "config"), settings)
    lent = there.walk("objects/info")
    if lent is not None and _said(lent, "alternates") != f"{borrows}\n":
        # A path in this file may be quoted as in C; one without special bytes stands as it is.
        write(os.path.join(git_dir, "objects/info/alternates"), f"{borrows}\n")
    if there.stat("HEAD") is None:
        write(os.path.join(git_dir, "HEAD"), "ref: refs/heads/none\n")


def _said(folder: Folder, name: str) -> str:
    try:
        return os.fsdecode(folder.read(name) or b"")
    except StrangeError:
        return ""


def put(path: str, text: str) -> None:
    """Write a file of ours, with the folders above it; without a text there is none.

    Raises:
        OSError: it could not be written.
    """
    if text:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        write(path, text)
    else:
        folders.remove([path])


def remove_linked(git_dir: str, name: str) -> None:
    """Remove our folder of a linked working tree that is no more."""
    import shutil

    shutil.rmtree(os.path.join(git_dir, "worktrees", name), ignore_errors=True)
