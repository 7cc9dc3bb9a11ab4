"""Placing orders: choose, reserve, spawn, record (law 4), and finish what a crash interrupted.

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
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from outpost_core import faults, policy, wire
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
from outpost_core.fleet import NotBuiltError, check_status
from outpost_core.ledger import Claim, Outcome, Reservation
from outpost_core.ticket import Spawned, Tell, Ticket
from outpost_core.types import (
    Candidate,
    Order,
    Result,
    Secrets,
    State,
    Worker,
    WorkerStatus,
)
from outpost_core.worker.identity import me

if TYPE_CHECKING:
    from outpost_core.fleet import Fleet
    from outpost_core.ledger import Ledger
    from outpost_core.overview import Overview
    from outpost_core.policy import Assignment

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

    # --- choosing -----------------------------------------------------------------------------

    def assign(self, order: Order, candidates: Sequence[Candidate], on: str | None) -> Assignment:
        """Ask the policy, or take the one outpost that the user named; hard limits hold always.

        Raises:
            PluginError: a policy plugin failed or named an unknown outpost.
        """
        if on is not None:
            return policy.normalise([on], order, candidates, rule=f"asked for: --on {on}")
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

    def _choose(self, tickets: Sequence[Ticket]) -> None:
        """Let the policy rank the outposts for each ticket; a failure is that ticket's error."""
        now = time.time()
        for ticket, sheets in zip(
            tickets, self.overview.sheets([t.order for t in tickets], now), strict=True
        ):
            try:
                ticket.chosen(self.assign(ticket.order, sheets, ticket.on), sheets)
            except OutpostError as error:
                ticket.error = error

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
            self._reserve_new(tickets)
            faults.point("manager.reserved")
            return list(await asyncio.gather(*(self._finish(t) for t in tickets)))
        finally:
            # Whatever came between, no row is left in the name of a living process.
            for ticket in tickets:
                self._let_go(ticket)

    def _reserve_new(self, tickets: list[Ticket]) -> None:
        known = {w.id: w for w in self.ledger.workers(ids=[t.id for t in tickets])}
        new = []
        for ticket in tickets:
            worker = known.get(ticket.id)
            if worker is None:
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
            with suppress(LedgerError):  # then this process's end frees it
                self.ledger.disown(ticket.id, ticket.owner)

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
                return await self._take_over(ticket, worker)
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"another process is still placing {ticket.id}",
                    mend=f"outpost show {ticket.id}",
                )
            await asyncio.sleep(WATCH_EVERY)

    async def _take_over(self, ticket: Ticket, worker: Worker) -> Spawned:
        """Finish the spawn of a dead process, first where it was."""
        self._choose([ticket])
        if ticket.error is not None:
            raise ticket.error
        ticket.outpost, ticket.doubt = worker.outpost, True
        ticket.queue = [name for name in ticket.queue if name != worker.outpost]
        return await self._start(ticket)

    async def _start(self, ticket: Ticket) -> Spawned:
        """Spawn at the reserved outpost; when it proves that nothing runs there, at the next."""
        while True:
            try:
                status = await self._spawn_at(ticket)
            except (ConflictError, UsageError, UnsupportedError) as error:
                self._drop(ticket, error.message)
                raise
            except SpawnRefusedError as error:
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
            return Spawned(worker=worker, adopted=False, explanation=ticket.explanation)

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
            return check_status(ticket.outpost, status, ticket.id, ticket.digest)
        except (ConflictError, UsageError, UnsupportedError, SpawnRefusedError):
            raise
        except OutpostError as error:
            if isinstance(error, UnreachableError):
                self.ledger.set_reachable(ticket.outpost, False, error.message, time.time())
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
        """Return the worker when its outpost shows it with this very order."""
        try:
            statuses = await self.fleet.list(ticket.outpost, timeout=self.answer_timeout)
        except OutpostError:
            return None
        for status in statuses:
            if status.id == ticket.id and status.digest in ("", ticket.digest):
                return status
        return None

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

    # --- after a crash --------------------------------------------------------------------------

    async def recover(self, reachable: Iterable[str], environ: Mapping[str, str]) -> None:
        """Finish every spawn whose process died, first at the outpost where it was reserved.

        What takes longer than an answer may is left to the next time.

        Args:
            reachable: outposts that have just answered.
            environ: where the values of the order's secrets come from; without them a row is
                left for somebody who has them.
        """
        names = set(reachable)
        rows = [w for w in self.ledger.unspawned(0.0) if w.outpost in names]
        if not rows:
            return
        tasks = [asyncio.ensure_future(self._recover_one(row, environ)) for row in rows]
        try:
            await asyncio.wait(tasks, timeout=self.answer_timeout)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _recover_one(self, worker: Worker, environ: Mapping[str, str]) -> None:
        ticket = None
        try:
            order = self.ledger.order(worker.id)
            if order is None or any(name not in environ for name in order.secrets):
                return
            secrets = Secrets({name: environ[name] for name in order.secrets})
            ticket = Ticket(
                order=replace(order, secrets=secrets),
                digest=worker.digest,
                tell=self.tell,
                recovered=True,
            )
            if self.ledger.claim(worker.id, ticket.owner) is not Claim.MINE:
                return
            ticket.held = True
            await self._take_over(ticket, worker)
        except OutpostError as error:
            if ticket is not None:
                ticket.say("unfinished", worker.outpost, reason=error.message)
        finally:
            if ticket is not None:
                self._let_go(ticket)

    # --- the end of a row ------------------------------------------------------------------------

    async def stop(self, worker: Worker, ask: Callable[[], Awaitable[None]]) -> None:
        """Stop a worker; one whose spawn is not finished is given up, once that is proved.

        Args:
            worker: its row.
            ask: asks its outpost to stop it.

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
            await ask()
            if claim is Claim.MINE:
                await self._abandon(worker, owner)
        finally:
            if claim is Claim.MINE:
                self.ledger.disown(worker.id, owner)

    async def _abandon(self, worker: Worker, owner: str) -> None:
        statuses = await self.fleet.list(worker.outpost, timeout=self.answer_timeout)
        mine = [s for s in statuses if s.id == worker.id]
        if mine:
            self.ledger.record(worker.outpost, mine)
        elif self.ledger.claim(worker.id, owner) is Claim.MINE:
            self._give_up(worker, State.STOPPED, "given up before it was started")

    def forget(self, worker: Worker) -> None:
        """Give a worker up of which nobody can say anything any more."""
        message = f"given up by hand: outpost {worker.outpost} is no longer configured"
        self._end(worker, Result(state=State.LOST, reason="lost_process", message=message))

    def _give_up(self, worker: Worker, state: State, message: str) -> None:
        """End a worker that never was, so that whoever asks for it learns why."""
        result = Result(state=state, reason="never_started", message=message, cost_usd=0.0)
        self._end(worker, result)

    def _end(self, worker: Worker, result: Result) -> None:
        result = replace(result, finished_at=time.time())
        status = WorkerStatus(id=worker.id, state=result.state, digest=worker.digest, result=result)
        self.ledger.record(worker.outpost, [status])


def _conflict(order: Order) -> ConflictError:
    return ConflictError(
        f"{order.worker} exists with another order",
        mend=f"outpost show {order.worker} shows it; --again starts attempt {order.attempt + 1}",
    )
