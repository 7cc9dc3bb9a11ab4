"""Finds the git repositories that belong to a working tree besides its own."""

from __future__ import annotations

import os

from outpost_core.worker.git import read

#: Folders of a repository in which no other one can be.
_INSIDE = ("hooks", "info", "logs", "objects", "refs", "worktrees")


def of(top: str) -> str:
    """Return the repository of the working tree at `top`; "" when there is none."""
    path = os.path.join(top, ".git")
    if os.path.isdir(path):
        return path
    said = read(path).rstrip("\n")
    if not said.startswith("gitdir: "):
        return ""
    found = os.path.normpath(os.path.join(top, said[len("gitdir: ") :]))
    return found if os.path.isdir(found) else ""


def linked(git_dir: str) -> list[tuple[str, str]]:
    """Return the working trees that are linked to a repository.

    Returns:
        for each its own folder in the repository, and the working tree, "" when that is gone.
    """
    folder = os.path.join(git_dir, "worktrees")
    found = []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        own = os.path.join(folder, name)
        said = read(os.path.join(own, "gitdir")).rstrip("\n")
        work = os.path.normpath(os.path.join(own, os.path.dirname(said))) if said else ""
        found.append((own, work if work and os.path.isdir(work) else ""))
    return found


def below(work: str) -> list[str]:
    """Return the folders below `work` that are working trees of their own, ignored ones too.

    Folders that cannot be read are passed over: `leftover` names them.
    """
    found: list[str] = []
    folders = [work]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name == ".git":
                        if folder != work:
                            found.append(folder)
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except OSError:
            continue
    return sorted(found)


def modules(git_dir: str) -> list[str]:
    """Return the repositories of submodules that a repository holds, and theirs."""
    found: list[str] = []
    folders = [os.path.join(git_dir, "modules")]
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


def others(work: str) -> bool:
    """Whether there is any repository or working tree besides the one at `work`."""
    git_dir = os.path.join(work, ".git")
    return bool(linked(git_dir) or modules(git_dir) or below(work))
