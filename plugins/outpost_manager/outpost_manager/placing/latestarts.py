"""Ending what was given up: a stop closed its row, and then its outpost started it after all.

The request was on its way, or waited at the outpost, while that said truly that it had no such
worker. The row stays as it ended, so nobody would look after the worker: it is stopped wherever it
shows up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError
from outpost_core.types import Event, State, Worker, WorkerStatus
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_manager.fleet.fleet import Fleet
    from outpost_manager.ledger import AsyncLedger

_log = Logger("placing")
#: Seconds until a worker that is still there is told to stop once more: the request may be lost.
AGAIN: Final = 5.0
#: Seconds between TERM and KILL, for a worker whose order is not known.
_GRACE: Final = 10.0


@dataclass(kw_only=True, eq=False)
class LateStarts:
    """Stops workers that were given up before they were started.

    Args:
        fleet: the outposts.
        ledger: the record; what it says has ended stays so.
        patience: seconds that an outpost may take to answer.
    """

    fleet: Fleet
    ledger: AsyncLedger
    patience: float
    #: worker → when it may be told again (monotonic)
    _told: dict[str, float] = field(default_factory=dict)

    async def stop(self, answers: Mapping[str, Sequence[WorkerStatus]]) -> None:
        """Stop those that show up at work; one that cannot be told now is told at a later look.

        Args:
            answers: what each outpost has just said of its workers.
        """
        closed = await self.ledger.never_begun()
        if not closed:
            return
        found = [
            status.id
            for name, statuses in answers.items()
            for status in statuses
            if not status.state.terminal
            and (digest := closed.get((name, status.id))) is not None
            and status.digest in ("", digest)
        ]
        rows = await self.ledger.workers(ids=found) if found else []
        await asyncio.gather(*(self._stop(worker) for worker in rows if _was_given_up(worker)))

    async def _stop(self, worker: Worker) -> None:
        now = time.monotonic()
        if now < self._told.get(worker.id, now):
            return
        first = worker.id not in self._told
        self._told[worker.id] = now + AGAIN
        order = await self.ledger.order(worker.id)
        try:
            await self.fleet.ask(
                worker.outpost,
                "outpost_stop",
                timeout=self.patience,
                worker=worker.id,
                grace=order.limits.grace if order is not None else _GRACE,
            )
        except OutpostError:  # it is at work still, so the next look finds it again
            del self._told[worker.id]
            return
        if first:
            _log.info("%s was given up, and %s started it: stopped", worker.id, worker.outpost)
            self.ledger.note_soon(
                Event(
                    kind="stop",
                    at=time.time(),
                    worker=worker.id,
                    outpost=worker.outpost,
                    data={"reason": "it was given up, and its outpost started it after all"},
                )
            )


def _was_given_up(worker: Worker) -> bool:
    result = worker.result
    return worker.state is State.STOPPED and result is not None and result.reason == "never_started"
