"""The service `notify`: writes down what is to be told, and tells it until it was heard."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from outpost_core.errors import LedgerError
from outpost_manager.ledger.notices import STALE, notice_id
from outpost_mayor.notify.sending import NotToldError, send
from outpost_mayor.notify.telling import about, body, wants
from outpost_shared import faults
from outpost_shared.backoff import Backoff
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_core.types import Event, Worker
    from outpost_manager.config.notify import NotifyConfig
    from outpost_manager.ledger.notices import Made, Notice
    from outpost_manager.manager import Manager

_log = Logger("notify")
#: Events that are read at once.
_PAGE: Final = 500
#: Seconds between two looks at the log: after something happened, and at most.
_FIRST: Final = 0.1
_MOST: Final = 2.0


class Notifier:
    """Tells the targets of the configuration.

    Args:
        manager: an open one.
        environ: where references to secrets lead; None for the environment of this program.
    """

    def __init__(self, manager: Manager, environ: Mapping[str, str] | None = None) -> None:
        self._manager = manager
        self._environ = os.environ if environ is None else environ
        self._told: dict[str, float] = {}  # delivered here, where that could not be written down
        self._telling: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Tell for ever."""
        pauses = Backoff(_FIRST, _MOST)
        try:
            while True:
                try:
                    if await self.step():
                        pauses.reset()
                except LedgerError as error:
                    _log.warning("nothing can be told just now: %s", error.message)
                await pauses.wait()
        finally:
            for task in self._telling.values():
                task.cancel()
            await asyncio.gather(*self._telling.values(), return_exceptions=True)

    async def step(self) -> int:
        """Read on in the log, and begin to tell what is due; return how much of either there was.

        Each target is told beside the others, so that one that is slow keeps none of them waiting.

        Raises:
            LedgerError: the ledger cannot be read or written, by this or by who told somebody.
        """
        targets = self._targets()
        begun = await self._read([*targets.values()])
        for name, task in [*self._telling.items()]:
            if task.done():
                del self._telling[name]
                if not task.cancelled():
                    task.result()
            elif name not in targets:
                task.cancel()
        free = [name for name in targets if name not in self._telling]
        due = await self._due(free) if free else []
        for name in dict.fromkeys(notice.target for notice in due):
            self._telling[name] = asyncio.create_task(self._tell(name))
            begun += 1
        return begun

    async def quiet(self) -> None:
        """Wait until nobody is being told anything."""
        while any(not task.done() for task in self._telling.values()):
            await asyncio.wait(self._telling.values())

    def _targets(self) -> dict[str, NotifyConfig]:
        return {target.name: target for target in self._manager.config.notify}

    async def _read(self, targets: list[NotifyConfig]) -> int:
        notices = self._manager.ledger.notices
        told = await notices.begin()
        if not targets:  # who is configured later is told what happens from then on
            newest = await self._manager.ledger.last_event()
            if newest > told:
                await notices.write(told, newest, [])
            return 0
        events = await self._manager.ledger.events_after(told, _PAGE)
        if not events:
            return 0
        made: list[Made] = []
        oldest = time.time() - STALE
        for event in events:
            if event.at >= oldest:
                made += await self._made(targets, event)
        await notices.write(told, events[-1].id, made)
        return len(events)

    async def _made(self, targets: list[NotifyConfig], event: Event) -> list[Made]:
        if about(event, queued=False) is None:
            return []
        worker: Worker | None = None
        queued = False
        if event.worker:
            worker = await self._manager.ledger.worker(event.worker)
            entry = worker and await self._manager.ledger.queue.entry(worker.issue)
            queued = bool(entry and entry.worker == event.worker)
        what = about(event, queued=queued)
        if what is None:
            return []
        return [
            (target.name, event.id, body(notice_id(target.name, event.id), what, event, worker))
            for target in targets
            if wants(target, what, event, worker)
        ]

    async def _due(self, names: list[str]) -> list[Notice]:
        return await self._manager.ledger.notices.due(time.time(), names)

    async def _tell(self, name: str) -> None:
        """Tell one target what is due, one after the other; what fails holds up what follows."""
        while due := await self._due([name]):
            for notice in due:
                target = self._targets().get(name)  # as the configuration is by now
                if target is None or not await self._told_now(target, notice):
                    return

    async def _told_now(self, target: NotifyConfig, notice: Notice) -> bool:
        if notice.id not in self._told:
            try:
                await send(target, notice.body, self._environ)
            except NotToldError as error:
                _log.warning("%s is not told: %s", target.name, error.message)
                await self._manager.ledger.notices.failed(notice, error.message, final=error.final)
                return False
            self._told[notice.id] = time.monotonic()
            faults.point("mayor.told")
        await self._manager.ledger.notices.delivered(notice.id)
        self._told.pop(notice.id, None)
        return True
