"""A simulation: moments leap from one event to the next, and all decisions are the real ones."""

from __future__ import annotations

import heapq
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from outpost_core.types import Agent, Issue, Limits, Order, Result, Usage, WorkerStatus
from outpost_manager.config.model import Config, OutpostConfig
from outpost_manager.ledger import AsyncLedger, Ledger, Reservation
from outpost_manager.ledger.clock import moved
from outpost_manager.offloop import at_once
from outpost_manager.placing.queueing import queue_items
from outpost_manager.scratch import scratch
from outpost_mayor.dispatch.dispatcher import Dispatcher
from outpost_mayor.retries.settler import Settler
from outpost_mayor.simulate.figures import BudgetWatch, Figures, Log, Use, Waits
from outpost_mayor.simulate.nearside import NearSide
from outpost_mayor.simulate.outposts import Fleet, Simulated, expanded
from outpost_mayor.simulate.workload import HOUR, Job, Outage, Workload, state_of

if TYPE_CHECKING:
    from outpost_manager.manager import Manager

#: Reasons of ends before the agent began.
_UNBEGUN: Final = frozenset(
    {
        *("never_started", "workspace_failed", "command_not_found", "wrapper_not_found"),
        *("no_fence", "base_not_found", "rig_partial"),
    }
)
#: What finds no room is tried again each so many seconds, until nothing has happened for so long:
#: the hour of a cost cap is over then.
_AGAIN: Final = 60.0
_QUIET: Final = 2 * HOUR
#: A simulation goes on for so long after the last order came, in seconds.
_PATIENCE: Final = 400 * 86_400.0
#: Where the ledger lies meanwhile: in memory, where a machine has such a folder.
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it


