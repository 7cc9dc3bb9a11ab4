"""What observers are told of outposts and workers, besides the ledger's own record."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from outpost_core.types import Event, Worker

if TYPE_CHECKING:
    from outpost_manager.ledger import Ledger


Tell: TypeAlias = Callable[[Event], None]


def heard(
    ledger: Ledger,
    tell: Tell,
    outpost: str,
    *,
    trouble: str | None,
    at: float,
    remark: str = "",
) -> bool:
    """Write down whether an outpost answered, and tell when that is not as it was.

    Args:
        ledger: the record.
        tell: is told `reachable` or `unreachable`.
        outpost: its name.
        trouble: why it did not answer; None when it did.
        at: when it was asked.
        remark: what there is to say of one that did answer.

    Returns:
        whether it is not as it was.
    """
    changed = ledger.set_reachable(outpost, trouble is None, trouble or remark, at)
    if changed:
        kind = "reachable" if trouble is None else "unreachable"
        tell(Event(kind=kind, at=at, outpost=outpost, data={"detail": trouble or ""}))
    return changed


def state_event(worker: Worker, at: float) -> Event:
    """Return the event of a worker whose state has changed."""
    data = {"state": worker.state.value, "detail": worker.detail}
    if worker.result is not None:
        data["reason"] = worker.result.reason
    return Event(kind="state", at=at, worker=worker.id, outpost=worker.outpost, data={**data})
