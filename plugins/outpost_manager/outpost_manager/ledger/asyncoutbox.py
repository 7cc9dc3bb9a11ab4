"""The outbox for event loops; see `asyncledger`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from outpost_manager.ledger.outbox import Outbox

if TYPE_CHECKING:
    from outpost_manager.ledger.ledger import Ledger

P = ParamSpec("P")
T = TypeVar("T")


class Asked(Protocol):
    """A ledger that is asked on a thread of its own."""

    async def run(self, work: Callable[[Ledger], T], /) -> T:
        """Do something that may change it."""

    async def read(self, work: Callable[[Ledger], T], /) -> T:
        """Do something that changes nothing."""


def _awaited(
    method: Callable[Concatenate[Outbox, P], T],
) -> Callable[Concatenate[AsyncOutbox, P], Coroutine[Any, Any, T]]:
    """Return a method of the outbox as one to be awaited."""

    @wraps(method)
    async def ask(outbox: AsyncOutbox, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await outbox.ledger.run(lambda ledger: method(ledger.outbox, *args, **kwargs))

    return ask


def _read(
    method: Callable[Concatenate[Outbox, P], T],
) -> Callable[Concatenate[AsyncOutbox, P], Coroutine[Any, Any, T]]:
    """Return a method that changes nothing as one to be awaited."""

    @wraps(method)
    async def ask(outbox: AsyncOutbox, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await outbox.ledger.read(lambda ledger: method(ledger.outbox, *args, **kwargs))

    return ask


class AsyncOutbox:
    """An outbox whose methods are awaited.

    Args:
        ledger: whose it is.
    """

    def __init__(self, ledger: Asked) -> None:
        self.ledger = ledger

    post = _awaited(Outbox.post)
    due = _read(Outbox.due)
    claim = _awaited(Outbox.claim)
    renew = _awaited(Outbox.renew)
    delivered = _awaited(Outbox.delivered)
    failed = _awaited(Outbox.failed)
    waits = _awaited(Outbox.waits)
    let_go = _awaited(Outbox.let_go)
    letter = _read(Outbox.letter)
    letters = _read(Outbox.letters)
    drop = _awaited(Outbox.drop)
