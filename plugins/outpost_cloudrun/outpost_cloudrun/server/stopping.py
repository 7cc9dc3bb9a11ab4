"""A stop of a worker that is not in this container: word of it is left in its record.

Where nothing stands there yet, the request that is to start it may still be on its way, to this
container or another one. So its place is taken: the worker has ended before it began, and whoever
comes to claim it finds that.
"""

from __future__ import annotations

from typing import Final

from outpost_core import wire
from outpost_core.errors import NotFoundError
from outpost_core.types import Order, Result, State
from outpost_worker.record.kinds import Claim, Record, RecordRefusedError

#: How a worker has ended whose end was wanted before anything of it was there.
NEVER_BEGAN: Final = Result(
    state=State.STOPPED,
    reason="stopped",
    message="it was stopped before it was started",
    agent_began=False,
)


def leave_word(record: Record, order: Order, instance: str, grace: float) -> None:
    """See to it that a worker ends, or never begins.

    Args:
        record: the records of its owner.
        order: its order.
        instance: the id of this container.
        grace: seconds between TERM and KILL.

    Raises:
        NotFoundError: nobody has it, and nobody can claim it either.
        UnreachableError: its record cannot be asked.
    """
    found = record.read(order.worker)
    if found is None:
        claim = Claim(
            worker=order.worker, digest=wire.digest(order), owner=order.owner, instance=instance
        )
        try:
            stands = record.claim(claim)
        except RecordRefusedError as error:
            raise NotFoundError(
                f"{order.worker} is not here, and no record of it is known: {error.message}",
                hint=error.hint,
            ) from error
        if stands.id == claim.id:
            record.finish(claim, NEVER_BEGAN, b"")
            return
    elif found.result is not None:
        return
    record.ask_stop(order.worker, grace)
