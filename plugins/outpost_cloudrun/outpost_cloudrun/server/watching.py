"""Looks at the folders of the workers that somebody follows, all in one turn of one thread.

A look costs three `stat` as long as nothing has changed. Each worker is read again after a while
all the same, since a supervisor that was killed changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from outpost_cloudrun.server.instance import Instance
from outpost_core.errors import NotFoundError, OutpostError
from outpost_core.types import WorkerStatus
from outpost_shared.backoff import Backoff
from outpost_worker.folder import files

#: Seconds between two looks: when something has just changed, and when nothing does.
_SOON: Final = 0.02
_LATE: Final = 0.25
#: Seconds after which a worker is read whatever its files look like.
_AGAIN: Final = 3.0

_Looks: TypeAlias = "tuple[tuple[int, int] | None, ...]"


class Watched:
    """One worker that somebody follows.

    Args:
        worker: its id.

    Attributes:
        status: the last that was seen; None when it is not there any more.
        size: bytes of its log.
        changes: counts up with each change.
    """

    def __init__(self, worker: str, status: WorkerStatus) -> None:
        self.worker = worker
        self.status: WorkerStatus | None = status
        self.size = 0
        self.changes = 0
        self.followers = 0
        self._looks: _Looks = ()
        self._read_at = 0.0
        self._changed = asyncio.Event()

    async def change(self, seen: int, within: float) -> None:
        """Wait until something has changed since `changes` was `seen`, or that many seconds."""
        if self.changes == seen:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._changed.wait()

    def look(self, instance: Instance) -> tuple[WorkerStatus | None, int] | None:
        """Return status and size of the log; None while nothing has changed. In a thread.

        Raises:
            OSError: nobody can say now.
            OutpostError: likewise.
        """
        folder = instance.root / files.WORKERS / self.worker
        looks = tuple(_look(folder / name) for name in (files.LOG, files.STATE, files.RESULT))
        now = time.monotonic()
        if looks == self._looks and now < self._read_at + _AGAIN:
            return None
        try:
            status = instance.status_of(self.worker)
        except NotFoundError:
            return None, 0
        self._looks, self._read_at = looks, now
        return status, looks[0][1] if looks[0] else 0

    def take(self, status: WorkerStatus | None, size: int) -> bool:
        """Take note of what was seen; whether it is something new."""
        if (status, size) == (self.status, self.size):
            return False
        self.status, self.size = status, size
        self.poke()
        return True

    def poke(self) -> None:
        """Have whoever waits look again."""
        self.changes += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _look(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_mtime_ns ^ found.st_ino, found.st_size


class Watching:
    """Looks at whatever is followed.

    Args:
        instance: whose workers.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._watched: dict[str, Watched] = {}
        self._task: asyncio.Task[None] | None = None
        self._pause = Backoff(_SOON, _LATE, growth=1.5)

    @property
    def count(self) -> int:
        """How many workers are followed."""
        return len(self._watched)

    @contextlib.contextmanager
    def follow(self, worker: str, status: WorkerStatus) -> Iterator[Watched]:
        """Have a worker looked at as long as this lasts.

        Args:
            worker: its id.
            status: what is known of it.
        """
        watched = self._watched.get(worker)
        if watched is None:
            watched = self._watched[worker] = Watched(worker, status)
        watched.followers += 1
        self._pause.reset()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        try:
            yield watched
        finally:
            watched.followers -= 1
            if not watched.followers and self._watched.get(worker) is watched:
                del self._watched[worker]

    async def _look(self) -> None:
        while self._watched:
            seen = await asyncio.to_thread(self._look_at, [*self._watched.values()])
            news = [watched.take(*found) for watched, found in seen]
            if any(news):
                self._pause.reset()
            await self._pause.wait()

    def _look_at(
        self, all_watched: list[Watched]
    ) -> list[tuple[Watched, tuple[WorkerStatus | None, int]]]:
        found = []
        for watched in all_watched:
            with contextlib.suppress(OSError, OutpostError):  # it is looked at again
                if (seen := watched.look(self._instance)) is not None:
                    found.append((watched, seen))
        return found
