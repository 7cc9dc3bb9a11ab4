"""Whether any of some workers can be heard, by the streams that follow them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

from outpost_cloudrun.keeper.stream import Stream
from outpost_cloudrun.keeper.workerrecord import WorkerRecord

#: Turns of the loop in which what has come in already gets from the connection to its stream.
_TURNS: Final = 20
#: Seconds for which it is waited until a try to hear a worker has ended.
_TRIED: Final = 3.0


async def why_unheard(streams: Mapping[str, Stream], running: Sequence[WorkerRecord]) -> str:
    """Return why none of some workers can be heard; "" when one can, or nobody tries to.

    Args:
        streams: by worker, the streams that are followed.
        running: the workers.
    """
    for _ in range(_TURNS):  # the end of a line that has come in already is seen first
        await asyncio.sleep(0)
    followed = [streams[one.worker] for one in running if one.worker in streams]
    if any(stream.attached for stream in followed) or not followed:
        return ""
    first = followed[0]
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(first.tried.wait(), _TRIED)
    heard = any(stream.attached or not stream.trouble for stream in followed)
    return "" if heard else first.trouble
