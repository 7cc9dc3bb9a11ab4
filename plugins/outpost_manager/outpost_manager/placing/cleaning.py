"""Removing the files of many ended workers, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError, UnreachableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from outpost_core.types import Cleaned, Worker

#: So many workers of one outpost are cleaned at once: each rescue runs a few programs there.
SIDE_BY_SIDE: Final = 8


async def clean_many(
    workers: Sequence[Worker], clean: Callable[[Worker], Awaitable[Cleaned]]
) -> dict[str, Cleaned | OutpostError]:
    """Clean workers, some of each outpost at a time; one that fails does not hinder the others.

    Once an outpost could not be reached, the rest of its workers have the same answer: a frozen
    host is waited for once, not once for each of them.

    Args:
        workers: as the ledger has them.
        clean: cleans one.

    Returns:
        the answer or the error of each, by id, in the order of `workers`.
    """
    import asyncio

    places = {worker.outpost: asyncio.Semaphore(SIDE_BY_SIDE) for worker in workers}
    gone: dict[str, UnreachableError] = {}

    async def one(worker: Worker) -> Cleaned | OutpostError:
        async with places[worker.outpost]:
            if worker.outpost in gone:
                return gone[worker.outpost]
            try:
                return await clean(worker)
            except UnreachableError as error:
                gone[worker.outpost] = error
                return error
            except OutpostError as error:
                return error

    answers = await asyncio.gather(*(one(worker) for worker in workers))
    return {worker.id: answer for worker, answer in zip(workers, answers, strict=True)}


def not_ended(worker: Worker) -> UsageError:
    """Return the error about a worker that cannot be cleaned since it runs."""
    return UsageError(
        f"{worker.id} has not ended ({worker.state.value})", hint=f"outpost stop {worker.id} first"
    )
