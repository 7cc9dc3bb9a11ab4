"""The service `follow`: asks outposts for their workers, so that the ledger says what is so.

Each outpost has a task and a pace of its own. One with live workers is asked quickly after
something happened there, and ever more slowly while nothing does. One that can tell of changes (the
capability `changes`) is asked when it does, and seldom besides. Asking never takes more than a
small part of the time, however long one answer takes to make.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError
from outpost_shared.backoff import Backoff, reaching_again
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_manager.manager import Manager

_log = Logger("follow")

#: Seconds until an outpost with live workers is asked again: after something happened, at most,
#: and at most where it tells of changes itself.
FIRST: Final = 0.25
MOST: Final = 5.0
TOLD: Final = 60.0
#: Seconds until one without live workers is asked again: others may have ordered some there.
QUIET: Final = 60.0
#: Seconds between two looks at one that tells of changes all the time.
NEXT: Final = 0.05
#: How much longer than an answer takes its outpost is left alone: asking takes a hundredth of the
#: time at most while nothing happens, a fifth when much does.
SPARE_QUIET: Final = 100.0
SPARE_BUSY: Final = 4.0
#: Seconds between two looks at which outposts there are.
_LOOK: Final = 2.0


class Follower:
    """Keeps the ledger current.

    Args:
        manager: an open one.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._outposts: dict[str, _Followed] = {}

    async def run(self) -> None:
        """Follow all outposts; never ends."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            tasks: dict[str, asyncio.Task[None]] = {}
            while True:
                live = await self._manager.ledger.active()
                usable = {*self._manager.watch.usable()}
                for name in usable.difference(tasks):
                    self._outposts[name] = one = _Followed(self._manager, name)
                    tasks[name] = group.create_task(one.run(), name=f"follow {name}")
                for name in [name for name in tasks if name not in usable]:
                    tasks.pop(name).cancel()
                    del self._outposts[name]
                for name, one in self._outposts.items():
                    one.has(live.get(name, 0))
                await asyncio.sleep(_LOOK)

    async def _listen(self) -> None:
        """Ask an outpost soon where something happened."""
        async for event in self._manager.events():
            one = self._outposts.get(event.outpost)
            if one is not None and event.worker:
                one.happened()


class _Followed:
    """One outpost.

    Args:
        manager: an open one.
        name: of the outpost.

    """

    def __init__(self, manager: Manager, name: str) -> None:
        self._manager = manager
        self._name = name
        self._busy = asyncio.Event()
        self._pace = Backoff(FIRST, MOST, growth=1.5)
        self._soon = asyncio.Event()
        self._now = asyncio.Event()
        self._told = False  # whether it tells of changes just now

    def has(self, live: int) -> None:
        """Say how many of its workers have not ended."""
        if live:
            self._busy.set()
        else:
            self._busy.clear()

    def happened(self) -> None:
        """Ask it soon: something happened to a worker there."""
        self._busy.set()
        self._soon.set()

    async def run(self) -> None:
        """Ask it again and again; never ends."""
        hearing = asyncio.create_task(self._hear())
        try:
            while True:
                begun = time.monotonic()
                trouble = await self._look()
                took = time.monotonic() - begun
                await self._wait(took, unreachable=trouble)
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    async def _look(self) -> bool:
        """Ask it, and take over what it says; return whether it did not answer."""
        self._now.clear()
        try:
            errors = await self._manager.watch.refresh([self._name])
        except OutpostError as error:  # a full disk, say; it is asked again
            _log.warning("%s cannot be followed just now: %s", self._name, error.message)
            return True
        return self._name in errors

    async def _wait(self, took: float, *, unreachable: bool) -> None:
        """Wait until it is to be asked again."""
        if self._soon.is_set():
            self._soon.clear()
            self._pace.reset()
        if not self._busy.is_set():
            longest = QUIET
        elif self._told and not unreachable:
            longest = TOLD
        else:
            longest = max(self._pace.pause(), min(took * SPARE_QUIET, MOST * 6))
        end = time.monotonic() + longest
        soonest = time.monotonic() + max(NEXT, took * SPARE_BUSY)
        while (left := end - time.monotonic()) > 0:
            soon, now = (asyncio.ensure_future(e.wait()) for e in (self._soon, self._now))
            done, _ = await asyncio.wait(
                {soon, now}, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            soon.cancel()
            now.cancel()
            if now in done:
                await asyncio.sleep(max(0.0, soonest - time.monotonic()))
                return
            if soon in done:
                self._soon.clear()
                self._pace.reset()
                end = min(end, max(time.monotonic() + self._pace.pause(), soonest))

    async def _hear(self) -> None:
        """Listen to it, where it can tell of changes; never ends."""
        again = reaching_again()
        while True:
            await self._busy.wait()
            try:
                if not self._manager.fleet.supports(self._name, "changes"):
                    return
                stream = self._manager.fleet.stream(self._name, "outpost_changes", timeout=None)
                async with aclosing(stream) as changes:
                    async for _ in changes:
                        self._told = True
                        again.reset()
                        self._now.set()
            except OutpostError as error:
                _log.info("%s does not tell of changes: %s", self._name, error.message)
            finally:
                self._told = False
            await again.wait()
