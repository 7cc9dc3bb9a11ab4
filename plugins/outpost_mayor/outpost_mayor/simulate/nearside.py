"""The near side of a simulation: the real queue, ledger, policy, budgets and retries.

What the dispatcher and the settler need of a manager, over simulated outposts. Orders are placed
as `placing.placement` does it, but that nobody waits for an answer, and that no record is kept of
each outpost that was passed over: with a thousand of them that would be nearly all of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Final, cast

from outpost_core import wire
from outpost_core.errors import NotFoundError, OutpostError
from outpost_core.types import Candidate, Explanation, Order, State, WorkerStatus
from outpost_manager.config import policy
from outpost_manager.config.spending import worst_case
from outpost_manager.ledger import AsyncLedger, Ledger, Outcome, Reservation
from outpost_manager.ledger.breakers import OUTPOST
from outpost_manager.placing.attempts import Next
from outpost_manager.placing.pending import NotPlacedError, Spawned, Turn
from outpost_manager.placing.purse import Purse

if TYPE_CHECKING:
    from outpost_core.types import Worker
    from outpost_manager.config.model import Config
    from outpost_manager.config.policy import Ranking
    from outpost_manager.fleet.fleet import Fleet as RealFleet
    from outpost_manager.fleet.overview import Overview
    from outpost_manager.ledger.reserve import Answer
    from outpost_mayor.simulate.outposts import Fleet

#: What an explanation says that nobody asks for.
_NONE: Final = Explanation(rule="", verdicts=())
_OWNER: Final = "simulation"
#: More outposts are not told one by one.
_MANY: Final = 50


@dataclass(kw_only=True, eq=False)
class NearSide:
    """Stands in for a manager.

    Args:
        ledger: an empty one.
        config: what is configured; its outposts are those of the simulation.
        fleet: the outposts.
        clock: returns the moment.
        started: is told each worker that begins, with what it holds at worst.
        refused: is told each order that does not find a place, and why.
    """

    ledger: AsyncLedger
    config: Config
    fleet: Fleet
    clock: Callable[[], float]
    started: Callable[[Order, Reservation, str], None]
    refused: Callable[[Order, Outcome], None]

    def __post_init__(self) -> None:
        self.watch = self.overview = self.further = self
        self.purse = Purse(
            fleet=cast("RealFleet", SimpleNamespace(config=self.config)),
            overview=cast("Overview", self),
            environ={},
        )

    # --- what the dispatcher and the settler ask ------------------------------------------------

    def usable(self) -> list[str]:
        """Return the names of the outposts."""
        return [*self.fleet.by_name]

    def standing(self, name: str) -> float:
        """Return the USD an hour that an outpost costs without a worker."""
        return self.fleet.by_name[name].standing

    async def room(self) -> int | None:
        """Return how many workers find a slot; None for no limit."""
        return self.fleet.room

    def with_secrets(self, order: Order) -> Order:
        """Return an order as it is: nobody logs in."""
        return order

    async def by_itself(self, ref: str, *, of: str = "", resume: str = "") -> Next:
        """Return the next attempt at an issue."""
        del of, resume  # a session that goes on is work like any other
        (worker,) = await self.ledger.workers(ids=[ref])
        order = await self.ledger.queue.order(worker.issue)
        if order is None:
            raise NotFoundError(f"{worker.issue} is not in the queue")
        return Next(order=replace(order, attempt=worker.attempt + 1), on=None)

    async def spawn_many(
        self,
        orders: Sequence[Order],
        *,
        on: str | None = None,
        turns: Mapping[str, Turn] = MappingProxyType({}),
    ) -> list[Spawned | OutpostError]:
        """Place orders, as `Manager.spawn_many` does."""
        return [await self._place(order, on, turns.get(order.worker, Turn())) for order in orders]

    # --- one order --------------------------------------------------------------------------------

    async def _place(self, order: Order, on: str | None, turn: Turn) -> Spawned | OutpostError:
        sheets = self.fleet.sheets(order)
        ranking = (
            policy.assign(self.config.policy, order, sheets)
            if on is None
            else policy.normalise([on], order, sheets)
        )
        digest, body = wire.digest(order), wire.dumps(order)
        asked = False
        until: float | None = None
        why = ""
        dear: float | None = None  # what costs so much there passes a budget
        anywhere = not any(budget.outpost for budget in self.purse.budgets())
        for name in ranking.ranked:
            if name == turn.avoid or (dear is not None and self.fleet.worst(name, order) >= dear):
                continue
            item = self.purse.held_to(
                Reservation(
                    order=order,
                    outpost=name,
                    digest=digest,
                    body=body,
                    max_workers=self.fleet.by_name[name].max_workers,
                    cost=self.fleet.worst(name, order),
                    agent_cost=worst_case(order),
                    cost_cap_hourly=self.fleet.by_name[name].cost_cap_hourly,
                    standing=self.fleet.by_name[name].standing,
                    owner=_OWNER,
                ),
                turn.account,
            )
            ledger = self.ledger.direct
            answer = ledger.move(order.worker, item) if asked else ledger.reserve([item])[0]
            if answer.outcome is Outcome.RESERVED:
                asked = True
                if self.fleet.down(name, self.clock()) is None:
                    return self._begin(order, item, answer)
                self._did_not_answer(ledger, name, order)
                continue
            self.refused(order, answer.outcome)
            why = why or answer.detail
            if answer.until is not None:
                until = min(until or answer.until, answer.until)
            if answer.outcome in (Outcome.ACCOUNT, Outcome.PARKED):  # it is so wherever it goes
                break
            if answer.outcome is Outcome.BUDGET and anywhere:
                dear = min(dear or item.cost, item.cost)
        if asked:
            self.ledger.direct.release(order.worker, _OWNER)
        return _nobody(order, why or self._passed(ranking), until, sheets)

    def _passed(self, ranking: Ranking) -> str:
        """Say why the policy passed all of them over, where they are not too many to be asked."""
        if len(self.fleet.by_name) > _MANY:
            return ""
        passed = [one for one in ranking.explain().verdicts if not one.eligible]
        return "\n  ".join(f"{one.outpost}: {one.reason}" for one in passed)

    def _begin(self, order: Order, item: Reservation, answer: Answer) -> Spawned:
        status = WorkerStatus(
            id=order.worker, state=State.WORKING, digest=item.digest, started_at=self.clock()
        )
        (worker,) = self.ledger.direct.mark_spawned([(item.outpost, status)])
        self.fleet.took(item.outpost, 1)
        self.started(order, item, answer.account)
        return Spawned(worker=cast("Worker", worker), adopted=False, explanation=_NONE)

    def _did_not_answer(self, ledger: Ledger, name: str, order: Order) -> None:
        now = self.clock()
        ledger.set_reachable(name, False, "it does not answer", now)
        ledger.breakers.failed(OUTPOST, name, "it does not answer", order.worker)
        self.fleet.avoid(name, now)


def _nobody(
    order: Order, why: str, until: float | None, sheets: Sequence[Candidate]
) -> NotPlacedError:
    why = why or "no outpost has a free slot for it"
    crowded = any(
        sheet.available and sheet.max_workers is not None and sheet.active >= sheet.max_workers > 0
        for sheet in sheets
    )
    return NotPlacedError(
        f"no outpost could take {order.worker}:\n  {why}", until=until, crowded=crowded
    )
