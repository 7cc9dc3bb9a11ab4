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
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from outpost_core import wire
from outpost_core.errors import (
    ConflictError,
    OutpostError,
    PlacementError,
    SpawnRefusedError,
    UnreachableError,
    UnsupportedError,
    UsageError,
)
from outpost_core.isolation import contained, describe
from outpost_core.types import (
    Candidate,
    Event,
    Explanation,
    Order,
    Result,
    State,
    Worker,
    WorkerStatus,
)
from outpost_manager.config import policy
from outpost_manager.fleet.fleet import NotBuiltError
from outpost_manager.ledger import Claim, Ledger, Outcome, Reservation
from outpost_manager.ledger.breakers import ACCOUNT, OUTPOST
from outpost_manager.offloop import Breather
from outpost_manager.placing.pending import (
    ASKED_FOR,
    PendingOrder,
    Progress,
    Spawned,
    Turn,
    WithdrawnError,
)
from outpost_manager.plugins.masking import masked
from outpost_shared import border, faults
from outpost_shared.backoff import every
from outpost_shared.identity import me
from outpost_shared.log import Logger
from outpost_shared.progress import reporting

if TYPE_CHECKING:
    from outpost_core.discovery import Plugins
    from outpost_manager.config.policy import Ranking
    from outpost_manager.fleet.fleet import Fleet
    from outpost_manager.fleet.overview import Overview
    from outpost_manager.ledger import AsyncLedger
    from outpost_manager.placing.purse import Purse

T = TypeVar("T")
_log = Logger("placing")

#: How often the row of an order that another process is spawning is looked at, in seconds.
WATCH_EVERY = 0.05
#: Orders of the queue that may be on their way to one outpost at once.
UNDER_WAY: Final = 128


