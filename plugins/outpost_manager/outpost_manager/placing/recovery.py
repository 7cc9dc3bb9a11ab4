"""Finishing what others began: the spawns of processes that died, and stops that came too early.

At once, patiently, and never twice at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from outpost_core.errors import OutpostError
from outpost_core.types import Event, Secrets, Worker, WorkerStatus
from outpost_manager.config.accounts import secret_names
from outpost_manager.placing.latestarts import LateStarts
from outpost_manager.placing.pending import ASKED_FOR, SESSION_AT, PendingOrder, Turn
from outpost_shared.backoff import Retries
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_manager.ledger import AsyncLedger
    from outpost_manager.placing.placement import Placement

_log = Logger("placing")
#: Seconds until a spawn that could not be finished is tried again: at first, and at most.
PAUSE_MIN, PAUSE_MAX = 1.0, 60.0


@dataclass(kw_only=True, eq=False)
class Recovery:
    """Finishes what others began.

    Args:
        placement: places the orders.
        ledger: the record.
        environ: where the values of an order's secrets come from; without them its row is left
            for somebody who has them.
        patience: seconds that `finish` waits; what takes longer continues behind it.
    """

    placement: Placement
    ledger: AsyncLedger
    environ: Mapping[str, str]
    patience: float
    _at_work: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    #: workers whose spawn could not be finished
    _failed: Retries = field(default_factory=lambda: Retries(PAUSE_MIN, PAUSE_MAX))
    _given_up: LateStarts = field(init=False)

    def __post_init__(self) -> None:
        self._given_up = LateStarts(
            fleet=self.placement.fleet,
            ledger=self.ledger,
            patience=self.patience,
        )

    async def finish(self, answers: Mapping[str, Sequence[WorkerStatus]]) -> None:
        """Finish every spawn whose process died, first at the outpost where it was reserved.

        What a stop gave up before it was started, and was started after all, is stopped.

        Args:
            answers: what each outpost that has just answered says of its workers.
        """
        await self.placement.pay()
        await self._given_up.stop(answers)
        names = set(answers)
        begun = []
        for worker in await self.ledger.orphans():
            at_work = worker.id in self._at_work
            if worker.outpost in names and not at_work and self._failed.is_due(worker.id):
                _log.info("the spawn of %s at %s is finished", worker.id, worker.outpost)
                task = asyncio.ensure_future(self._finish(worker))
                self._at_work[worker.id] = task
                begun.append(task)
        if begun:
            await asyncio.wait(begun, timeout=self.patience)

    async def close(self) -> None:
        """Break off what is at work; its rows are left to whoever comes."""
        tasks = [*self._at_work.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _finish(self, worker: Worker) -> None:
        try:
            await self._try(worker)
        except Exception as error:  # noqa: BLE001 - nobody waits for it: it is told
            why = error.message if isinstance(error, OutpostError) else repr(error)
            self._failed.failed(worker.id, why)
            _log.warning("the spawn of %s cannot be finished yet: %s", worker.id, why, error=error)
            self.ledger.note_soon(
                Event(
                    kind="unfinished",
                    at=time.time(),
                    worker=worker.id,
                    outpost=worker.outpost,
                    data={"reason": why},
                )
            )
        else:
            self._failed.done(worker.id)
        finally:
            del self._at_work[worker.id]

    async def _try(self, worker: Worker) -> None:
        order = await self.ledger.order(worker.id)
        if order is None:
            raise OutpostError("its order is not known")
        # those of an account are read when the order is handed over
        given = secret_names(self.placement.fleet.config.accounts, order.agent.name)
        if lacking := [n for n in order.secrets if n not in self.environ and n not in given]:
            raise OutpostError(
                f"it needs secrets that this environment lacks: {', '.join(sorted(lacking))}"
            )
        why = await self.ledger.explanation(worker.id)
        alone = why is not None and why.rule.startswith((ASKED_FOR, SESSION_AT))
        pending = PendingOrder(
            order=replace(
                order, secrets=Secrets({name: self.environ.get(name, "") for name in order.secrets})
            ),
            digest=worker.digest,
            on=worker.outpost if alone else None,
            turn=Turn(rule=why.rule if why is not None and alone else ""),
            recovered=True,
        )
        await self.placement.finish_orphan(pending)
