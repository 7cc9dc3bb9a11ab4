"""Working on the queue without a mayor, until there is nothing left that can go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError
from outpost_manager.placing.ifup import comes_up
from outpost_manager.placing.room import LEARNS
from outpost_mayor.dispatch.dispatcher import Dispatcher
from outpost_mayor.retries.settler import Settler
from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    from outpost_core.types import Worker
    from outpost_manager.ledger import Entry
    from outpost_manager.manager import Manager

#: Seconds between two looks at what runs: after a change, and at most.
_LOOK_FIRST, _LOOK_MOST = 0.02, 1.0
#: So long nothing may run and nothing be placed, until what waits is said to be stuck.
_STUCK: Final = 1.0


async def drain(
    manager: Manager,
    *,
    wanted: Callable[[Entry], bool] = lambda _: True,
    place: bool = True,
    on_change: Callable[[Worker], None] | None = None,
) -> list[Entry]:
    """Place what waits and follow what runs, until nothing runs and nothing can be placed.

    What waits for an outpost that can be brought up is waited for; whoever calls this has it be.

    Args:
        manager: an open one.
        wanted: which entries are waited for.
        place: also place what waits; else only what runs is waited for.
        on_change: is told each worker whenever it changes.

    Returns:
        the entries that still wait.
    """
    dispatcher, settler, queue = Dispatcher(manager), Settler(manager), manager.ledger.queue
    looks, quiet = Backoff(_LOOK_FIRST, _LOOK_MOST), time.monotonic()
    learnt = quiet + LEARNS
    seen: dict[str, Worker] = {}
    while True:
        moved = await settler.step()
        moved += await dispatcher.step() if place else 0
        running = [one.worker for one in await queue.entries(states=("running",)) if wanted(one)]
        settling = [one for one in await queue.entries(states=("settling",)) if wanted(one)]
        workers = await manager.ledger.workers(ids=[*running, *seen])
        for worker in workers:
            if seen.get(worker.id) != worker:
                moved += 1
                seen[worker.id] = worker
                if on_change is not None:
                    on_change(worker)
        if moved:
            looks.reset()
            quiet = time.monotonic()
        stuck = time.monotonic() - quiet >= _STUCK
        if not running and (stuck or not settling):
            waiting = [one for one in await queue.entries(states=("waiting",)) if wanted(one)]
            if settling:
                return waiting  # the retries of a day are used up
            soon = await queue.next_moment(time.time()) if place else None
            if not waiting or not place:
                return waiting
            moments = (soon, dispatcher.next_moment, settler.next_moment)
            if stuck and all(moment is None for moment in moments):
                learns = time.monotonic() < learnt
                if not await _comes_up(manager, waiting, unknown=learns):
                    return waiting
        await asyncio.sleep(looks.pause())
        await manager.watch.refresh_of([w for w in workers if not w.state.terminal])


async def _comes_up(manager: Manager, waiting: Sequence[Entry], *, unknown: bool) -> bool:
    """Whether an outpost that is down will be brought up for any of the entries that wait."""
    kinds = {entry.kind: entry for entry in reversed(waiting) if not entry.held}
    orders = await manager.ledger.queue.orders([one.issue for one in kinds.values()])
    for entry in kinds.values():
        order = orders.get(entry.issue)
        try:
            if order is not None and await comes_up(
                manager.placement, manager.with_secrets(order), entry.place, unknown=unknown
            ):
                return True
        except OutpostError:  # it cannot be placed anywhere, which the queue says
            continue
    return False
