"""Which submodules a commit or a working tree has, and whose their repositories are."""

from __future__ import annotations

import os

from outpost_worker.repository.git import Git

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    #: path of a submodule to its name and URL
    Named = dict[str, tuple[str, str]]

REASON = "submodule_unpushed"


def named_in(git: Git, commit: str) -> Named:
    """Return the submodules that a commit's `.gitmodules` names: path to name and URL."""
    return names_of(git, "--blob", f"{commit}:.gitmodules")


def names_of(git: Git, *where: str) -> Named:
    """Return the submodules that a file of settings names: path to name and URL.

    Args:
        git: reads it.
        where: as `git config` is told where it is.
    """
    told = git.run("config", *where, "-z", "--get-regexp", r"^submodule\..*\.(path|url)$")
    fields: dict[str, dict[str, str]] = {}
    for entry in os.fsdecode(told.out).split("\0"):
        key, _, value = entry.partition("\n")
        name, _, field = key[len("submodule.") :].rpartition(".")
        if name:
            fields.setdefault(name, {})[field.lower()] = value
    return {
        about["path"].rstrip("/"): (name, about.get("url", ""))
        for name, about in fields.items()
        if "path" in about and ".." not in name.split("/")
    }


def is_ours(folder: str, git_dir: str) -> bool:
    """Whether a repository belongs to the worker: an agent's `.git` may point at any other."""
    return os.path.realpath(git_dir).startswith(os.path.realpath(folder) + "/")
