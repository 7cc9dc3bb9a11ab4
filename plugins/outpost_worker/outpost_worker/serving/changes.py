"""Hearing that a worker of a folder has changed, at no cost while none does.

The kernel tells (inotify(7)): of each worker's folder, in which a state or result is renamed into
its place, and of the folder of all workers, where new ones appear. Where it cannot (no Linux, no
watches left), the folders' times are looked at, which any rename changes.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import aclosing, suppress
from pathlib import Path

from outpost_shared.backoff import every
from outpost_worker.folder import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_STATE, _RESULT = files.STATE.encode(), files.RESULT.encode()
_IN_MOVED_TO, _IN_CREATE, _IN_DELETE_SELF, _IN_ONLYDIR = 0x80, 0x100, 0x400, 0x01000000
_IN_Q_OVERFLOW, _IN_IGNORED = 0x4000, 0x8000
_HEAD = 16  # bytes of an event before its name: descriptor, mask, cookie, length
#: Seconds after which states that moved on are told, many at once: an agent at work has its usage
#: written down there again and again.
SOON = 1.0
#: Seconds between two looks where the kernel does not tell.
LOOK = 0.5
_BUFFER = 64 * 1024


async def changes(root: Path) -> AsyncGenerator[None]:
    """Yield once it is watched, and whenever a worker may have changed; never ends.

    Args:
        root: the state folder; it need not be there yet.
    """
    workers = root / files.WORKERS
    looks = every(LOOK)
    while not workers.is_dir():
        yield  # there is nobody yet to tell of
        await looks.wait()
    try:
        watch = _Watch(workers)
    except OSError:
        async for _ in _looking(workers):
            yield
        return
    try:
        watch.all()
        yield
        async with aclosing(_heard(watch)) as heard:
            async for _ in heard:
                yield
    finally:
        watch.close()


async def _heard(watch: _Watch) -> AsyncGenerator[None]:
    """Yield at an end at once, and at states that only move on once for many."""
    due: float | None = None
    while True:
        urgent = due is not None
        try:
            left = None if due is None else max(0.0, due - time.monotonic())
            async with asyncio.timeout(left):
                moved, urgent = await watch.hear()
        except TimeoutError:
            moved = True
        if urgent:
            due = None
            yield
        elif moved and due is None:
            due = time.monotonic() + SOON


class _Watch:
    """Watches the folders of workers.

    Raises:
        OSError: the kernel cannot.
    """

    def __init__(self, workers: Path) -> None:
        from outpost_worker.fence.calls import call

        self._call = call
        self._workers = workers
        self._of: dict[int, Path] = {}
        self._fd = call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._add(workers)
        except OSError:
            self.close()
            raise

    def all(self) -> None:
        """Watch each worker that is there."""
        for entry in os.scandir(self._workers):
            with suppress(FileNotFoundError, NotADirectoryError):
                self._add(Path(entry.path))

    def close(self) -> None:
        """Watch no more."""
        os.close(self._fd)

    def _add(self, folder: Path) -> None:
        mask = _IN_MOVED_TO | _IN_CREATE | _IN_DELETE_SELF | _IN_ONLYDIR
        number = self._call("inotify_add_watch", self._fd, os.fsencode(folder), mask)
        self._of[number] = folder

    async def hear(self) -> tuple[bool, bool]:
        """Wait for the kernel; say whether one moved on, and whether one is new or has ended."""
        loop = asyncio.get_running_loop()
        heard = loop.create_future()

        def tell() -> None:
            if not heard.done():
                heard.set_result(None)

        loop.add_reader(self._fd, tell)
        try:
            await heard
        finally:
            loop.remove_reader(self._fd)
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return False, False
        return self._took(data)

    def _took(self, data: bytes) -> tuple[bool, bool]:
        moved, urgent, at = False, False, 0
        while at + _HEAD <= len(data):
            number = int.from_bytes(data[at : at + 4], "little", signed=True)
            mask = int.from_bytes(data[at + 4 : at + 8], "little")
            length = int.from_bytes(data[at + 12 : at + 16], "little")
            name = data[at + _HEAD : at + _HEAD + length].rstrip(b"\0")
            at += _HEAD + length
            if mask & _IN_Q_OVERFLOW:
                self.all()
                urgent = True
            elif mask & _IN_IGNORED:
                self._of.pop(number, None)
            elif self._of.get(number) == self._workers:
                with suppress(OSError):  # one that went at once, or no watch is left: see `all`
                    self._add(self._workers / os.fsdecode(name))
                urgent = True  # what was written there before it was watched
            elif name == _RESULT or mask & _IN_DELETE_SELF:
                urgent = True
            elif name == _STATE:
                moved = True
        return moved, urgent


async def _looking(workers: Path) -> AsyncGenerator[None]:
    """Do the same by looking at the time of the last change of each folder."""
    before: object = None
    looks = every(LOOK)
    while True:
        found = await asyncio.to_thread(_times, workers)
        if found != before:
            before = found
            yield
        await looks.wait()


def _times(workers: Path) -> dict[str, int]:
    found = {}
    for entry in os.scandir(workers):
        with suppress(OSError):
            found[entry.name] = entry.stat(follow_symlinks=False).st_mtime_ns
    return found
