"""Ending entries of the queue whose worker has ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from outpost_core.types import State
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_manager.manager import Manager

_log = Logger("retries")
#: Seconds between two looks.
LOOK: Final = 0.05


class Settler:
    """Decides what comes after an attempt of the queue has ended.

    Args:
        manager: an open one.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    async def step(self) -> int:
        """Decide of all entries that settle; return of how many."""
        ledger, decided = self._manager.ledger, 0
        for entry in await ledger.queue.settling():
            worker = await ledger.worker(entry.worker)
            state = State.LOST if worker is None else worker.state
            decided += await ledger.queue.end(entry, state.value)
        return decided

    async def run(self) -> None:
        """Do that for ever."""
        while True:
            await self.step()
            await asyncio.sleep(LOOK)
