"""Waiting for a slot: what found everything full is tried again until it is placed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from outpost_core.errors import OutpostError
from outpost_manager.placing.ifup import comes_up
from outpost_manager.placing.pending import NotPlacedError
from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_manager.placing.pending import Spawned
    from outpost_manager.placing.placement import Placement

#: Seconds between two tries: at first, and at most.
FIRST: Final = 0.2
MOST: Final = 5.0
#: Seconds that whoever brings outposts up may take to learn which are.
LEARNS: Final = 10.0
#: What became of an order.
Answer: TypeAlias = "Spawned | OutpostError"
#: An order, and the one outpost for it or None.
Wanted: TypeAlias = "tuple[Order, str | None]"


async def mark(
    placement: Placement, wanted: Sequence[Wanted], answers: Sequence[Answer], *, unknown: bool
) -> None:
    """See which of those that were refused an outpost would take that can be brought up.

    Args:
        placement: of an open manager.
        wanted: orders, each with the one outpost for it or None.
        answers: what became of each; those refused for now are `crowded` afterwards.
        unknown: see `ifup.comes_up`.
    """
    for (order, place), answer in zip(wanted, answers, strict=True):
        if isinstance(answer, NotPlacedError) and not answer.crowded:
            answer.crowded = await comes_up(placement, order, place, unknown=unknown)


def is_crowded(answer: object) -> bool:
    """Whether an order was refused for now: an outpost would take it once there is room."""
    return isinstance(answer, NotPlacedError) and answer.crowded


async def until_room(
    placement: Placement,
    wanting: dict[object, Sequence[Wanted]],
    wanted: Sequence[Wanted],
    answers: list[Answer],
    place: Callable[[Sequence[int]], Awaitable[Sequence[Answer]]],
    *,
    waits: Callable[[Sequence[int]], None] = lambda _: None,
    within: float | None = None,
    gone: Callable[[], Awaitable[bool]] | None = None,
) -> None:
    """Try those again that found everything full, until they are placed.

    Args:
        placement: of an open manager.
        wanting: `Manager.wanting`, which says meanwhile what waits.
        wanted: orders, each with the one outpost for it or None.
        answers: what became of each at first; changed.
        place: places those of these numbers.
        waits: is told once which wait.
        within: seconds; None for as long as it takes.
        gone: whether nobody waits for it any more.
    """
    pauses, told, mine = Backoff(FIRST, MOST, within=within), False, object()
    learnt = time.monotonic() + LEARNS
    try:
        while True:
            await mark(placement, wanted, answers, unknown=time.monotonic() < learnt)
            crowded = [number for number, one in enumerate(answers) if is_crowded(one)]
            if not crowded or pauses.over or (gone is not None and await gone()):
                return
            if not told:
                told = True
                waits(crowded)
            wanting[mine] = [wanted[number] for number in crowded]
            await pauses.wait()
            for number, one in zip(crowded, await place(crowded), strict=True):
                answers[number] = one
                if not isinstance(one, OutpostError):
                    pauses.reset()
    finally:
        wanting.pop(mine, None)
