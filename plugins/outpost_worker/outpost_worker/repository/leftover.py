"""What is in a working tree and did not get into git: found by looking again, not by exit codes."""

from __future__ import annotations

import os
import stat

from outpost_core.errors import WorkerError
from outpost_worker.repository import gitdirs

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from outpost_worker.repository.changeset import Changes
    from outpost_worker.repository.git import Git

#: Paths that a message names before it only counts.
_NAMED = 5


class NotAdded:
    """What is not in the index although it is in the working tree.

    Attributes:
        files: files and links that can be read, relative to the working tree.
        unreadable: files and folders that cannot be, each with the reason.
    """

    __slots__ = ("files", "unreadable")

    def __init__(self) -> None:
        self.files: list[str] = []
        self.unreadable: dict[str, str] = {}

    def anchor(self, work: str) -> None:
        """Make the paths absolute: `work` is the working tree that they belong to."""
        self.files = [os.path.join(work, path) for path in self.files]
        self.unreadable = {os.path.join(work, p): why for p, why in self.unreadable.items()}

    def error(self, work: str) -> WorkerError:
        """Return the error that names what cannot be read, and what to do about it."""
        some = named([f"{path} ({why})" for path, why in self.unreadable.items()])
        return WorkerError(
            f"could not read {some} in {work}",
            reason="commit_failed",
            hint=f"make it readable, as with: chmod -R u+rwX {work}",
        )


def named(paths: list[str]) -> str:
    """Return the first of some paths as text, and how many more there are."""
    some = ", ".join(paths[:_NAMED])
    return some if len(paths) <= _NAMED else f"{some} and {len(paths) - _NAMED} more"


def find(git: Git, work: str, after: Changes) -> NotAdded:
    """Return what a look after the staging still shows as not staged.

    Sockets, pipes and devices are no work, and what vanished meanwhile is none any more.

    Args:
        git: the repository.
        work: its working tree.
        after: what `changes.look` found once everything was staged.

    Raises:
        WorkerError: `commit_failed`, git cannot tell what is ignored.
    """
    left = NotAdded()
    if not after.open and not after.blind:
        return left
    # behind a link is another folder, whatever an index says
    open_ = [path for path in after.open if gitdirs.is_below(work, path)]
    left.unreadable = unreadable(git, work, open_, whole=after.blind)
    for path in open_:
        if path not in left.unreadable and _is_content(os.path.join(work, path)):
            left.files.append(path)
    return left


def unreadable(git: Git, work: str, paths: list[str], *, whole: bool = True) -> dict[str, str]:
    """Return which files and folders cannot be read, each with the reason.

    Args:
        git: the repository.
        work: its working tree.
        paths: files of it to be tried, relative to it.
        whole: look also for folders that cannot be read; ignored ones do not count.

    Raises:
        WorkerError: `commit_failed`, git cannot tell what is ignored.
    """
    found = _closed_folders(git, work) if whole else {}
    for path in paths:
        if not any(path.startswith(folder) for folder in found):
            why = _why_not(os.path.join(work, path))
            if why:
                found[path] = why
    return found


def _why_not(path: str) -> str:
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode):
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
    except (FileNotFoundError, NotADirectoryError):
        return ""  # it was removed, and that is staged
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _is_content(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def _closed_folders(git: Git, work: str) -> dict[str, str]:
    found: dict[str, str] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(work, folder)) as entries:
                folders += [
                    f"{folder}{entry.name}/"
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False) and entry.name != ".git"
                ]
            # without the right to search a folder, its names can be read and nothing else
            os.lstat(os.path.join(work, folder, "."))
        except FileNotFoundError:
            continue
        except OSError as error:
            found[folder] = error.strerror or str(error)
    if not found:
        return found
    asked = git.run("check-ignore", "-z", "--", *found)
    ignored = os.fsdecode(asked.out).split("\0")
    return {path: why for path, why in found.items() if path not in ignored}
