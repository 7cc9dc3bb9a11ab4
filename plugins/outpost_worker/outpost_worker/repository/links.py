"""Links to commits of submodules in an index, kept up to date by us.

git itself would look into each submodule for that, and run a git of its own there which reads the
agent's configuration. So links are told to git as unchanged, once they say what our repository of
the submodule says.
"""

from __future__ import annotations

import os
import stat

from outpost_core.errors import WorkerError
from outpost_worker.folder.folders import StrangeError
from outpost_worker.repository.index import feed, links, update

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from outpost_worker.repository.owngit import Own


def settle(git: Own, index: str) -> None:
    """Let the links of an index say at which commits the submodules are.

    Args:
        git: the repository.
        index: the index, which is ours.

    Raises:
        WorkerError: `commit_failed` or `disk_full`.
    """
    found = links(git, index)
    if not found:
        return
    env = {"GIT_INDEX_FILE": index}
    gone = [path for path in found if not _is_folder(git, path)]
    if gone:
        gone = _not_left_out(git, gone, env)
        update(git, ["--force-remove"], gone, git.folder, env)
    stay = [path for path in found if path not in gone]
    moved = {path: tip for path in stay if (tip := _tip(git, path)) not in ("", found[path])}
    if moved:
        lines = [f"160000 {tip}\t{path}" for path, tip in moved.items()]
        feed(git, ["--index-info"], lines, git.folder, env, doing="stage submodules")
    if stay:
        update(git, ["--assume-unchanged"], stay, git.folder, env)


def _is_folder(git: Own, path: str) -> bool:
    above, _, name = path.rpartition("/")
    assert git.top is not None
    try:
        folder = git.top.walk(above) if above else git.top
    except StrangeError:
        return False  # behind a link, git has nothing
    about = folder.stat(name) if folder else None
    return about is not None and stat.S_ISDIR(about.st_mode)


def _not_left_out(git: Own, paths: list[str], env: dict[str, str]) -> list[str]:
    """Return those that no sparse checkout left out of the working tree."""
    told = git.must(
        *("ls-files", "-v", "-z"), doing="look for submodules", reason="commit_failed", env=env
    )
    skipped = {entry[2:] for entry in os.fsdecode(told.out).split("\0") if entry[:1] in "Ss"}
    return [path for path in paths if path not in skipped]


def _tip(git: Own, path: str) -> str:
    """Return the commit that a submodule is at; "" where it has none, or cannot be read."""
    try:
        sub = git.at(path)
    except WorkerError as error:
        if error.reason == "disk_full":
            raise
        return ""
    return sub.tip() if sub else ""
