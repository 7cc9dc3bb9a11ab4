"""Hosted repositories: copies of another machine's, which workers here start from and push to.

`git push` runs `git receive-pack` there, and a fetch `git upload-pack`, each with the settings and
the hooks that lie in the copy. Its settings are ours alone, so before a copy is used they are
compared and written anew, and whatever else would run something or lead elsewhere is taken out.
"""

from __future__ import annotations

import os

from outpost_worker.folder import guarded
from outpost_worker.repository import store

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable

HOSTED = "hosted"
#: What the copy is known to be equal to, and whose its refs are; a line before those.
KNOWN = "outpost-known"
_FOLDERS = ("objects", "objects/info", "objects/pack", "refs", "refs/heads", "refs/tags")
#: What of a bare repository is read as a file and never runs anything.
_FILES = ("HEAD", "config", "packed-refs", store.SHALLOW, KNOWN)
_KEPT = frozenset((*_FILES, "objects", "refs", "hooks", "lfs", "logs"))
_HEAD = "ref: refs/heads/main\n"


def config(*, sha256: bool) -> str:
    """Return the configuration of a hosted repository."""
    lines = [
        "[core]",
        f"\trepositoryformatversion = {int(sha256)}",
        "\tbare = true",
        *(["[extensions]", "\tobjectformat = sha256"] if sha256 else []),
        "[gc]",
        "\tauto = 0",
        "[receive]",
        "\tautogc = false",
        # an order may begin at a commit that no branch holds
        "[uploadpack]",
        "\tallowAnySHA1InWant = true",
    ]
    return "\n".join(lines) + "\n"


def is_sha256(path: str) -> bool:
    """Whether a hosted repository has hashes of SHA-256, by what it was last made equal to."""
    said = guarded.text(os.path.join(path, KNOWN), store.MOST).partition("\n")[2]
    if not said:
        return guarded.text(os.path.join(path, "config")) == config(sha256=True)
    return len(said.partition(" ")[0]) == 64


def is_there(path: str) -> bool:
    """Whether a hosted repository was made, and is a folder of ours."""
    return guarded.is_folder(path) and os.path.lexists(os.path.join(path, "HEAD"))


def restore(path: str, report: Callable[[str], None]) -> None:
    """Let a hosted repository that there is have our settings alone.

    Args:
        path: the repository.
        report: told of what was put aside.

    Raises:
        OSError: it cannot be written.
    """
    if not os.path.lexists(path):
        return
    folders = [path, *(f"{path}/{name}" for name in _FOLDERS)]
    if any(os.path.lexists(folder) and not store.is_good(folder) for folder in folders):
        guarded.put_aside(path, "was changed by others", report)
        return
    if not os.path.lexists(f"{path}/HEAD"):
        return  # it is being made
    for name in os.listdir(path):
        where = f"{path}/{name}"
        odd = os.path.islink(where) or (name in _FILES and not os.path.isfile(where))
        # git's own lock files and those that take a file's place are beside it
        if odd or (name not in _KEPT and not name.startswith(tuple(f"{n}." for n in _FILES))):
            store.remove(where)
    for folder in ("hooks", "objects/info"):
        for name in os.listdir(f"{path}/{folder}") if os.path.isdir(f"{path}/{folder}") else ():
            store.remove(f"{path}/{folder}/{name}")
    _take_links_out(f"{path}/refs")
    ours = config(sha256=is_sha256(path))
    if guarded.text(f"{path}/config") != ours:
        store.put(f"{path}/config", ours)
    if not os.path.lexists(f"{path}/HEAD"):
        store.put(f"{path}/HEAD", _HEAD)


def restore_if_hosted(root: str, rig: str, report: Callable[[str], None]) -> None:
    """Do that where a rig is a hosted repository of this machine.

    Args:
        root: the state root.
        rig: URL or path.
        report: told of what was put aside.

    Raises:
        OSError: it cannot be written.
    """
    above, name = os.path.split(rig.rstrip("/"))
    if above == os.path.join(os.path.abspath(root), HOSTED) and name.endswith(".git"):
        restore(rig.rstrip("/"), report)


def _take_links_out(refs: str) -> None:
    """Remove refs that are links or wait for somebody: git would read what they lead to."""
    for folder, names, files in os.walk(refs):
        for name in (*names, *files):
            where = os.path.join(folder, name)
            if os.path.islink(where) or not (os.path.isfile(where) or os.path.isdir(where)):
                store.remove(where)
