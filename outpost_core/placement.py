"""Placing orders: choose, reserve, spawn, record (law 4), and finish what a crash interrupted.

Every spawn holds a *ticket*: the ledger row says who is spawning it (`owner`). Whoever finds an
unfinished row takes it over only when its owner is dead, so that no two processes ever try one
order at two outposts.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from outpost_core import faults, policy, wire
from outpost_core.errors import (
    ConflictError,
    OutpostError,
    PlacementError,
    PluginError,
    SpawnRefusedError,
    UnreachableError,
)
from outpost_core.ledger import Claim, Outcome, Reservation
from outpost_core.types import (
    Candidate,
    Event,
    Explanation,
    Json,
    Order,
    Secrets,
    Worker,
    WorkerStatus,
)
from outpost_core.worker.identity import me

if TYPE_CHECKING:
    from outpost_core.fleet import Fleet, OutpostView
    from outpost_core.ledger import Ledger
    from outpost_core.policy import Assignment

Tell = Callable[[Event], None]
#: How often the row of an order that another process is spawning is looked at, in seconds.
WATCH_EVERY = 0.05


@dataclass(frozen=True, kw_only=True)
class Spawned:
    """What became of an order.

    Args:
        worker: the worker, as recorded.
        adopted: it was there before: nothing new was started.
        explanation: why it is where it is.
    """

    worker: Worker
    adopted: bool
    explanation: Explanation


@dataclass(kw_only=True, eq=False)
class _Ticket:
    """One order on its way."""

    order: Order
    digest: str
    tell: Tell
    owner: str = field(default_factory=lambda: f"{me()}/{uuid.uuid4().hex[:12]}")
    candidates: Mapping[str, Candidate] = field(default_factory=dict)
    explanation: Explanation = field(default_factory=lambda: Explanation(rule="", verdicts=()))
    queue: list[str] = field(default_factory=list)
    outpost: str = ""
    adopted: Worker | None = None
    error: OutpostError | None = None
    settled: bool = False  # the row is spawned or gone, so that nobody needs to own it

    @property
    def id(self) -> str:
        return self.order.worker

    def say(self, kind: str, outpost: str = "", **data: Json) -> None:
        event = Event(kind=kind, at=time.time(), worker=self.id, outpost=outpost, data=data)
        self.tell(event)

    def refused(self, outpost: str, reason: str) -> None:
        """Keep why an outpost did not take it."""
        tried = (*self.explanation.attempts, (outpost, reason))
        self.explanation = replace(self.explanation, attempts=tried)
        self.say("refused", outpost, reason=reason)

    def next_reservation(self) -> Reservation | None:
        """Return the reservation at the next outpost, or None when there is no more."""
        if not self.queue:
            return None
        sheet = self.candidates[self.queue.pop(0)]
        return Reservation(
            order=self.order,
            outpost=sheet.name,
            digest=self.digest,
            max_workers=sheet.max_workers,
            cost=sheet.cost,
            cost_cap_hourly=sheet.cost_cap_hourly,
            explanation=self.explanation,
            owner=self.owner,
        )

    def nobody(self) -> PlacementError:
        """Say why nobody took it."""
        lines = [
            f"{v.outpost}: {v.reason}" for v in self.explanation.verdicts if not v.eligible
        ] + [f"{outpost}: {reason}" for outpost, reason in self.explanation.attempts]
        reasons = "".join(f"\n  {line}" for line in lines) or " there is none"
        return PlacementError(
            f"no outpost could take {self.id}:{reasons}",
            mend=f"outpost explain {self.order.issue.id} shows each outpost; outpost workers"
            " shows what runs",
        )


@dataclass(kw_only=True, eq=False)
class Placement:
    """Places orders on a fleet.

    Args:
        fleet: the outposts.
        ledger: the record.
        tell: is told every event.
        spawn_timeout: seconds that one outpost may take to spawn.
        answer_timeout: seconds that one outpost may take to list.
    """

    fleet: Fleet
    ledger: Ledger
    tell: Tell
    spawn_timeout: float
    answer_timeout: float
    _to_mark: list[tuple[str, WorkerStatus]] = field(default_factory=list)
    _marked: asyncio.Future[None] | None = None

    # --- choosing -----------------------------------------------------------------------------

    def assign(self, order: Order, candidates: Sequence[Candidate], on: str | None) -> Assignment:
        """Ask the policy, or take the one outpost that the user named; hard limits hold always.

        Raises:
            PluginError: a policy plugin failed or named an unknown outpost.
        """
        if on is not None:
            return policy.normalise([on], order, candidates)
        try:
            answer = self.fleet.plugins.pm.hook.outpost_assign(order=order, candidates=candidates)
        except OutpostError:
            raise
        except Exception as error:
            raise PluginError(
                f"the assignment policy failed: {type(error).__name__}: {error}",
                mend="uninstall or mend the package that implements outpost_assign",
            ) from error
        return policy.normalise(answer, order, candidates)

    def _choose(self, tickets: Iterable[_Ticket], on: str | None) -> None:
        views = self.fleet.views(self.ledger)
        now = time.time()
        shared: tuple[Candidate, ...] | None = None
        for ticket in tickets:
            sheets = shared or self.fleet.candidates(ticket.order, views, now)
            if not _any_price(views):
                shared = sheets
            assignment = self.assign(ticket.order, sheets, on)
            ticket.candidates = {sheet.name: sheet for sheet in sheets}
            ticket.explanation = assignment.explain()
            ticket.queue = list(assignment.ranked)
            ticket.say("placed", ticket.queue[0] if ticket.queue else "")

    # --- reserving ------------------------------------------------------------------------------

    def _reserve(self, tickets: list[_Ticket]) -> None:
        """Reserve at each ticket's best outpost that has room, all in as few writes as can be."""
        pending = tickets
        while pending:
            asked: list[tuple[_Ticket, Reservation]] = []
            for ticket in pending:
                reservation = ticket.next_reservation()
                if reservation is None:
                    ticket.error = ticket.nobody()
                else:
                    asked.append((ticket, reservation))
            answers = self.ledger.reserve([reservation for _, reservation in asked])
            pending = []
            for (ticket, reservation), answer in zip(asked, answers, strict=True):
                if answer.outcome is Outcome.RESERVED:
                    ticket.outpost = reservation.outpost
                    ticket.say("reserved", ticket.outpost, cost=reservation.cost)
                elif answer.outcome is Outcome.EXISTS:
                    ticket.adopted = answer.worker
                elif answer.outcome is Outcome.CONFLICT:
                    ticket.error = _conflict(ticket.order)
                else:
                    ticket.refused(reservation.outpost, answer.detail)
                    pending.append(ticket)

    # --- the whole way --------------------------------------------------------------------------

    async def spawn_many(
        self, orders: Sequence[Order], *, on: str | None, tell: Tell
    ) -> list[Spawned | OutpostError]:
        """Place several orders; each gets its own answer, in the same order.

        Args:
            orders: what is to be done.
            on: the one outpost to use, or None to let the policy choose.
            tell: is told every event of these orders.
        """
        tickets = [_Ticket(order=o, digest=wire.digest(o), tell=tell) for o in orders]
        known = {w.id: w for w in self.ledger.workers(ids=[t.id for t in tickets])}
        fresh = []
        for ticket in tickets:
            worker = known.get(ticket.id)
            if worker is None:
                fresh.append(ticket)
            elif worker.digest != ticket.digest:
                ticket.error = _conflict(ticket.order)
            else:
                ticket.adopted = worker
        if fresh:
            self._choose(fresh, on)
            self._reserve(fresh)
            faults.point("manager.reserved")
        return list(await asyncio.gather(*(self._finish(t, on) for t in tickets)))

    async def _finish(self, ticket: _Ticket, on: str | None) -> Spawned | OutpostError:
        try:
            if ticket.error is not None:
                ticket.settled = True
                return ticket.error
            if ticket.adopted is not None:
                return await self._adopt(ticket, on)
            return await self._start(ticket)
        except OutpostError as error:
            return error
        finally:
            if not ticket.settled:
                self.ledger.disown(ticket.id, ticket.owner)

    async def _adopt(self, ticket: _Ticket, on: str | None) -> Spawned:
        """The row is there: return its worker, or finish its spawn when its owner is dead."""
        deadline = time.monotonic() + self.spawn_timeout
        while True:
            claim = self.ledger.claim(ticket.id, ticket.owner)
            if claim is Claim.GONE:
                raise PlacementError(
                    f"{ticket.id} was given up by the process that was placing it",
                    mend="spawn it again",
                )
            worker = self.ledger.worker(ticket.id)
            if worker is not None and claim is Claim.SPAWNED:
                ticket.settled = True
                explanation = self.ledger.explanation(ticket.id) or ticket.explanation
                return Spawned(worker=worker, adopted=True, explanation=explanation)
            if worker is not None and claim is Claim.MINE:
                self._choose([ticket], on)
                first = worker.outpost
                ticket.queue = [name for name in ticket.queue if name != first]
                ticket.outpost = first
                return await self._start(ticket)
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"another process is still placing {ticket.id}",
                    mend=f"outpost show {ticket.id}",
                )
            await asyncio.sleep(WATCH_EVERY)

    async def _start(self, ticket: _Ticket) -> Spawned:
        """Spawn at the reserved outpost; when it refuses, at the next."""
        while True:
            try:
                status = await self._spawn_at(ticket)
            except ConflictError:
                self.ledger.release(ticket.id)
                raise
            except (SpawnRefusedError, UnreachableError, PluginError) as error:
                if isinstance(error, UnreachableError):
                    self.ledger.set_reachable(ticket.outpost, False, error.message, time.time())
                    if error.sent:
                        raise UnreachableError(
                            f"{error.message}; whether {ticket.id} runs there is not known, so it"
                            " is started nowhere else",
                            mend="outpost workers asks again and finishes it; outpost stop"
                            f" {ticket.id} gives it up",
                        ) from error
                ticket.refused(ticket.outpost, error.message)
                self._move(ticket)
                continue
            faults.point("manager.spawned")
            await self._mark(ticket.outpost, status)
            ticket.settled = True
            faults.point("manager.recorded")
            ticket.say("spawned", ticket.outpost, state=status.state.value)
            worker = self.ledger.worker(ticket.id)
            assert worker is not None, "a spawned row stays"
            return Spawned(worker=worker, adopted=False, explanation=ticket.explanation)

    async def _spawn_at(self, ticket: _Ticket) -> WorkerStatus:
        """Ask one outpost to spawn; when its answer is a riddle, ask what it has."""
        ticket.say("starting", ticket.outpost)
        try:
            status = await self.fleet.ask(
                ticket.outpost, "outpost_spawn", timeout=self.spawn_timeout, order=ticket.order
            )
        except (UnreachableError, PluginError) as error:
            if isinstance(error, UnreachableError) and not error.sent:
                raise
            found = await self._look(ticket)
            if found is None:
                raise
            return found
        if not isinstance(status, WorkerStatus):
            raise PluginError(f"outpost_spawn answered a {type(status).__name__}")
        return status

    async def _look(self, ticket: _Ticket) -> WorkerStatus | None:
        """Return the worker when its outpost shows it with this very order."""
        try:
            statuses = await self.fleet.ask(
                ticket.outpost, "outpost_list", timeout=self.answer_timeout
            )
        except PluginError as error:
            if ticket.outpost in self.fleet.broken:
                return None  # it was never built, so nothing was asked of it
            raise UnreachableError(error.message, mend=error.mend) from error
        for status in statuses:
            if status.id == ticket.id and status.digest in ("", ticket.digest):
                return status  # type: ignore[no-any-return]
        return None

    def _move(self, ticket: _Ticket) -> None:
        """Move the reservation to the next outpost with room.

        Raises:
            PlacementError: there is none; the reservation is released.
        """
        while True:
            reservation = ticket.next_reservation()
            if reservation is None:
                self.ledger.release(ticket.id)
                raise ticket.nobody()
            answer = self.ledger.move(ticket.id, reservation)
            if answer.outcome in (Outcome.EXISTS, Outcome.CONFLICT):
                raise ConflictError(answer.detail, mend=f"outpost show {ticket.id}")
            if answer.outcome is Outcome.RESERVED:
                ticket.outpost = reservation.outpost
                ticket.say("reserved", ticket.outpost, cost=reservation.cost)
                return
            ticket.refused(reservation.outpost, answer.detail)

    async def _mark(self, outpost: str, status: WorkerStatus) -> None:
        """Record a spawn; all that become ready in one turn of the loop share one transaction."""
        self._to_mark.append((outpost, status))
        if self._marked is None:
            loop = asyncio.get_running_loop()
            self._marked = loop.create_future()
            loop.call_soon(self._flush)
        await self._marked

    def _flush(self) -> None:
        future, items = self._marked, self._to_mark
        self._marked, self._to_mark = None, []
        assert future is not None, "scheduled together"
        try:
            self.ledger.mark_spawned(items)
        except OutpostError as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    # --- after a crash --------------------------------------------------------------------------

    async def recover(self, reachable: Iterable[str], environ: Mapping[str, str]) -> None:
        """Finish every spawn whose process died, at the outpost where it was reserved.

        Args:
            reachable: outposts that have just answered.
            environ: where the values of the order's secrets come from; without them a row is
                left for somebody who has them.
        """
        names = set(reachable)
        rows = [w for w in self.ledger.unspawned(0.0) if w.outpost in names]
        await asyncio.gather(*(self._recover_one(worker, environ) for worker in rows))

    async def _recover_one(self, worker: Worker, environ: Mapping[str, str]) -> None:
        order = self.ledger.order(worker.id)
        if order is None or any(name not in environ for name in order.secrets):
            return
        secrets = Secrets({name: environ[name] for name in order.secrets})
        order = replace(order, secrets=secrets)
        ticket = _Ticket(order=order, digest=worker.digest, tell=self.tell, outpost=worker.outpost)
        if self.ledger.claim(worker.id, ticket.owner) is not Claim.MINE:
            return
        ticket.explanation = self.ledger.explanation(worker.id) or ticket.explanation
        try:
            await self._start(ticket)
        except OutpostError as error:
            ticket.say("unfinished", worker.outpost, reason=error.message)
        finally:
            if not ticket.settled:
                self.ledger.disown(worker.id, ticket.owner)


def _any_price(views: Iterable[OutpostView]) -> bool:
    return any("price" in view.capabilities for view in views)


def _conflict(order: Order) -> ConflictError:
    return ConflictError(
        f"{order.worker} exists with another order",
        mend=f"outpost show {order.worker} shows it; --again starts attempt {order.attempt + 1}",
    )
