"""Waiting for the queue of a server, on which its mayor works."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from outpost_core.errors import NotFoundError, UnreachableError
from outpost_manager.ledger.entries import ENDED
from outpost_mayor.waiting import Listed, queue_of
from outpost_shared.backoff import Backoff, reaching_again

if TYPE_CHECKING:
    from outpost_core.types import Worker
    from outpost_manager.ledger import Entry
    from outpost_manager.remote.manager import RemoteManager

#: Seconds between two looks: after a change, and at most.
_LOOK_FIRST, _LOOK_MOST = 0.1, 2.0
#: So long nothing may run and nothing change, until what could go counts as stuck, and until what
#: the mayor has yet to decide of does.
_STUCK: Final = 10.0
_SETTLED: Final = 2.0
#: Entries that are asked for one by one; more are looked for in the list of all that have ended.
_FEW: Final = 100
#: Phases of outposts that come up, or go down to come up again.
_TO_COME: Final = ("starting", "draining", "stopping")


async def until_done(
    manager: RemoteManager,
    *,
    placed: bool = True,
    on_change: Callable[[Worker], None],
) -> tuple[list[Entry], list[Entry]]:
    """Wait until nothing of the queue runs, and nothing is left of it that can go.

    A server that cannot be reached for a while is waited for.

    Args:
        manager: of the server.
        placed: the mayor places what waits; else only what runs is waited for.
        on_change: is told each worker whenever it changes.

    Returns:
        the entries that have ended meanwhile, and those that still wait.
    """
    watch = _Watch(manager, on_change)
    known = {one.issue for one in (await watch.queue.listed(("waiting",), "", -1)).entries}
    looks, away = Backoff(_LOOK_FIRST, _LOOK_MOST), reaching_again()
    quiet = time.monotonic()
    while True:
        try:
            changed, live = await watch.look()
            away.reset()
        except UnreachableError:
            await away.wait()
            quiet = time.monotonic()
            continue
        known |= {one.issue for one in live.entries}
        if changed:
            looks.reset()
            quiet = time.monotonic()
        still = time.monotonic() - quiet
        if not any(one.state == "running" for one in live.entries) and (
            still >= _SETTLED or not live.entries
        ):
            waiting = [*(await watch.queue.listed(("waiting",), "", -1)).entries]
            if not placed or await _over(manager, live, waiting, still):
                gone = known - {one.issue for one in (*waiting, *live.entries)}
                return await _ended(manager, gone), waiting
        await looks.wait()


class _Watch:
    """What is seen of the queue.

    Args:
        manager: of the server.
        on_change: is told each worker whenever it changes.
    """

    def __init__(self, manager: RemoteManager, on_change: Callable[[Worker], None]) -> None:
        self.queue = queue_of(manager)
        self._manager = manager
        self._on_change = on_change
        self._seen: dict[str, Worker] = {}
        self._before: object = None

    async def look(self) -> tuple[bool, Listed]:
        """Return whether anything has changed, and what runs or is decided of."""
        live = await self.queue.listed(("running", "settling"), "", -1)
        ours = {one.worker for one in live.entries if one.state == "running"}
        active = [one for one in await self._manager.workers(refresh=False) if one.id in ours]
        open_ = [name for name, one in self._seen.items() if not one.state.terminal]
        left = {*open_} - {one.id for one in active}
        for worker in (*active, *(await self._manager.those(sorted(left)))):
            if self._seen.get(worker.id) != worker:
                self._seen[worker.id] = worker
                self._on_change(worker)
        now = (
            live.counts,
            live.switch,
            [(one.issue, one.worker, one.state) for one in live.entries],
        )
        changed, self._before = now != self._before, now
        return changed, live


async def _over(
    manager: RemoteManager, live: Listed, waiting: Sequence[Entry], still: float
) -> bool:
    """Whether nothing of what waits will go by itself."""
    if not waiting:
        return True
    can_go = [one for one in waiting if not one.held and not one.waits_for]
    if live.switch or not can_go:
        return still >= _SETTLED
    if still < _STUCK or all(one.not_before > time.time() for one in can_go):
        return False
    return not any(view.state in _TO_COME for view in await manager.outposts())


async def _ended(manager: RemoteManager, gone: set[str]) -> list[Entry]:
    """Return the entries of issues that have ended."""
    if len(gone) > _FEW:
        found = (await queue_of(manager).listed((ENDED,), "", -1)).entries
        return [one for one in found if one.issue in gone]
    entries = []
    for issue in sorted(gone):
        try:
            entry, _ = await manager.entry(issue)
        except NotFoundError:
            continue
        if entry.state == ENDED:
            entries.append(entry)
    return entries