@dataclass(kw_only=True, eq=False)
class Placement:
    """Places orders on a fleet.

    Args:
        fleet: the outposts.
        overview: what the policy is shown of them.
        ledger: the record.
        purse: what the configuration says of money and accounts.
        spawn_timeout: seconds that one outpost may take to spawn.
        answer_timeout: seconds that one outpost may take to list.
    """

    fleet: Fleet
    overview: Overview
    ledger: AsyncLedger
    purse: Purse
    spawn_timeout: float
    answer_timeout: float
    #: (worker, owner) of rows that could not be left to whoever comes when it was time
    _owed: list[tuple[str, str]] = field(default_factory=list)
    #: orders of the queue that have a slot, and are being handed to its outpost
    _going: set[PendingOrder] = field(default_factory=set)

    # --- choosing -----------------------------------------------------------------------------

    def assign(
        self, order: Order, candidates: Sequence[Candidate], on: str | None, rule: str = ""
    ) -> Ranking:
        """Ask the policies, or take the one outpost there is for it; hard limits hold always.

        A policy that fails is passed over, and the assignment says so. The default one comes last.

        Args:
            order: what is to be done.
            candidates: the fact sheets of the outposts.
            on: the one outpost, or None.
            rule: why there is one; "" when the user has named it.
        """
        if on is not None:
            return policy.normalise([on], order, candidates, rule=rule or ASKED_FOR + on)
        plugins, notes = self.fleet.plugins, unloaded(self.fleet.plugins)

        def failed(plugin: str, error: Exception) -> None:
            said = masked(describe(error), order.secrets)
            notes.append(f"the policy of {plugins.who(plugin)} failed and was passed over: {said}")

        hook, secrets = "outpost_assign", order.secrets
        found: Ranking | None = None
        for plugin, answer in plugins.answers(
            hook, failed, secrets=secrets, order=order, candidates=candidates
        ):
            rule = f"policy of {plugins.who(plugin)}"
            try:
                with contained(None):
                    found = policy.normalise(answer, order, candidates, rule=rule)
                break
            except Exception as error:  # noqa: BLE001 - an answer is a plugin's own object
                plugins.blame(plugin, hook, error, secrets)
                failed(plugin, error)
        found = found or policy.normalise(None, order, candidates)
        found.notes = tuple(notes)
        return found

    async def foreseen(
        self,
        order: Order,
        said: Explanation,
        sheets: Sequence[Candidate],
        *,
        if_up: bool = False,
        machines: Mapping[str, float] = MappingProxyType({}),
    ) -> Explanation:
        """Return an explanation that also says where money, accounts or breakers are in the way.

        Args:
            order: what is to be done.
            said: what the policy says of it.
            sheets: what it saw.
            if_up: whether outposts that are down count as up.
            machines: USD an hour of those that would have to be started, by outpost.
        """
        pending = PendingOrder(order=order, digest=wire.digest(order))
        pending.candidates = {sheet.name: sheet for sheet in sheets}
        pending.queue = [one.outpost for one in said.verdicts if one.eligible]
        asked: list[Reservation] = []
        while (found := self._next(pending)) is not None:
            machine = machines.get(found.outpost, 0.0)
            asked.append(replace(found, if_up=if_up, machine=machine))
        answers = await self.ledger.foresee(asked)
        why = {
            one.outpost: answer.detail
            for one, answer in zip(asked, answers, strict=True)
            if answer.outcome is not Outcome.RESERVED
        }
        first = next((one.account for one in answers if one.account), "")
        if first not in ("", order.agent.name):
            said = replace(said, notes=(*said.notes, f"its agent would use the account {first}"))
        if not why:
            return said
        fit = [one for one in said.verdicts if one.eligible and one.outpost not in why]
        ranked = [replace(one, rank=rank) for rank, one in enumerate(fit, 1)]
        refused = [
            replace(one, rank=None, eligible=False, reason=why[one.outpost])
            for one in said.verdicts
            if one.eligible and one.outpost in why
        ]
        passed = [one for one in said.verdicts if not one.eligible]
        return replace(said, verdicts=(*ranked, *refused, *passed))

    async def _choose(self, pendings: Sequence[PendingOrder]) -> None:
        """Let the policy rank the outposts for each pending; a failure is that pending's error.

        Each pending sees the slots and the money that those before it will take, so that a crowd
        spreads at once instead of being sent on from one full outpost to the next.
        """
        now = time.time()
        told = await self.overview.sheets([pending.order for pending in pendings], now)
        taken: dict[str, tuple[int, float]] = {}
        last: dict[str, tuple[int, float]] = {}
        of: tuple[Candidate, ...] | None = None
        sheets: tuple[Candidate, ...] = ()
        breather = Breather()
        for pending, fresh in zip(pendings, told, strict=True):
            await breather.breathe()
            if fresh is not of:
                of, sheets = fresh, tuple(_after(sheet, taken) for sheet in fresh)
            elif last:
                sheets = tuple(_after(sheet, last) for sheet in sheets)
            last = {}
            try:
                turn = pending.turn
                seen = _without(sheets, turn.avoid) if turn.avoid else sheets
                pending.chosen(self.assign(pending.order, seen, pending.on, turn.rule), seen)
            except OutpostError as error:
                pending.error = error
                continue
            if len(pendings) > 1 and pending.queue:
                best = pending.queue[0]
                slots, usd = taken.get(best, (0, 0.0))
                taken[best] = (slots + 1, usd + pending.candidates[best].cost)
                last = {best: (1, pending.candidates[best].cost)}

    # --- reserving ------------------------------------------------------------------------------

    async def _reserve(self, pendings: list[PendingOrder]) -> None:
        """Reserve at each pending's best outpost that has room, all in as few writes as can be."""
        left = pendings
        while left:
            asked: list[tuple[PendingOrder, Reservation]] = []
            going = Counter(one.outpost for one in self._going)
            for pending in left:
                reservation = self._next(pending, going if pending.turn.entry else None)
                if reservation is None:
                    pending.error = pending.nobody()
                else:
                    asked.append((pending, reservation))
            held = [pending.held for pending, _ in asked]
            for pending, _ in asked:  # whoever is cancelled now may have the row
                pending.held = True
            answers = await self.ledger.reserve([reservation for _, reservation in asked])
            for (pending, _), before in zip(asked, held, strict=True):
                pending.held = before
            left = []
            for (pending, reservation), answer in zip(asked, answers, strict=True):
                _log.debug(
                    "%s at %s: %s", pending.id, reservation.outpost, answer.detail or answer.outcome
                )
                if answer.outcome is Outcome.RESERVED:
                    pending.reserved(reservation, answer.account)
                    if pending.turn.entry:
                        self._going.add(pending)
                elif answer.outcome is Outcome.EXISTS:
                    pending.adopted = answer.worker
                elif answer.outcome is Outcome.CONFLICT:
                    pending.error = _conflict(pending.order)
                elif answer.outcome is Outcome.WITHDRAWN:
                    pending.error = WithdrawnError(answer.detail)
                else:
                    pending.refused(reservation.outpost, answer.detail, answer.until)
                    pending.crowded = True
                    left.append(pending)

    def _next(self, pending: PendingOrder, going: Counter[str] | None = None) -> Reservation | None:
        """Return the reservation at a pending's next outpost; None when there is no more.

        Args:
            pending: the order.
            going: how many of the queue are on their way to each outpost, with those that this
                was asked for; None where nobody counts.
        """
        while (found := pending.next_reservation()) is not None:
            if going is not None and going[found.outpost] >= UNDER_WAY:
                # one that takes long to start workers gathers no more, and holds up nobody
                pending.refused(found.outpost, f"{UNDER_WAY} orders are on their way there")
                pending.crowded = True
                continue
            try:
                found = replace(found, standing=self.overview.standing(found.outpost))
                reservation = self.purse.held_to(found, pending.turn.account)
            except OutpostError as error:  # it is gone, or cannot say what it costs
                pending.refused(found.outpost, error.message)
            else:
                if going is not None:
                    going[found.outpost] += 1
                return reservation
        return None

    # --- the whole way --------------------------------------------------------------------------

    async def spawn_many(
        self,
        orders: Sequence[Order],
        *,
        on: str | None,
        progress: Progress | None = None,
        turns: Mapping[str, Turn] = MappingProxyType({}),
    ) -> list[Spawned | OutpostError]:
        """Place several orders; each gets its own answer, in the same order.

        Args:
            orders: what is to be done.
            on: the one outpost to use, or None to let the policy choose.
            progress: is told each step of these orders.
            turns: worker → what the queue says of it; of others nothing.

        Raises:
            LedgerError: the ledger cannot be used; nothing was started that is not recorded.
        """
        pendings = [
            PendingOrder(
                order=order,
                digest=wire.digest(order),
                progress=progress,
                on=on,
                turn=turns.get(order.worker, Turn()),
            )
            for order in orders
        ]
        try:
            await self._renew(pendings)
            await self._reserve_new(pendings)
            faults.point("manager.reserved")
            return await _all([self._finish(pending) for pending in pendings])
        finally:
            # Whatever came between, no row is left in the name of a living process.
            for pending in pendings:
                self._let_go(pending)

    async def _renew(self, pendings: list[PendingOrder]) -> None:
        """Make room for another try of those that failed before their agent began."""
        if unbegun := await self.ledger.unbegun([pending.id for pending in pendings]):
            from outpost_manager.placing.renewal import Renewal

            renewal = Renewal(fleet=self.fleet, ledger=self.ledger, patience=self.spawn_timeout)
            await _all([renewal.make_room(t) for t in pendings if t.id in unbegun])

    async def _reserve_new(self, pendings: list[PendingOrder]) -> None:
        known = {w.id: w for w in await self.ledger.workers(ids=[t.id for t in pendings])}
        new = []
        for pending in pendings:
            worker = known.get(pending.id)
            if worker is None or pending.renews is not None:
                new.append(pending)
            elif worker.digest != pending.digest:
                pending.error = _conflict(pending.order)
            else:
                pending.adopted = worker
        for pending in new:
            if lacking := self.purse.lacks(pending.order):
                pending.error = UsageError(
                    f"{pending.id} was ordered without the secrets of its agent's accounts:"
                    f" {lacking}",
                    hint="order it anew; accounts of outposts.yaml name what an order takes along",
                )
        new = [pending for pending in new if pending.error is None]
        if new:
            await self._choose(new)
            await self._reserve([pending for pending in new if pending.error is None])

    async def _finish(self, pending: PendingOrder) -> Spawned | OutpostError:
        try:
            if pending.error is not None:
                return pending.error
            if pending.adopted is not None:
                return await self._adopt(pending)
            return await self._start(pending)
        except OutpostError as error:
            return error
        finally:
            self._let_go(pending)

    def _let_go(self, pending: PendingOrder) -> None:
        """Leave an unfinished row to whoever comes."""
        self._going.discard(pending)
        if pending.held:
            pending.held = False
            self._disown(pending.id, pending.owner)

    def _disown(self, worker: str, owner: str) -> None:
        """Leave a row to whoever comes, after all that was asked of the ledger until now.

        Nobody waits for it, so that it is done for those too who are cancelled.
        """

        def failed(_: Exception) -> None:
            self._owed.append((worker, owner))

        self.ledger.post(failed, Ledger.disown, worker, owner)

    async def pay(self) -> None:
        """Leave those rows to whoever comes that could not be left when it was time.

        Raises:
            LedgerError: it still cannot be written.
        """
        while self._owed:
            await self.ledger.disown(*self._owed[-1])
            self._owed.pop()

    async def _adopt(self, pending: PendingOrder) -> Spawned:
        """The row is there: return its worker, or finish its spawn when its owner is dead."""
        async for _ in every(WATCH_EVERY, within=self.spawn_timeout).rounds():
            pending.held = True  # whoever is cancelled now may have it
            claim = await self.ledger.claim(pending.id, pending.owner)
            pending.held = claim is Claim.MINE
            worker = await self.ledger.worker(pending.id)
            if worker is None or claim is Claim.GONE:
                raise PlacementError(
                    f"{pending.id} was given up by the process that was placing it",
                    hint="spawn it again",
                )
            if worker.digest != pending.digest:
                raise _conflict(pending.order)
            if claim is Claim.SPAWNED:
                explanation = await self.ledger.explanation(pending.id)
                explanation = explanation or pending.explanation
                return Spawned(worker=worker, adopted=True, explanation=explanation)
            if claim is Claim.MINE:
                return await self._take_over(pending)
        raise UnreachableError(
            f"another process is still placing {pending.id}", hint=f"outpost show {pending.id}"
        )

    async def finish_orphan(self, pending: PendingOrder) -> None:
        """Finish the spawn of a dead process, unless another one is at it.

        Raises:
            OutpostError: it is not finished, or nobody takes it.
        """
        pending.held = True  # whoever is cancelled now may have it
        try:
            claim = await self.ledger.claim(pending.id, pending.owner)
            pending.held = claim is Claim.MINE
            if pending.held:
                await self._take_over(pending)
        finally:
            self._let_go(pending)

    async def _take_over(self, pending: PendingOrder) -> Spawned:
        """Finish the spawn of a dead process, whose row is claimed, where it was."""
        worker = await self.ledger.worker(pending.id)
        assert worker is not None, "a claimed row stays"
        # read after the claim: the dead one may have moved it until then
        pending.outpost, pending.doubt = worker.outpost, True
        pending.account = await self.ledger.account(pending.id)
        explanation = await self.ledger.explanation(pending.id)
        pending.explanation = explanation or pending.explanation
        return await self._start(pending)

    async def _choose_anew(self, pending: PendingOrder) -> None:
        """Let the policy say where an order may go that was taken over and refused there."""
        await self._choose([pending])
        if pending.error is not None:
            raise pending.error
        pending.queue = [name for name in pending.queue if name != pending.outpost]

    async def _start(self, pending: PendingOrder) -> Spawned:
        """Spawn at the reserved outpost; when it proves that nothing runs there, at the next."""
        while True:
            try:
                with reporting(lambda text: pending.say("sending", pending.outpost, detail=text)):
                    status = await self._spawn_at(pending)
            except (ConflictError, UsageError, UnsupportedError) as error:
                await self._drop(pending, error.message)
                raise
            except SpawnRefusedError as error:
                if pending.doubt:
                    await self._choose_anew(pending)
                _log.info("%s did not take %s: %s", pending.outpost, pending.id, error.message)
                pending.refused(pending.outpost, error.message)
                self.ledger.note_soon(
                    Event(
                        kind="refused",
                        at=time.time(),
                        worker=pending.id,
                        outpost=pending.outpost,
                        data={"reason": error.message},
                    )
                )
                await self._move(pending)
                continue
            faults.point("manager.spawned")
            # one transaction with all that are ready at the same time
            (worker,) = await self.ledger.mark_spawned([(pending.outpost, status)])
            pending.held = False
            faults.point("manager.recorded")
            _log.info("%s is %s at %s", pending.id, status.state.value, pending.outpost)
            pending.say("spawned", pending.outpost, state=status.state.value)
            assert worker is not None, "a spawned row stays"
            return Spawned(
                worker=worker,
                adopted=False,
                explanation=pending.explanation,
                renews=pending.renews,
            )

    async def _spawn_at(self, pending: PendingOrder) -> WorkerStatus:
        """Ask one outpost to spawn; when its answer is a riddle, ask what it has.

        Raises:
            ConflictError, UsageError, UnsupportedError: it will never take this order.
            SpawnRefusedError: it is proved that nothing runs there.
            UnreachableError: there is doubt.
        """
        pending.say("starting", pending.outpost)
        order = await self._equipped(pending)
        try:
            status = await self.fleet.ask(
                pending.outpost, "outpost_spawn", timeout=self.spawn_timeout, order=order
            )
            with self.fleet.blaming(pending.outpost, "outpost_spawn"):
                return border.spawned(pending.outpost, status, pending.id, pending.digest)
        except (ConflictError, SpawnRefusedError):
            raise
        except OutpostError as error:
            if isinstance(error, UsageError | UnsupportedError):
                if not pending.doubt or await self._lacks(pending):
                    raise
            elif isinstance(error, UnreachableError):
                await self.ledger.set_reachable(pending.outpost, False, error.message, time.time())
            never_left = isinstance(error, NotBuiltError) or not getattr(error, "sent", True)
            found = None if never_left else await self._look(pending)
            if found is not None:
                return found
            self._count_failure(OUTPOST, pending.outpost, error, pending.id)
            if never_left and not pending.doubt:
                raise SpawnRefusedError(error.message, hint=error.hint) from error
            raise UnreachableError(
                f"{error.message}; whether {pending.id} runs at {pending.outpost} is not known, so"
                " it is started nowhere else",
                hint=f"outpost workers asks again and finishes it; outpost stop {pending.id} gives"
                " it up",
            ) from error

    async def _equipped(self, pending: PendingOrder) -> Order:
        """Return the order with the values of its account's secrets.

        Raises:
            SpawnRefusedError: they cannot be had, and nobody was asked to start it.
            UnreachableError: they cannot be had, and somebody may have started it before.
        """
        try:
            return self.purse.equipped(pending.order, pending.account)
        except UsageError as error:
            self._count_failure(ACCOUNT, pending.account, error, pending.id)
            kind = UnreachableError if pending.doubt else SpawnRefusedError
            raise kind(error.message, hint=error.hint) from error

    def _count_failure(self, kind: str, name: str, error: OutpostError, worker: str) -> None:
        """Let the breaker of an outpost or account know, after what was asked before."""

        def count(ledger: Ledger) -> None:
            ledger.breakers.failed(kind, name, error.message, worker)

        def failed(trouble: Exception) -> None:
            _log.warning("the failure of %s %s is not counted: %s", kind, name, trouble)

        self.ledger.post(failed, count)

    async def _look(self, pending: PendingOrder) -> WorkerStatus | None:
        """Return the worker when its outpost shows it with this very order, and it has begun.

        One that is only queued may wait for a start that nobody will give it: the spawn is
        repeated then, not believed.
        """
        try:
            statuses = await self.fleet.list(pending.outpost, timeout=self.answer_timeout)
        except OutpostError:
            return None
        for status in statuses:
            if status.id == pending.id and status.digest in ("", pending.digest):
                return None if status.state is State.QUEUED else status
        return None

    async def _lacks(self, pending: PendingOrder) -> bool:
        """Whether the outpost itself says that it does not have the worker."""
        try:
            statuses = await self.fleet.list(pending.outpost, timeout=self.answer_timeout)
        except OutpostError:
            return False
        if self.fleet.nameless.get(pending.outpost):  # one of those may be this one
            return False
        return all(status.id != pending.id for status in statuses)

    async def _move(self, pending: PendingOrder) -> None:
        """Move the reservation to the next outpost with room.

        Raises:
            PlacementError: there is none; the reservation is released.
        """
        while True:
            reservation = self._next(pending)
            if reservation is None:
                error = pending.nobody()
                await self._drop(pending, error.message)
                raise error
            answer = await self.ledger.move(pending.id, reservation)
            if answer.outcome in (Outcome.EXISTS, Outcome.CONFLICT):
                raise ConflictError(answer.detail, hint=f"outpost show {pending.id}")
            if answer.outcome is Outcome.RESERVED:
                pending.reserved(reservation, answer.account)
                return
            pending.refused(reservation.outpost, answer.detail, answer.until)

    async def _drop(self, pending: PendingOrder, why: str) -> None:
        """Give the row up: it goes, unless somebody was told that it will be finished."""
        worker = await self.ledger.worker(pending.id) if pending.recovered else None
        if worker is None:
            await self.ledger.release(pending.id, pending.owner)
        else:
            await self._give_up(worker, State.FAILED, why)
        pending.held = False

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
        claim = None  # whoever is cancelled while he waits for it may have it
        try:
            claim = await self.ledger.claim(worker.id, owner)
            if claim is Claim.THEIRS:
                raise ConflictError(
                    f"{worker.id} is being placed by another process", hint="try again in a moment"
                )
            worker = await self.ledger.worker(worker.id) or worker  # it may have been moved
            await ask(worker)
            if claim is Claim.MINE:
                await self._abandon(worker, owner)
        finally:
            if claim in (None, Claim.MINE):
                self._disown(worker.id, owner)

    async def _abandon(self, worker: Worker, owner: str) -> None:
        statuses = await self.fleet.list(worker.outpost, timeout=self.answer_timeout)
        mine = [s for s in statuses if s.id == worker.id]
        if mine:
            await self._record(worker.outpost, mine)
        elif await self.ledger.claim(worker.id, owner) is Claim.MINE:
            await self._give_up(worker, State.STOPPED, "given up before it was started")

    async def forget(self, worker: Worker) -> None:
        """Give a worker up of which nobody can say anything any more."""
        message = f"given up by hand: outpost {worker.outpost} is no longer configured"
        await self._end(worker, Result(state=State.LOST, reason="lost_process", message=message))

    async def _give_up(self, worker: Worker, state: State, message: str) -> None:
        """End a worker that never was, so that whoever asks for it learns why."""
        result = Result(
            state=state,
            reason="never_started",
            message=message,
            cost_usd=0.0,
            agent_began=False,
        )
        await self._end(worker, result)

    async def _end(self, worker: Worker, result: Result) -> None:
        result = replace(result, finished_at=time.time())
        status = WorkerStatus(id=worker.id, state=result.state, digest=worker.digest, result=result)
        await self._record(worker.outpost, [status])

    async def _record(self, outpost: str, statuses: Sequence[WorkerStatus]) -> None:
        changed = await self.ledger.record(outpost, statuses)
        await self.overview.presence.doubt(changed)


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


def _without(sheets: tuple[Candidate, ...], outpost: str) -> tuple[Candidate, ...]:
    """Return fact sheets as an order sees them that is not to go to one of the outposts."""
    why = "the attempt before ended there, and this one is to go elsewhere"
    return tuple(
        replace(sheet, available=False, unavailable_reason=why) if sheet.name == outpost else sheet
        for sheet in sheets
    )


def _conflict(order: Order) -> ConflictError:
    return ConflictError(
        f"{order.worker} exists with another order",
        hint=f"outpost show {order.worker} shows it; --again starts attempt {order.attempt + 1}",
    )


def unloaded(plugins: Plugins) -> list[str]:
    """Say which packages could not be loaded: a policy may have been in one of them."""
    return [
        f"{report.label} has a problem, so a policy of it was not asked: {problem.reason}"
        for report in plugins.reports
        for problem in report.problems
        if problem.where in ("import", "outpost_assign") and "outpost_assign" not in report.hooks
    ]
