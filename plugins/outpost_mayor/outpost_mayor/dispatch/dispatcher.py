"""Placing what waits: as much as there is room for, best first.

The dispatcher holds no truth. Which entry is next is asked of the ledger each time, and an entry
that is placed is `running` in the transaction that reserves its slot: killed anywhere, or beside
another one, nothing is placed twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from outpost_core.errors import (
    ConflictError,
    LedgerError,
    OutpostError,
    UsageError,
)
from outpost_manager.ledger.turns import PAUSED, SWITCH
from outpost_manager.placing.pending import SESSION_AT, NotPlacedError, Turn, WithdrawnError
from outpost_shared import faults
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_manager.ledger import Entry
    from outpost_manager.ledger.entries import Decided
    from outpost_manager.manager import Manager

_log = Logger("dispatch")
#: Entries for the same outpost, or for any, with their orders.
_Group: TypeAlias = "Sequence[tuple[Entry, Order]]"
#: Most that are placed at once, so that what comes meanwhile is seen.
BUNCH: Final = 32
#: Kinds of orders that find no room are tried again after so many seconds, whatever happens.
AGAIN: Final = 5.0
#: Seconds between two steps, at least, however much happens.
GAP: Final = 0.05
#: Seconds that a bunch is waited for before the next one is chosen: one outpost that takes long to
#: start a worker keeps no slot of another one empty. How many are on their way to one outpost at
#: once is bounded where they are placed.
PATIENCE: Final = 0.1
#: Events after which there may be room, or something to place.
_NEWS: Final = frozenset(
    {
        *("queued", "dequeued", "state", "renewed", "released", "moved", "reachable", "decided"),
        *("breaker", "unparked", "resumed", "scaled_up"),
    }
)


class Dispatcher:
    """Places what waits.

    Args:
        manager: an open one.
        clock: says what time it is, in seconds since the epoch.
    """

    def __init__(self, manager: Manager, clock: Callable[[], float] = time.time) -> None:
        self._manager = manager
        self._clock = clock
        self._full: dict[str, str] = {}  # kind → why it finds no room
        self._until: dict[str, float] = {}  # kind → when it may, where that is known
        self._crowded = ""  # why nothing of any kind finds room, where that is so
        #: what was written down of why, and up to which entry
        self._said: tuple[object, int] = (None, 0)
        self._hand: dict[asyncio.Task[int], set[str]] = {}  # being placed → their workers

    @property
    def next_moment(self) -> float | None:
        """When something that found no room may find some, since money or a pause is over."""
        return min(self._until.values(), default=None)

    @property
    def unforeseen(self) -> bool:
        """Whether something found no room, and nobody knows when it may."""
        return any(kind not in self._until for kind in self._full)

    async def step(self, *, wait: bool = True) -> int:
        """Place as much as there is room for; return how many were placed.

        Args:
            wait: until each is placed; else what takes long goes on beside, and is seen to in
                the next step.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        queue = self._manager.ledger.queue
        self._full.clear()
        self._until.clear()
        self._crowded = ""
        placed = 0
        while True:
            placed += self._reap()
            if await queue.switch(SWITCH) in PAUSED:
                return placed
            room = await self._manager.overview.room()
            if room == 0 and self._crowded:  # one was tried, and every slot is taken still
                await self._explain()
                return placed
            # no more than find a slot; where none is free, one shows whether that is so still
            most = BUNCH if room is None else max(1, min(BUNCH, room))
            entries = await self._next(most)
            if not entries:
                await self._explain()
                return placed
            faults.point("dispatch.chosen")
            groups = await self._grouped(entries)
            if not wait:
                await self._begin(groups)
            for group in groups if wait else ():
                placed += await self._place(group)
            faults.point("dispatch.placed")

    async def run(self) -> None:
        """Place what waits, for ever: when something happens, and when a moment has come."""
        news = asyncio.Event()
        listening = asyncio.create_task(
            self._listen(news, await self._manager.ledger.last_event()), name="dispatch listens"
        )
        try:
            while True:
                news.clear()
                try:
                    await self.step(wait=False)
                except LedgerError as error:
                    _log.warning("the queue waits: %s", error)
                await asyncio.sleep(GAP)
                calling = asyncio.ensure_future(news.wait())
                pause = await self._pause()
                await asyncio.wait(
                    {calling, listening}, timeout=pause, return_when=asyncio.FIRST_COMPLETED
                )
                calling.cancel()
                if listening.done():
                    listening.result()  # it never ends but by failing
        finally:
            tasks = [listening, *self._hand]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, news: asyncio.Event, after: int) -> None:
        async for event in self._manager.events(after):
            if event.kind in _NEWS:
                news.set()

    async def _next(self, most: int) -> Sequence[Entry]:
        """Return the entries that are to be placed next, without those that are on their way."""
        mine = {worker for workers in self._hand.values() for worker in workers}
        entries = await self._manager.ledger.queue.next(
            self._manager.config.queue.rules(), self._clock(), most + len(mine), skip=[*self._full]
        )
        return [entry for entry in entries if entry.worker not in mine][:most]

    async def _begin(self, groups: Sequence[_Group]) -> None:
        """Place groups of entries, and wait for that until it takes long."""
        mine = [asyncio.create_task(self._place(group), name="dispatch") for group in groups]
        for task, group in zip(mine, groups, strict=True):
            self._hand[task] = {entry.worker for entry, _ in group}
        if mine:
            await asyncio.wait(mine, timeout=PATIENCE)

    def _reap(self) -> int:
        """Let go of what has been placed; return how many of it were.

        Raises:
            LedgerError: the ledger could not be used.
        """
        placed = 0
        for task in [task for task in self._hand if task.done()]:
            del self._hand[task]
            placed += task.result()
        return placed

    async def _pause(self) -> float:
        """Return the seconds until there is something to do without news."""
        now = self._clock()
        moments = [await self._manager.ledger.queue.next_moment(now), self.next_moment]
        # what waits for a moment needs no look before it
        pause = AGAIN if self.unforeseen or self._hand else 60.0
        return min([pause, *(max(0.0, one - now) for one in moments if one is not None)])

    async def _grouped(self, entries: Sequence[Entry]) -> list[_Group]:
        """Return entries with their orders, those for the same outpost together."""
        ready: dict[str | None, list[tuple[Entry, Order]]] = {}
        orders = await self._manager.ledger.queue.orders([entry.issue for entry in entries])
        for entry in entries:
            try:
                order = self._equipped(entry, orders.get(entry.issue))
                ready.setdefault(entry.place, []).append((entry, order))
            except OutpostError as error:
                await self._waits(entry, error)
        return [*ready.values()]

    async def _place(self, group: _Group) -> int:
        """Place entries for the same outpost; return how many were placed."""
        placed = 0
        try:
            answers = await self._manager.spawn_many(
                [order for _, order in group],
                on=group[0][0].place,
                turns={entry.worker: await self._turn(entry) for entry, _ in group},
            )
        except LedgerError:
            raise
        except OutpostError as error:  # there is no such outpost
            answers = [error] * len(group)
        for (entry, _), answer in zip(group, answers, strict=True):
            if isinstance(answer, WithdrawnError):
                # others were faster: it was taken out, paused or moved, or its limit is reached
                _log.info("%s is not placed: %s", entry.issue, answer.message)
            elif isinstance(answer, OutpostError):
                await self._waits(entry, answer)
            else:
                placed += 1
        return placed

    async def _turn(self, entry: Entry) -> Turn:
        """Return what there is to say of an entry: of a further attempt also its decision's words.

        One that ran into a usage limit waits for its own account, unless others may be used.
        """
        account = rule = ""
        for one in await self._decisions(entry) if entry.tries else ():
            if not self._manager.config.retries.other_accounts:
                account = one.text("account")
            if one.text("session") and entry.place and one.text("asked") != entry.place:
                rule = SESSION_AT + entry.place
        return Turn(entry=entry.digest, avoid=entry.avoid, account=account, rule=rule)

    async def _decisions(self, entry: Entry) -> list[Decided]:
        """Return the decisions that made the attempt which an entry waits for."""
        found = await self._manager.ledger.queue.decisions(entry.issue, entry.added_at)
        return [one for one in found if one.text("next") == entry.worker]

    def _equipped(self, entry: Entry, order: Order | None) -> Order:
        """Return the order of an entry with its secrets."""
        if order is None or order.worker != entry.worker:
            raise UsageError("what is kept of its order cannot be read", hint="queue it again")
        return self._manager.with_secrets(order)

    async def _waits(self, entry: Entry, error: OutpostError) -> None:
        """Have an entry wait, and those that are placed alike; say why."""
        why = short(error)
        _log.info("%s waits: %s", entry.issue, why)
        if isinstance(error, ConflictError):  # nothing that happens by itself changes that
            await self._manager.ledger.queue.hold([entry.issue])
        if isinstance(error, NotPlacedError):
            if error.until is not None:
                self._until[entry.kind] = error.until
                why += f", until {_clock(error.until)}"
            elif error.crowded and entry.place is None and not entry.avoid:
                self._crowded = why
        self._full[entry.kind] = why

    async def _explain(self) -> None:
        """Write down why what waits does, so that `queue list` can say it."""
        queue = self._manager.ledger.queue
        if not self._full:
            return
        said, newest = ({**self._full}, self._crowded), await queue.newest()
        before, told = self._said
        if (said, newest) != (before, told):
            behind = told if said == before else 0
            await queue.explain(self._full, self._crowded, self._clock(), behind)
            self._said = said, newest


def _clock(moment: float) -> str:
    """Return a moment of today as `14:05:09`, another one with its day."""
    at = time.localtime(moment)
    return time.strftime("%H:%M:%S" if at[:3] == time.localtime()[:3] else "%Y-%m-%d %H:%M", at)


def short(error: OutpostError) -> str:
    """Return why something waits in one line: of several outposts the first two reasons."""
    lines = [line.strip() for line in error.message.splitlines() if line.strip()]
    if len(lines) < 2:
        return error.message
    more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
    return "; ".join(lines[1:3]) + more
