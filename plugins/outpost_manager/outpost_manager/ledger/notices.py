"""What observers are told of outposts and workers, besides the ledger's own record."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from outpost_core.types import Event, Worker

if TYPE_CHECKING:
    from outpost_manager.ledger import AsyncLedger, Ledger


Tell: TypeAlias = Callable[[Event], None]


def note_answer(
    ledger: Ledger, outpost: str, *, trouble: str | None, at: float, remark: str = ""
) -> Event | None:
    """Write down whether an outpost answered; return what is to be told when that is news.

    Args:
        ledger: the record.
        outpost: its name.
        trouble: why it did not answer; None when it did.
        at: when it was asked.
        remark: what there is to say of one that did answer.

    Returns:
        `reachable` or `unreachable`; None when it is as it was.
    """
    if not ledger.set_reachable(outpost, trouble is None, trouble or remark, at):
        return None
    kind = "reachable" if trouble is None else "unreachable"
    return Event(kind=kind, at=at, outpost=outpost, data={"detail": trouble or ""})


async def heard(
    ledger: AsyncLedger, tell: Tell, outpost: str, *, trouble: str | None, at: float
) -> bool:
    """Write down whether an outpost answered, and tell when that is not as it was.

    Args:
        ledger: the record.
        tell: is told `reachable` or `unreachable`.
        outpost: its name.
        trouble: why it did not answer; None when it did.
        at: when it was asked.

    Returns:
        whether it is not as it was.
    """
    event = await ledger.run(note_answer, outpost, trouble=trouble, at=at)
    if event is not None:
        tell(event)
    return event is not None


def state_event(worker: Worker, at: float) -> Event:
    """Return the event of a worker whose state has changed."""
    data = {"state": worker.state.value, "detail": worker.detail}
    if worker.result is not None:
        data["reason"] = worker.result.reason
    return Event(kind="state", at=at, worker=worker.id, outpost=worker.outpost, data={**data})
