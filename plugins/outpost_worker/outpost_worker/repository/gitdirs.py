"""Finds the git repositories that belong to a working tree besides its own."""

from __future__ import annotations

import os
import stat

from outpost_core.errors import WorkerError
from outpost_worker.folder.folders import Folder, StrangeError, open_folder, text
from outpost_worker.repository.repostate import Said

#: Files in a working tree that git reads, wherever they are.
_READ = (".gitattributes", ".gitignore", ".gitmodules")
#: Folders of a repository in which no other one can be.
_INSIDE = ("hooks", "info", "logs", "objects", "refs", "worktrees")


def of(top: str) -> str:
    """Return the repository of the working tree at `top`; "" when there is none."""
    path = os.path.join(top, ".git")
    if os.path.isdir(path):
        return path
    said = text(path).rstrip("\n")
    if not said.startswith("gitdir: "):
        return ""
    found = os.path.normpath(os.path.join(top, said[len("gitdir: ") :]))
    return found if os.path.isdir(found) else ""


def of_folder(top: Folder) -> str:
    """Return the repository of a working tree that is held open; "" when there is none."""
    about = top.stat(".git")
    if about is None:
        return ""
    path = os.path.join(top.path, ".git")
    if not stat.S_ISREG(about.st_mode):
        return path if os.path.isdir(path) else ""
    said = os.fsdecode(top.read(".git") or b"").rstrip("\n")
    if not said.startswith("gitdir: "):
        return ""
    found = os.path.normpath(os.path.join(top.path, said[len("gitdir: ") :]))
    return found if os.path.isdir(found) else ""


def is_below(top: str, name: str) -> bool:
    """Whether a path below a working tree leads through no link, and not out of it."""
    folder = os.path.dirname(os.path.join(os.path.realpath(top), name))
    inside = not name.startswith("/") and ".." not in name.split("/")
    return inside and os.path.realpath(folder) == os.path.normpath(folder)


def leads_back(tree: str, own: str) -> bool:
    """Whether a folder is the working tree that belongs to a folder below `worktrees`.

    Args:
        tree: the working tree, as the repository names it.
        own: its own folder in the repository.
    """
    if not tree or os.path.realpath(tree) != tree:
        return False
    try:
        return os.path.realpath(of_folder(open_folder(tree))) == os.path.realpath(own)
    except (FileNotFoundError, StrangeError):
        return False


def is_sha256(git_dir: str) -> bool:
    """Whether a repository seems to name its objects by SHA-256: its HEAD or a branch does."""
    try:
        said = Said(open_folder(git_dir))
    except (FileNotFoundError, WorkerError):
        return False
    return any(len(value) == 64 for value in (said.commit, *said.refs.values()))


def linked(git_dir: str) -> list[tuple[str, str]]:
    """Return the working trees that are linked to a repository.

    Returns:
        for each its own folder in the repository, and the working tree, "" when that is gone.
    """
    folder = os.path.join(git_dir, "worktrees")
    found = []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        own = os.path.join(folder, name)
        said = text(os.path.join(own, "gitdir")).rstrip("\n")
        work = os.path.normpath(os.path.join(own, os.path.dirname(said))) if said else ""
        found.append((own, work if work and os.path.isdir(work) else ""))
    return found


def below(work: str) -> tuple[list[str], list[str]]:
    """Look through a working tree for what is not simply files of it.

    Folders that cannot be read are passed over: `leftover` names them.

    Returns:
        The folders below it that are working trees of their own, ignored ones too; and pipes and
        the like that git would open as a file of its own, and wait for ever.
    """
    found: list[str] = []
    stops: list[str] = []
    folders = [work]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name == ".git":
                        if folder != work:
                            found.append(folder)
                    elif entry.name in _READ and not (entry.is_file() or entry.is_symlink()):
                        if not entry.is_dir():
                            stops.append(entry.path)
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except OSError:
            continue
    return sorted(found), stops


def modules(git_dir: str) -> list[str]:
    """Return the repositories of submodules that a repository holds, and theirs."""
    found: list[str] = []
    folders = [os.path.join(git_dir, "modules")]
    if os.path.islink(folders[0]):
        return []
    while folders:
        folder = folders.pop()
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        is_repository = "HEAD" in names and "objects" in names
        if is_repository:
            found.append(folder)
        for name in names:
            path = os.path.join(folder, name)
            inside = is_repository and name in _INSIDE
            if not inside and os.path.isdir(path) and not os.path.islink(path):
                folders.append(path)
    return sorted(found)
