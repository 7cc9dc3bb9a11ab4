"""Ends a worker that is there for longer than anybody has reserved money for.

It ends itself at its time limit; this is for a container that does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from outpost_cloudrun import price
from outpost_cloudrun.keeper import steady
from outpost_core.errors import OutpostError, SpawnRefusedError
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_cloudrun.keeper.workerrecord import WorkerRecord
    from outpost_cloudrun.options import CloudRunOptions

_log = Logger("cloudrun.overdue")

#: Seconds before nobody pays any more, in which a container has to end a worker that is over its
#: time.
LET_GO: Final = 60.0
#: Seconds between two looks at the clock.
_LOOK: Final = 60.0


async def end_overdue(
    record: WorkerRecord,
    options: CloudRunOptions,
    begun: float | None,
    stop: Callable[[WorkerRecord, float], Awaitable[None]],
    let_go: Callable[[], Awaitable[None]],
) -> None:
    """Wait until a worker is over its time, and end it.

    Args:
        record: what is known of it.
        options: the outpost's.
        begun: since when it is paid for, as of `steady.now`; None for now.
        stop: asks for its end.
        let_go: ends it here, whatever its container does.
    """
    try:
        limit = price.longest(options, record.order)
    except SpawnRefusedError:  # the options were others when it was taken
        return
    now = steady.now()
    since = now if begun is None else min(begun, now)  # the clock may have been set back
    while True:
        left = limit - LET_GO - (steady.now() - since)
        if left <= 0:
            break
        await asyncio.sleep(min(left, _LOOK))  # which stands still while the machine is suspended
    _log.warning("%s is over its time", record.worker)
    end = time.monotonic() + LET_GO
    with suppress(OutpostError, TimeoutError):
        async with asyncio.timeout(LET_GO):
            await stop(record, 0.0)
    await asyncio.sleep(max(end - time.monotonic(), 0.0))
    await let_go()


async def until_result(record: WorkerRecord, *works: Coroutine[Any, Any, None]) -> None:
    """Do some things at once until a worker has its result, or one of them fails.

    Args:
        record: what is known of it.
        works: what is done; what is left is cancelled at the end.

    Raises:
        Exception: what one of them has raised.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        while record.result is None and tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            tasks = [task for task in tasks if task not in done]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
