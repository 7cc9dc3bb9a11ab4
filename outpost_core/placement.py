"""Placing orders: choose, reserve, spawn, record (law 4), and end what never was.

The ledger's row says who is spawning an order (`owner`). Whoever finds an unfinished row takes it
over only when its owner is dead, so that no two processes try one order at once. And an order
moves on to another outpost only when it is proved that nothing runs where it was: the outpost
says so itself (`SpawnRefusedError`), it could not even be built, or the request never left.
Anything else is doubt, and in doubt it stays (law 1).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from outpost_core import border, faults, policy, wire
from outpost_core.errors import (
    ConflictError,
    LedgerError,
    OutpostError,
    PlacementError,
    PluginError,
    SpawnRefusedError,
    UnreachableError,
    UnsupportedError,
    UsageError,
)
from outpost_core.fleet import NotBuiltError, mask
from outpost_core.ledger import Claim, Outcome, Reservation
from outpost_core.news import heard, state_event
from outpost_core.reporting import reporting
from outpost_core.ticket import ASKED_FOR, Spawned, Tell, Ticket
from outpost_core.types import (
    Candidate,
    Order,
    Result,
    State,
    Worker,
    WorkerStatus,
)
from outpost_core.worker.identity import me

if TYPE_CHECKING:
    from outpost_core.fleet import Fleet
    from outpost_core.ledger import Ledger
    from outpost_core.overview import Overview
    from outpost_core.policy import Ranking

T = TypeVar("T")

#: How often the row of an order that another process is spawning is looked at, in seconds.
WATCH_EVERY = 0.05


@dataclass(kw_only=True, eq=False)
class Placement:
    """Places orders on a fleet.

    Args:
        fleet: the outposts.
        overview: what the policy is shown of them.
        ledger: the record.
        tell: is told every event.
        spawn_timeout: seconds that one outpost may take to spawn.
        answer_timeout: seconds that one outpost may take to list.
    """

    fleet: Fleet
    overview: Overview
    ledger: Ledger
    tell: Tell
    spawn_timeout: float
    answer_timeout: float
    _to_mark: list[tuple[str, WorkerStatus]] = field(default_factory=list)
    _marked: asyncio.Future[None] | None = None
    _owed: list[Ticket] = field(default_factory=list)

    # --- choosing -----------------------------------------------------------------------------

    def assign(self, order: Order, candidates: Sequence[Candidate], on: str | None) -> Ranking:
        """Ask the policy, or take the one outpost that the user named; hard limits hold always.

        Raises:
            PluginError: a policy plugin failed or named an unknown outpost.
        """
        if on is not None:
            return policy.normalise([on], order, candidates, rule=ASKED_FOR + on)
        try:
            answer = self.fleet.plugins.pm.hook.outpost_assign(order=order, candidates=candidates)
            return policy.normalise(answer, order, candidates)
        except OutpostError as error:
            mask(error, order.secrets)
            raise
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is its own
            trouble = PluginError(
                f"the assignment policy failed: {type(error).__name__}: {error}",
                mend="uninstall or mend the package that implements outpost_assign",
            )
            mask(trouble, order.secrets)
            raise trouble from None  # the cause's own text is not masked

    def _choose(self, tickets: Sequence[Ticket]) -> None:
        """Let the policy rank the outposts for each ticket; a failure is that ticket's error.

        Each ticket sees the slots and the money that those before it will take, so that a crowd
        spreads at once instead of being sent on from one full outpost to the next.
        """
        now = time.time()
        told = self.overview.sheets([ticket.order for ticket in tickets], now)
        taken: dict[str, tuple[int, float]] = {}
        last: dict[str, tuple[int, float]] = {}
        of: tuple[Candidate, ...] | None = None
        sheets: tuple[Candidate, ...] = ()
        for ticket, fresh in zip(tickets, told, strict=True):
            if fresh is not of:
                of, sheets = fresh, tuple(_after(sheet, taken) for sheet in fresh)
            elif last:
                sheets = tuple(_after(sheet, last) for sheet in sheets)
            last = {}
            try:
                ticket.chosen(self.assign(ticket.order, sheets, ticket.on), sheets)
            except OutpostError as error:
                ticket.error = error
                continue
            if len(tickets) > 1 and ticket.queue:
                best = ticket.queue[0]
                slots, usd = taken.get(best, (0, 0.0))
                taken[best] = (slots + 1, usd + ticket.candidates[best].cost)
                last = {best: (1, ticket.candidates[best].cost)}

    # --- reserving ------------------------------------------------------------------------------

    def _reserve(self, tickets: list[Ticket]) -> None:
        """Reserve at each ticket's best outpost that has room, all in as few writes as can be."""
        pending = tickets
        while pending:
            asked: list[tuple[Ticket, Reservation]] = []
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
                    ticket.reserved(reservation)
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

        Raises:
            LedgerError: the ledger cannot be used; nothing was started that is not recorded.
        """
        tickets = [Ticket(order=o, digest=wire.digest(o), tell=tell, on=on) for o in orders]
        try:
            await self._renew(tickets)
            self._reserve_new(tickets)
            faults.point("manager.reserved")
            return await _all([self._finish(ticket) for ticket in tickets])
        finally:
            # Whatever came between, no row is left in the name of a living process.
            for ticket in tickets:
                self._let_go(ticket)

    async def _renew(self, tickets: list[Ticket]) -> None:
        """Make room for another try of those that failed before their agent began."""
        if unbegun := self.ledger.unbegun([ticket.id for ticket in tickets]):
            from outpost_core.renewal import Renewal

            renewal = Renewal(fleet=self.fleet, ledger=self.ledger, patience=self.spawn_timeout)
            await _all([renewal.make_room(t) for t in tickets if t.id in unbegun])

    def _reserve_new(self, tickets: list[Ticket]) -> None:
        known = {w.id: w for w in self.ledger.workers(ids=[t.id for t in tickets])}
        new = []
        for ticket in tickets:
            worker = known.get(ticket.id)
            if worker is None or ticket.renews is not None:
                new.append(ticket)
            elif worker.digest != ticket.digest:
                ticket.error = _conflict(ticket.order)
            else:
                ticket.adopted = worker
        if new:
            self._choose(new)
            self._reserve([ticket for ticket in new if ticket.error is None])

    async def _finish(self, ticket: Ticket) -> Spawned | OutpostError:
        try:
            if ticket.error is not None:
                return ticket.error
            if ticket.adopted is not None:
                return await self._adopt(ticket)
            return await self._start(ticket)
        except OutpostError as error:
            return error
        finally:
            self._let_go(ticket)

    def _let_go(self, ticket: Ticket) -> None:
        """Leave an unfinished row to whoever comes."""
        if ticket.held:
            ticket.held = False
            try:
                self.ledger.disown(ticket.id, ticket.owner)
            except LedgerError:
                self._owed.append(ticket)

    def pay(self) -> None:
        """Leave those rows to whoever comes that could not be left when it was time.

        Raises:
            LedgerError: it still cannot be written.
        """
        while self._owed:
            self.ledger.disown(self._owed[-1].id, self._owed[-1].owner)
            self._owed.pop()

    async def _adopt(self, ticket: Ticket) -> Spawned:
        """The row is there: return its worker, or finish its spawn when its owner is dead."""
        deadline = time.monotonic() + self.spawn_timeout
        while True:
            claim = self.ledger.claim(ticket.id, ticket.owner)
            ticket.held = claim is Claim.MINE
            worker = self.ledger.worker(ticket.id)
            if worker is None or claim is Claim.GONE:
                raise PlacementError(
                    f"{ticket.id} was given up by the process that was placing it",
                    mend="spawn it again",
                )
            if worker.digest != ticket.digest:
                raise _conflict(ticket.order)
            if claim is Claim.SPAWNED:
                explanation = self.ledger.explanation(ticket.id) or ticket.explanation
                return Spawned(worker=worker, adopted=True, explanation=explanation)
            if claim is Claim.MINE:
                return await self.take_over(ticket)
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"another process is still placing {ticket.id}",
                    mend=f"outpost show {ticket.id}",
                )
            await asyncio.sleep(WATCH_EVERY)

    async def take_over(self, ticket: Ticket) -> Spawned:
        """Finish the spawn of a dead process, whose row the ticket has claimed, where it was.

        Raises:
            OutpostError: it is not finished, or nobody takes it.
        """
        ticket.held = True
        try:
            worker = self.ledger.worker(ticket.id)
            assert worker is not None, "a claimed row stays"
            # read after the claim: the dead one may have moved it until then
            ticket.outpost, ticket.doubt = worker.outpost, True
            ticket.explanation = self.ledger.explanation(ticket.id) or ticket.explanation
            return await self._start(ticket)
        finally:
            self._let_go(ticket)

    def _choose_anew(self, ticket: Ticket) -> None:
        """Let the policy say where an order may go that was taken over and refused there."""
        self._choose([ticket])
        if ticket.error is not None:
            raise ticket.error
        ticket.queue = [name for name in ticket.queue if name != ticket.outpost]

    async def _start(self, ticket: Ticket) -> Spawned:
        """Spawn at the reserved outpost; when it proves that nothing runs there, at the next."""
        while True:
            try:
                with reporting(lambda text: ticket.say("sending", ticket.outpost, detail=text)):
                    status = await self._spawn_at(ticket)
            except (ConflictError, UsageError, UnsupportedError) as error:
                self._drop(ticket, error.message)
                raise
            except SpawnRefusedError as error:
                if ticket.doubt:
                    self._choose_anew(ticket)
                ticket.refused(ticket.outpost, error.message)
                self._move(ticket)
                continue
            faults.point("manager.spawned")
            await self._mark(ticket.outpost, status)
            ticket.held = False
            faults.point("manager.recorded")
            ticket.say("spawned", ticket.outpost, state=status.state.value)
            worker = self.ledger.worker(ticket.id)
            assert worker is not None, "a spawned row stays"
            return Spawned(
                worker=worker,
                adopted=False,
                explanation=ticket.explanation,
                renews=ticket.renews,
            )

    async def _spawn_at(self, ticket: Ticket) -> WorkerStatus:
        """Ask one outpost to spawn; when its answer is a riddle, ask what it has.

        Raises:
            ConflictError, UsageError, UnsupportedError: it will never take this order.
            SpawnRefusedError: it is proved that nothing runs there.
            UnreachableError: there is doubt.
        """
        ticket.say("starting", ticket.outpost)
        try:
            status = await self.fleet.ask(
                ticket.outpost, "outpost_spawn", timeout=self.spawn_timeout, order=ticket.order
            )
            return border.spawned(ticket.outpost, status, ticket.id, ticket.digest)
        except (ConflictError, SpawnRefusedError):
            raise
        except OutpostError as error:
            if isinstance(error, UsageError | UnsupportedError):
                if not ticket.doubt or await self._lacks(ticket):
                    raise
            elif isinstance(error, UnreachableError):
                heard(self.ledger, self.tell, ticket.outpost, trouble=error.message, at=time.time())
            never_left = isinstance(error, NotBuiltError) or not getattr(error, "sent", True)
            if never_left and not ticket.doubt:
                raise SpawnRefusedError(error.message, mend=error.mend) from error
            found = None if never_left else await self._look(ticket)
            if found is not None:
                return found
            raise UnreachableError(
                f"{error.message}; whether {ticket.id} runs at {ticket.outpost} is not known, so"
                " it is started nowhere else",
                mend=f"outpost workers asks again and finishes it; outpost stop {ticket.id} gives"
                " it up",
            ) from error

    async def _look(self, ticket: Ticket) -> WorkerStatus | None:
        """Return the worker when its outpost shows it with this very order, and it has begun.

        One that is only queued may wait for a start that nobody will give it: the spawn is
        repeated then, not believed.
        """
        try:
            statuses = await self.fleet.list(ticket.outpost, timeout=self.answer_timeout)
        except OutpostError:
            return None
        for status in statuses:
            if status.id == ticket.id and status.digest in ("", ticket.digest):
                return None if status.state is State.QUEUED else status
        return None

    async def _lacks(self, ticket: Ticket) -> bool:
        """Whether the outpost itself says that it does not have the worker."""
        try:
            statuses = await self.fleet.list(ticket.outpost, timeout=self.answer_timeout)
        except OutpostError:
            return False
        if self.fleet.nameless.get(ticket.outpost):  # one of those may be this one
            return False
        return all(status.id != ticket.id for status in statuses)

    def _move(self, ticket: Ticket) -> None:
        """Move the reservation to the next outpost with room.

        Raises:
            PlacementError: there is none; the reservation is released.
        """
        while True:
            reservation = ticket.next_reservation()
            if reservation is None:
                error = ticket.nobody()
                self._drop(ticket, error.message)
                raise error
            answer = self.ledger.move(ticket.id, reservation)
            if answer.outcome in (Outcome.EXISTS, Outcome.CONFLICT):
                raise ConflictError(answer.detail, mend=f"outpost show {ticket.id}")
            if answer.outcome is Outcome.RESERVED:
                ticket.reserved(reservation)
                return
            ticket.refused(reservation.outpost, answer.detail)

    def _drop(self, ticket: Ticket, why: str) -> None:
        """Give the row up: it goes, unless somebody was told that it will be finished."""
        worker = self.ledger.worker(ticket.id) if ticket.recovered else None
        if worker is None:
            self.ledger.release(ticket.id, ticket.owner)
        else:
            self._give_up(worker, State.FAILED, why)
        ticket.held = False

    async def _mark(self, outpost: str, status: WorkerStatus) -> None:
        """Record a spawn; all that become ready in one turn of the loop share one transaction."""
        self._to_mark.append((outpost, status))
        if self._marked is None:
            loop = asyncio.get_running_loop()
            self._marked = loop.create_future()
            loop.call_soon(self._flush)
        await asyncio.shield(self._marked)  # one caller's end is not the others'

    def _flush(self) -> None:
        future, items = self._marked, self._to_mark
        self._marked, self._to_mark = None, []
        assert future is not None, "scheduled together"
        try:
            self.ledger.mark_spawned(items)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            future.set_exception(error)
        else:
            future.set_result(None)

    # --- the end of a row ------------------------------------------------------------------------

    async def stop(self, worker: Worker, ask: Callable[[Worker], Awaitable[None]]) -> None:
        """Stop a worker; one whose spawn is not finished is given up, once that is proved.

        Args:
            worker: its row.
            ask: asks the outpost of a row to stop its worker.

        Raises:
            ConflictError: a living process is placing it.
            OutpostError: the outpost cannot be asked; nothing was given up.
        """
        owner = f"{me()}/{uuid.uuid4().hex[:12]}"
        claim = self.ledger.claim(worker.id, owner)
        if claim is Claim.THEIRS:
            raise ConflictError(
                f"{worker.id} is being placed by another process", mend="try again in a moment"
            )
        try:
            worker = self.ledger.worker(worker.id) or worker  # it may have been moved until now
            await ask(worker)
            if claim is Claim.MINE:
                await self._abandon(worker, owner)
        finally:
            if claim is Claim.MINE:
                self.ledger.disown(worker.id, owner)

    async def _abandon(self, worker: Worker, owner: str) -> None:
        statuses = await self.fleet.list(worker.outpost, timeout=self.answer_timeout)
        mine = [s for s in statuses if s.id == worker.id]
        if mine:
            self._record(worker.outpost, mine)
        elif self.ledger.claim(worker.id, owner) is Claim.MINE:
            self._give_up(worker, State.STOPPED, "given up before it was started")

    def forget(self, worker: Worker) -> None:
        """Give a worker up of which nobody can say anything any more."""
        message = f"given up by hand: outpost {worker.outpost} is no longer configured"
        self._end(worker, Result(state=State.LOST, reason="lost_process", message=message))

    def _give_up(self, worker: Worker, state: State, message: str) -> None:
        """End a worker that never was, so that whoever asks for it learns why."""
        result = Result(
            state=state,
            reason="never_started",
            message=message,
            cost_usd=0.0,
            agent_began=False,
        )
        self._end(worker, result)

    def _end(self, worker: Worker, result: Result) -> None:
        result = replace(result, finished_at=time.time())
        status = WorkerStatus(id=worker.id, state=result.state, digest=worker.digest, result=result)
        self._record(worker.outpost, [status])

    def _record(self, outpost: str, statuses: Sequence[WorkerStatus]) -> None:
        for changed in self.ledger.record(outpost, statuses):
            self.tell(state_event(changed, time.time()))


async def _all(finishing: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all to their ends; when one breaks or this is cancelled, none is left running."""
    tasks = [asyncio.ensure_future(one) for one in finishing]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _after(sheet: Candidate, taken: Mapping[str, tuple[int, float]]) -> Candidate:
    """Return a fact sheet as it is once others have taken their slots and money."""
    slots, usd = taken.get(sheet.name, (0, 0.0))
    if not slots:
        return sheet
    return replace(sheet, active=sheet.active + slots, spent=sheet.spent + usd)


def _conflict(order: Order) -> ConflictError:
    return ConflictError(
        f"{order.worker} exists with another order",
        mend=f"outpost show {order.worker} shows it; --again starts attempt {order.attempt + 1}",
    )
