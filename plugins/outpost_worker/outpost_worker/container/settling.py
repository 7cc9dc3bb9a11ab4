"""The last word on a worker whose machine is gone, said into its record by who watches.

It stands once for everybody: a machine that is not gone after all finds itself superseded, and
delivers nothing.
"""

from __future__ import annotations

import os

from outpost_core.errors import UnreachableError
from outpost_core.names import checkpoint_ref
from outpost_core.types import Order, Result
from outpost_worker.record.kinds import Claim, Found, Record, SupersededError
from outpost_worker.record.places import delivered, pushed_to
from outpost_worker.repository.mirror import asking

#: How often a record is looked at again that others change meanwhile.
_TRIES = 8
#: Seconds that a rig has to say where its refs are.
_ANSWER = 60.0


def settle(place: Record, order: Order, digest: str, result: Result) -> Found:
    """Say how a worker ended that certainly runs no more; return what stands.

    Where its branch was pushed already, that is how it ended. Blocks.

    Args:
        place: where its record is.
        order: its order.
        digest: the order's.
        result: how it ended, if nobody has said anything else.

    Raises:
        UnreachableError: the record cannot be asked.
        RecordRefusedError: its place does not take that.
    """
    rig = pushed_to(order)
    for _ in range(_TRIES):
        found = place.read(order.worker)
        if found is not None and found.result is not None:
            return found
        leg = found.claim.leg + 1 if found is not None else 1
        ours = Claim(
            worker=order.worker, digest=digest, owner=order.owner, instance=os.urandom(8).hex(),
            leg=leg,
        )  # fmt: skip
        said = result
        if found is not None and rig:
            said = delivered(found, rig) or result
        try:
            stands = place.take_over(ours, found.seen) if found else place.claim(ours)
            if stands.id == ours.id:
                place.finish(ours, said, b"")
        except SupersededError:
            continue
    raise UnreachableError(f"the record of {order.worker} changes all the time")


def checkpoint_on(rig: str, order: Order) -> str | None:
    """Return the ref with unpushed work of a worker, when a rig has it. Blocks.

    Args:
        rig: where its work is pushed to.
        order: its order.

    Raises:
        UnreachableError: the rig cannot be asked.
    """
    ref = checkpoint_ref(order.worker, order.owner)
    git = asking(rig, "")
    done = git.run("ls-remote", "--", git.url, ref, timeout=_ANSWER)
    if done.code:
        raise UnreachableError(f"the rig of {order.worker} does not answer: {done.text}")
    return ref if done.text.partition("\t")[2].strip() == ref else None
