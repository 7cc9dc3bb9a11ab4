"""Parts of the ledger for event loops: the outbox and the queue, with methods to be awaited."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from outpost_manager.ledger.firings import Firings
from outpost_manager.ledger.notices import Notices
from outpost_manager.ledger.outbox import Outbox
from outpost_manager.ledger.parking import Parking
from outpost_manager.ledger.queue import Queue
from outpost_manager.ledger.scaling import Scaling

if TYPE_CHECKING:
    from outpost_manager.ledger.ledger import Ledger

P = ParamSpec("P")
T = TypeVar("T")
Part = TypeVar("Part")


class Asked(Protocol):
    """A ledger that is asked on a thread of its own."""

    async def run(self, work: Callable[[Ledger], T], /) -> T:
        """Do something that may change it."""

    async def read(self, work: Callable[[Ledger], T], /) -> T:
        """Do something that changes nothing."""


class AsyncPart:
    """A part of a ledger whose methods are awaited.

    Args:
        ledger: whose it is.
    """

    def __init__(self, ledger: Asked) -> None:
        self.ledger = ledger


def awaited(
    part: Callable[[Ledger], Part], method: Callable[Concatenate[Part, P], T]
) -> Callable[Concatenate[AsyncPart, P], Coroutine[Any, Any, T]]:
    """Return a method of a part that may change something as one to be awaited."""

    @wraps(method)
    async def ask(there: AsyncPart, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await there.ledger.run(lambda ledger: method(part(ledger), *args, **kwargs))

    return ask


def read(
    part: Callable[[Ledger], Part], method: Callable[Concatenate[Part, P], T]
) -> Callable[Concatenate[AsyncPart, P], Coroutine[Any, Any, T]]:
    """Return a method of a part that changes nothing as one to be awaited."""

    @wraps(method)
    async def ask(there: AsyncPart, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await there.ledger.read(lambda ledger: method(part(ledger), *args, **kwargs))

    return ask


def _outbox(ledger: Ledger) -> Outbox:
    return ledger.outbox


def _queue(ledger: Ledger) -> Queue:
    return ledger.queue


def _firings(ledger: Ledger) -> Firings:
    return ledger.firings


def _notices(ledger: Ledger) -> Notices:
    return ledger.notices


class AsyncOutbox(AsyncPart):
    """The outbox."""

    post = awaited(_outbox, Outbox.post)
    due = read(_outbox, Outbox.due)
    claim = awaited(_outbox, Outbox.claim)
    renew = awaited(_outbox, Outbox.renew)
    delivered = awaited(_outbox, Outbox.delivered)
    failed = awaited(_outbox, Outbox.failed)
    waits = awaited(_outbox, Outbox.waits)
    let_go = awaited(_outbox, Outbox.let_go)
    letter = read(_outbox, Outbox.letter)
    letters = read(_outbox, Outbox.letters)
    drop = awaited(_outbox, Outbox.drop)


class AsyncQueue(AsyncPart):
    """The queue."""

    add = awaited(_queue, Queue.add)
    entry = read(_queue, Queue.entry)
    entries = read(_queue, Queue.entries)
    page = read(_queue, Queue.page)
    counts = read(_queue, Queue.counts)
    batches = read(_queue, Queue.batches)
    levels = read(_queue, Queue.levels)
    newest = read(_queue, Queue.newest)
    ready = read(_queue, Queue.ready)
    order = read(_queue, Queue.order)
    orders = read(_queue, Queue.orders)
    needs = read(_queue, Queue.needs)
    next = read(_queue, Queue.next)
    next_moment = read(_queue, Queue.next_moment)
    settling = read(_queue, Queue.settling)
    next_retry = read(_queue, Queue.next_retry)
    tied = read(_queue, Queue.tied)
    decisions = read(_queue, Queue.decisions)
    again = awaited(_queue, Queue.again)
    end_all = awaited(_queue, Queue.end_all)
    explain = awaited(_queue, Queue.explain)
    move = awaited(_queue, Queue.move)
    hold = awaited(_queue, Queue.hold)
    remove = awaited(_queue, Queue.remove)
    switch = read(_queue, Queue.switch)
    set_switch = awaited(_queue, Queue.set_switch)


class AsyncFirings(AsyncPart):
    """The firings of schedules."""

    last = read(_firings, Firings.last)
    begin = awaited(_firings, Firings.begin)
    fire = awaited(_firings, Firings.fire)


class AsyncNotices(AsyncPart):
    """What is to be told to people."""

    begin = awaited(_notices, Notices.begin)
    write = awaited(_notices, Notices.write)
    due = read(_notices, Notices.due)
    delivered = awaited(_notices, Notices.delivered)
    failed = awaited(_notices, Notices.failed)
    waiting = read(_notices, Notices.waiting)


def _parking(ledger: Ledger) -> Parking:
    return ledger.parking


class AsyncParking(AsyncPart):
    """The parked accounts."""

    all = read(_parking, Parking.all)
    free_at = read(_parking, Parking.free_at)
    unpark = awaited(_parking, Parking.unpark)


def _scaling(ledger: Ledger) -> Scaling:
    return ledger.scaling


class AsyncScaling(AsyncPart):
    """Outposts that are brought up and down."""

    all = read(_scaling, Scaling.all)
    seen = awaited(_scaling, Scaling.seen)
    busy = awaited(_scaling, Scaling.busy)
    begin = awaited(_scaling, Scaling.begin)
    empty = awaited(_scaling, Scaling.empty)
    done = awaited(_scaling, Scaling.done)
    refused = awaited(_scaling, Scaling.refused)
    forget = awaited(_scaling, Scaling.forget)
