"""Waiting for a slot: what found everything full is tried again until it is placed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from outpost_core.errors import OutpostError
from outpost_manager.placing.pending import NotPlacedError
from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_manager.placing.pending import Spawned

#: Seconds between two tries: at first, and at most.
FIRST: Final = 0.2
MOST: Final = 5.0
#: What became of an order.
Answer: TypeAlias = "Spawned | OutpostError"


def is_crowded(answer: object) -> bool:
    """Whether an order was refused for now: an outpost would take it once there is room."""
    return isinstance(answer, NotPlacedError) and answer.crowded


async def until_room(
    wanting: dict[object, Sequence[tuple[Order, str | None]]],
    wanted: Sequence[tuple[Order, str | None]],
    answers: list[Answer],
    place: Callable[[Sequence[int]], Awaitable[Sequence[Answer]]],
    *,
    waits: Callable[[Sequence[int]], None] = lambda _: None,
    within: float | None = None,
    gone: Callable[[], Awaitable[bool]] | None = None,
) -> None:
    """Try those again that found everything full, until they are placed.

    Args:
        wanting: `Manager.wanting`, which says meanwhile what waits.
        wanted: orders, each with the one outpost for it or None.
        answers: what became of each at first; changed.
        place: places those of these numbers.
        waits: is told once which wait.
        within: seconds; None for as long as it takes.
        gone: whether nobody waits for it any more.
    """
    pauses, told, mine = Backoff(FIRST, MOST, within=within), False, object()
    try:
        while crowded := [number for number, one in enumerate(answers) if is_crowded(one)]:
            if pauses.over or (gone is not None and await gone()):
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
