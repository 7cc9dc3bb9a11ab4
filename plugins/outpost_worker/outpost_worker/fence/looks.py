"""What was found on this machine still holds while the folders are as they were when it was found.

Whether a name exists, and what it leads to, changes only with the folder that the name is in, and
the time of a folder's last change cannot be set back. So what many looks at paths have found can be
kept together with the folders on the way: looking at those again costs a tenth.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Folders that change all the time. What is directly in them is known by itself.
_RESTLESS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - they are what is meant
#: Seconds for which a folder must have been unchanged to be known by the time of its last change:
#: clocks of file systems are coarse.
_SETTLED = 0.05
#: Seconds that anything is kept at most: not every file system keeps times as it should.
_LONGEST = 10.0


class Looks:
    """The folders that were looked at, and how they were.

    Attributes:
        at: moment (monotonic) at which that was written down.
    """

    def __init__(self) -> None:
        self._folders: set[str] = set()
        self._things: set[str] = set()
        self._seen: dict[str, object] = {}
        self.at = 0.0

    def note(self, path: str) -> None:
        """Count a path, which is there or not, and all folders that lead to it, as looked at."""
        while len(path) > 1:
            above = os.path.dirname(path.rstrip("/"))
            if above in _RESTLESS:
                self._things.add(path)
            elif above in self._folders or not above:
                return
            else:
                self._folders.add(above)
            path = above

    def keep(self) -> bool:
        """Write down how all of it is now; returns whether later changes will be seen."""
        self.at = time.monotonic()
        self._seen = dict(self._look())
        latest = max((one[2] for one in self._seen.values() if isinstance(one, tuple)), default=0)
        return latest < (time.time() - _SETTLED) * 1e9

    def hold(self) -> bool:
        """Whether all of it is as it was when it was kept."""
        if time.monotonic() > self.at + _LONGEST:
            return False
        seen = self._seen
        return all(seen[path] == found for path, found in self._look())

    def _look(self) -> Iterator[tuple[str, tuple[int, int, int] | None]]:
        for path in self._folders:
            try:
                about = os.stat(path)
            except OSError:
                yield path, None
            else:
                yield path, (about.st_dev, about.st_ino, about.st_ctime_ns)
        for path in self._things - self._folders:
            try:
                about = os.lstat(path)
            except OSError:
                yield path, None
            else:
                yield path, (about.st_dev, about.st_ino, 0)


_noting: Looks | None = None


def note(path: str) -> None:
    """Count a path as looked at, where somebody wants to know."""
    if _noting is not None:
        _noting.note(path)


def start() -> Looks:
    """Begin to count what is looked at."""
    global _noting  # noqa: PLW0603 - one process has one thread here
    _noting = Looks()
    return _noting


def stop() -> None:
    """End that."""
    global _noting  # noqa: PLW0603 - as above
    _noting = None
