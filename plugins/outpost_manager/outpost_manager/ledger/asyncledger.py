"""The ledger for event loops, which never wait for its file.

A statement may wait half a minute for another process, or for a slow disk. So each runs on a thread
of the ledger's own, one after the other, in the order of the asking. Where no event loop runs,
it runs at once and here: describing outposts needs neither a thread nor asyncio.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from threading import Lock
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from outpost_manager.ledger.ledger import Ledger
from outpost_manager.offloop import running_loop
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_core.errors import LedgerError
    from outpost_core.types import Event, Worker, WorkerStatus
    from outpost_manager.ledger.asyncparts import (
        AsyncFirings,
        AsyncNotices,
        AsyncOutbox,
        AsyncParking,
        AsyncQueue,
        AsyncScaling,
    )
    from outpost_manager.ledger.reserve import Answer, Reservation
    from outpost_manager.workthread import Together, WorkThread

P = ParamSpec("P")
T = TypeVar("T")
_log = Logger("ledger")

#: Seconds that closing waits for what was asked of the ledger before.
_LAST: Final = 2.0
#: Seconds that a question waits for the changes before it.
_SOON: Final = 0.1


def _awaited(
    method: Callable[Concatenate[Ledger, P], T],
) -> Callable[Concatenate[AsyncLedger, P], Coroutine[Any, Any, T]]:
    """Return a method of the ledger as one to be awaited."""

    @wraps(method)
    async def ask(ledger: AsyncLedger, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await ledger.run(method, *args, **kwargs)

    return ask


def _read(
    method: Callable[Concatenate[Ledger, P], T],
) -> Callable[Concatenate[AsyncLedger, P], Coroutine[Any, Any, T]]:
    """Return a method that changes nothing as one to be awaited."""

    @wraps(method)
    async def ask(ledger: AsyncLedger, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await ledger.read(method, *args, **kwargs)

    return ask


class AsyncLedger:
    """A ledger whose methods are awaited.

    Whoever is cancelled while he waits does not know whether it was done: before its turn it is
    dropped, and once begun it is finished.

    Args:
        open_: opens the ledger; is called once, when something is first asked of it.
    """

    def __init__(self, open_: Callable[[], Ledger]) -> None:
        self._open = open_
        self._opening = Lock()
        self._ledger: Ledger | None = None
        self._thread: WorkThread | None = None
        self._reader: WorkThread | None = None
        self._reserving: Together[Reservation, Answer] | None = None
        self._marking: Together[tuple[str, WorkerStatus], Worker | None] | None = None

    @property
    def direct(self) -> Ledger:
        """The ledger itself, whose methods wait: for threads, and where no event loop runs."""
        if self._ledger is None:
            with self._opening:
                if self._ledger is None:
                    self._ledger = self._open()
        return self._ledger

    @property
    def outbox(self) -> AsyncOutbox:
        """The mail that was written here."""
        from outpost_manager.ledger.asyncparts import AsyncOutbox

        return AsyncOutbox(self)

    @property
    def firings(self) -> AsyncFirings:
        """When each schedule fired last."""
        from outpost_manager.ledger.asyncparts import AsyncFirings

        return AsyncFirings(self)

    @property
    def notices(self) -> AsyncNotices:
        """What is to be told to people."""
        from outpost_manager.ledger.asyncparts import AsyncNotices

        return AsyncNotices(self)

    @property
    def parking(self) -> AsyncParking:
        """The accounts whose provider takes no more for a while."""
        from outpost_manager.ledger.asyncparts import AsyncParking

        return AsyncParking(self)

    @property
    def scaling(self) -> AsyncScaling:
        """What is up of outposts that are brought up and down."""
        from outpost_manager.ledger.asyncparts import AsyncScaling

        return AsyncScaling(self)

    @property
    def queue(self) -> AsyncQueue:
        """The orders that wait for a place."""
        from outpost_manager.ledger.asyncparts import AsyncQueue

        return AsyncQueue(self)

    @property
    def aside(self) -> LedgerError | None:
        """Why nothing is kept, as `Ledger.aside`; None also before it was opened."""
        return None if self._ledger is None else self._ledger.aside

    @property
    def closed(self) -> str:
        """A sentence, as `Ledger.closed`; "" also before it was opened."""
        return "" if self._ledger is None else self._ledger.closed

    async def run(
        self, work: Callable[Concatenate[Ledger, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a function with the ledger, where it may wait, and return its answer.

        Args:
            work: takes the ledger first.
            args: its further arguments.
            kwargs: its keyword arguments.

        Raises:
            Exception: whatever it raises.
        """
        if running_loop() is None:
            return work(self.direct, *args, **kwargs)
        return await self._threaded().run(lambda: work(self.direct, *args, **kwargs))

    async def read(
        self, work: Callable[Concatenate[Ledger, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do as `run` with a function that changes nothing.

        It is answered in its turn, or when a change before it waits for another process, with what
        is written down by now.
        """
        if running_loop() is None:
            return work(self.direct, *args, **kwargs)
        changing = self._threaded()
        if self._reader is None:
            from outpost_manager.workthread import WorkThread

            self._reader = WorkThread("ledger-reader")
        return await changing.run_or(
            self._reader, _SOON, lambda: work(self.direct, *args, **kwargs)
        )

    def post(
        self,
        failed: Callable[[Exception], None],
        work: Callable[Concatenate[Ledger, P], object],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Call a function with the ledger, after what was asked before, and do not wait for it.

        Args:
            failed: is told what it raises, on the ledger's thread.
            work: takes the ledger first.
            args: its further arguments.
            kwargs: its keyword arguments.
        """

        def do() -> None:
            try:
                work(self.direct, *args, **kwargs)
            except Exception as error:  # noqa: BLE001 - it is handed on
                failed(error)

        if running_loop() is None:
            do()
        else:
            self._threaded().post(do)

    async def reserve(self, items: Sequence[Reservation]) -> list[Answer]:
        """Reserve slot and cost for each; see `Ledger.reserve`.

        What several callers ask for at the same time shares one transaction, and so one wait for
        the disk.
        """
        if running_loop() is None:
            return self.direct.reserve(items)
        if self._reserving is None:
            from outpost_manager.workthread import Together

            self._reserving = Together(self._threaded(), self._reserve)
        return await self._reserving.ask([*items])

    async def mark_spawned(self, items: Sequence[tuple[str, WorkerStatus]]) -> list[Worker | None]:
        """Write down that outposts have taken their workers; see `Ledger.mark_spawned`.

        What several callers ask for at the same time shares one transaction.
        """
        if running_loop() is None:
            return self.direct.mark_spawned(items)
        if self._marking is None:
            from outpost_manager.workthread import Together

            self._marking = Together(self._threaded(), self._mark_spawned)
        import asyncio

        # whoever is cancelled knows it all the same
        return await asyncio.shield(self._marking.ask([*items]))

    def _reserve(self, items: list[Reservation]) -> list[Answer]:
        return self.direct.reserve(items)

    def _mark_spawned(self, items: list[tuple[str, WorkerStatus]]) -> list[Worker | None]:
        return self.direct.mark_spawned(items)

    def note_soon(self, event: Event) -> None:
        """Write down what changed nothing here, after what was asked before; nobody waits for it.

        Where it cannot be written, the log alone says so.
        """

        def failed(error: Exception) -> None:
            _log.warning("the event %s of %s is not kept: %s", event.kind, event.worker, error)

        self.post(failed, Ledger.note, event)

    async def identity(self) -> str:
        """Return who this ledger is; see `Ledger.id`."""
        return await self.read(lambda ledger: ledger.id)

    move = _awaited(Ledger.move)
    release = _awaited(Ledger.release)
    claim = _awaited(Ledger.claim)
    claim_ended = _awaited(Ledger.claim_ended)
    disown = _awaited(Ledger.disown)
    record = _awaited(Ledger.record)
    known = _read(Ledger.known)
    missing = _awaited(Ledger.missing)
    forget = _awaited(Ledger.forget)
    set_reachable = _awaited(Ledger.set_reachable)
    outposts = _read(Ledger.outposts)
    worker = _read(Ledger.worker)
    workers = _read(Ledger.workers)
    attempts = _read(Ledger.attempts)
    unspawned = _read(Ledger.unspawned)
    unbegun = _read(Ledger.unbegun)
    orphans = _read(Ledger.orphans)
    never_begun = _read(Ledger.never_begun)
    order = _read(Ledger.order)
    ordered = _read(Ledger.ordered)
    explanation = _read(Ledger.explanation)
    active = _read(Ledger.active)
    spent = _read(Ledger.spent)
    foresee = _read(Ledger.foresee)
    uses = _read(Ledger.uses)
    taken = _read(Ledger.taken)
    account = _read(Ledger.account)
    accounts = _read(Ledger.accounts)
    pace = _read(Ledger.pace)
    accounts_in_use = _read(Ledger.accounts_in_use)
    waiting = _read(Ledger.waiting)
    past = _read(Ledger.past)
    totals = _read(Ledger.totals)
    note = _awaited(Ledger.note)
    is_kept = _awaited(Ledger.is_kept)
    events = _read(Ledger.events)
    events_after = _read(Ledger.events_after)
    last_event = _read(Ledger.last_event)

    def close(self) -> None:
        """Let go of the file, after what was asked before; what takes long is given up."""
        thread, self._thread = self._thread, None
        reader, self._reader = self._reader, None
        self._reserving = self._marking = None
        if reader is not None:
            reader.end(_LAST)
        if thread is not None and not thread.end(_LAST) and self._ledger is not None:
            self._ledger.give_up()
        if self._ledger is not None:
            self._ledger.close()

    async def aclose(self) -> None:
        """Do the same without blocking the event loop."""
        from outpost_manager.offloop import off_loop

        if self._ledger is not None or self._thread is not None:
            await off_loop(self.close)

    def _threaded(self) -> WorkThread:
        if self._thread is None:
            from outpost_manager.workthread import WorkThread

            self._thread = WorkThread("ledger")
        return self._thread