@dataclass(kw_only=True, eq=False)
class Simulation:
    """One run of a workload.

    Args:
        workload: what comes.
        outposts: where it can go.
        config: policy, budgets, accounts, retries and queue.
        outages: when outposts do not answer.
        seed: of the jitter of back-offs.
        step: seconds in which what happens is taken for simultaneous; 0: every moment is its own.
    """

    workload: Workload
    outposts: Sequence[Simulated]
    config: Config
    outages: Sequence[Outage] = ()
    seed: int = 0
    step: float = 1.0
    now: float = field(init=False)
    log: Log = field(init=False)

    def run(self) -> Figures:
        """Run it to its end, in this thread, without an event loop.

        Raises:
            LedgerError: the throw-away ledger cannot be written.
        """
        outposts = expanded(self.outposts)
        self._begins = self.now = self._busy = self.workload.begins
        self._fleet = Fleet(outposts, self.outages, self._begins)
        self._config = _over(self.config, outposts)
        self._ends: list[tuple[float, int, str]] = []
        self._jobs = self.workload.jobs()
        self._coming = next(self._jobs, None)
        self._known: dict[str, Job] = {}
        self._holds: dict[str, _Held] = {}
        memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        with scratch("outpost-simulation-", memory) as folder, moved(lambda: self.now):
            ledger = AsyncLedger(lambda: Ledger(folder))
            self._near = NearSide(
                ledger=ledger, config=self._config, fleet=self._fleet, clock=lambda: self.now,
                started=self._started,
                refused=lambda order, why: self.log.refuses(order.issue.id, why),
            )  # fmt: skip
            self.log = Log(
                uses={one.name: Use(slots=one.max_workers) for one in outposts},
                budgets=[BudgetWatch(one) for one in self._near.purse.budgets()],
            )
            try:
                self._loop(ledger)
                return self._figures(ledger.direct)
            finally:
                ledger.close()

    # --- time -------------------------------------------------------------------------------------

    def _loop(self, ledger: AsyncLedger) -> None:
        chance = random.Random(f"{self.seed}/jitter")  # noqa: S311
        manager = cast("Manager", self._near)  # it has all that these two ask for
        dispatcher = Dispatcher(manager, clock=lambda: self.now)
        settler = Settler(manager, clock=lambda: self.now, chance=chance.random)
        last = self.now
        while (moment := self._next(ledger.direct, dispatcher, settler)) is not None:
            self.now = max(self.now, moment)
            if self._coming is not None:
                last = self.now
            elif self.now - last > _PATIENCE:
                return
            self._arrive(ledger.direct)
            self._end(ledger.direct)
            spent = ledger.direct.spent(self.now - HOUR) if self._fleet.capped else {}
            self._fleet.look(self.now, spent)
            at_once(settler.step())
            at_once(dispatcher.step())

    def _next(self, ledger: Ledger, dispatcher: Dispatcher, settler: Settler) -> float | None:
        """Return the next moment at which something happens; None when nothing will."""
        moments = [self._ends[0][0]] if self._ends else []
        if self._coming is not None:
            moments.append(self._begins + self._coming.at)
        if moments and min(moments) <= self.now:
            return self.now
        waits = (ledger.queue.next_moment(self.now), dispatcher.next_moment, settler.next_moment)
        moments += [one for one in (*waits, self._fleet.next_moment()) if one is not None]
        if dispatcher.unforeseen and self.now - self._busy < _QUIET:
            moments.append(self.now + _AGAIN)
        later = [one for one in moments if one > self.now]
        if not later:
            return None
        found = min(later)
        if not self.step:
            return found
        # the next whole step, so that what happens within it is done together
        return self._begins + -(-(found - self._begins) // self.step) * self.step

    # --- what happens -----------------------------------------------------------------------------

    def _arrive(self, ledger: Ledger) -> None:
        orders: list[Order] = []
        retries: list[int] = []
        while self._coming is not None and self._begins + self._coming.at <= self.now:
            job, self._coming = self._coming, next(self._jobs, None)
            self._busy = self.now
            self._known[job.issue] = job
            self.log.comes(job.issue, job.priority, self._begins + job.at)
            orders.append(self._order(job))
            retries.append(job.stream.retries)
        for wanted in sorted({*retries}):
            some = [order for order, each in zip(orders, retries, strict=True) if each == wanted]
            ledger.queue.add(queue_items(self._config, some, retries=wanted))

    def _order(self, job: Job) -> Order:
        said, defaults = job.stream, self._config.defaults
        limit = defaults.max_agent_cost_usd if said.max_cost is None else said.max_cost
        return Order(
            issue=Issue(
                id=job.issue, title=job.issue, priority=job.priority, estimate=said.estimate,
                labels=said.labels, kind=said.kind,
            ),
            agent=Agent(argv=(said.agent,), name=said.agent),
            rig=said.rig,
            limits=Limits(timeout=said.timeout, max_agent_cost_usd=limit),
        )  # fmt: skip

    def _started(self, order: Order, item: Reservation, account: str) -> None:
        """A worker begins: draw when and how it ends."""
        job, place = self._known[order.issue.id], self._fleet.by_name[item.outpost]
        drawn = self.workload.attempt(job, order.attempt)
        seconds, reason = drawn.seconds, drawn.reason
        if seconds > job.stream.timeout:
            seconds, reason = job.stream.timeout, "timeout"
        limit = order.limits.max_agent_cost_usd
        cost = drawn.cost
        if limit is not None and cost > limit:  # it is ended when it has spent so much
            seconds, reason, cost = seconds * limit / cost, "budget_reached", limit
        ends = self.now + place.start + seconds
        heard = ends
        for outage in self.outages:
            begins, over = self._begins + outage.start, self._begins + outage.end
            if outage.outpost != place.name:
                continue
            if outage.kills and self.now < over and begins < ends:
                ends, reason = max(self.now, begins), "lost_process"
                seconds = max(0.0, ends - self.now)
                heard = over
            elif begins <= ends < over:
                heard = over
        self._holds[order.worker] = _Held(
            outpost=place.name, digest=item.digest, issue=order.issue.id, rig=order.rig,
            labels=order.issue.labels, account=account, ends=ends, reason=reason,
            machine=place.price * (place.start + seconds) / HOUR,
            agent=0.0 if reason in _UNBEGUN else cost,
            retry_at=None if drawn.retry_after is None else ends + drawn.retry_after,
        )  # fmt: skip
        heapq.heappush(self._ends, (heard, len(self._holds), order.worker))
        self.log.starts(order.issue.id, order.worker, place.name, self.now)
        worst = item.cost + (item.agent_cost or 0.0)
        for watch in self.log.budgets:
            if watch.budget.counts(place.name, order.rig, order.issue.labels, account):
                self.log.wrong(watch.reserve(order.worker, worst, self.now))

    def _end(self, ledger: Ledger) -> None:
        told: dict[str, list[WorkerStatus]] = {}
        while self._ends and self._ends[0][0] <= self.now:
            _, _, worker = heapq.heappop(self._ends)
            held = self._holds[worker]
            told.setdefault(held.outpost, []).append(held.status(worker))
            self.log.ends(worker, self.now, machine=held.machine, agent=held.agent)
            for watch in self.log.budgets:
                watch.end(worker, held.machine + held.agent, self.now)
            del self._holds[worker]
            self._busy = self.now
            self._fleet.took(held.outpost, -1)
        for outpost, statuses in told.items():
            if any(one.outpost == outpost for one in self.outages):
                ledger.set_reachable(outpost, True, "", self.now)
            ledger.record(outpost, statuses)

    # --- what came of it --------------------------------------------------------------------------

    def _figures(self, ledger: Ledger) -> Figures:
        log = self.log
        outcomes: Counter[str] = Counter()
        stuck: Counter[str] = Counter()
        for entry in ledger.queue.entries(states=("waiting", "running", "settling", "ended")):
            outcomes[entry.outcome or "waiting"] += 1
            if not entry.outcome:
                stuck[entry.why or "for its turn"] += 1
        if sum(outcomes.values()) != len(log.came):
            log.wrong(f"{len(log.came)} orders came, and {sum(outcomes.values())} are known")
        first = min((at for at, _ in log.came.values()), default=self.now)
        makespan = max(0.0, log.last_end - first)
        for one in self._fleet.outposts:
            log.uses[one.name].usd += one.standing * makespan / HOUR
        waits: dict[int, list[float]] = {}
        for issue, began in log.began.items():
            at, priority = log.came[issue]
            waits.setdefault(priority, []).append(began - at)
        step = self._config.queue.aging
        attempts = sum(log.attempts.values())
        return Figures(
            orders=len(log.came),
            outcomes=dict(outcomes),
            attempts=attempts,
            retries=attempts - len(log.attempts),
            makespan=makespan,
            machine=sum(use.usd for use in log.uses.values()),
            agent=log.agent,
            waits={priority: Waits.of(some) for priority, some in sorted(waits.items())},
            outposts=log.uses,
            refused={why: len(issues) for why, issues in sorted(log.refused.items())},
            passed=(log.passed, 5 * step if step else None),
            stuck=dict(stuck),
            broken=tuple(log.broken),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    """A worker that runs, and how it will end."""

    outpost: str
    digest: str
    issue: str
    rig: str | None
    labels: tuple[str, ...]
    account: str
    ends: float
    reason: str
    machine: float
    agent: float
    retry_at: float | None

    def status(self, worker: str) -> WorkerStatus:
        """Return what its outpost says of it then."""
        state = state_of(self.reason)
        result = Result(
            state=state, reason=self.reason, finished_at=self.ends, cost_usd=self.machine,
            usage=Usage(cost_usd=self.agent), agent_began=self.reason not in _UNBEGUN,
            retry_at=self.retry_at,
        )  # fmt: skip
        return WorkerStatus(id=worker, state=state, digest=self.digest, result=result)


def _over(config: Config, outposts: Sequence[Simulated]) -> Config:
    """Return a configuration over other outposts."""
    return replace(
        config,
        outposts=tuple(
            OutpostConfig(name=one.name, type=one.type, options=None) for one in outposts
        ),
    )
