"""The stream of a worker that another instance has, or had: what its record says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from outpost_cloudrun.server.following import before
from outpost_cloudrun.server.lines import Numbered, pieces
from outpost_cloudrun.server.places import Place
from outpost_core.errors import OutpostError
from outpost_core.types import Json, Result, State, WorkerStatus
from outpost_worker.record.kinds import Found


async def lines(
    place: Place, found: Found, numbered: Numbered, beat: float, look: float
) -> AsyncGenerator[bytes, None]:
    """Yield who has the worker, each sign of life of it, and in the end its result.

    Args:
        place: where its record is.
        found: what that says now.
        numbered: the lines of the answer.
        beat: seconds of silence after which a heartbeat is sent.
        look: seconds between two looks.
    """
    said, shown, trouble = 0.0, "", ""
    while found.result is None:
        silent = time.monotonic() >= said + beat
        if found.seen != shown or silent:
            status = WorkerStatus(
                id=found.claim.worker,
                state=State.WORKING,
                digest=found.claim.digest,
                detail="another instance has it" + (f"; {trouble}" if trouble else ""),
            )
            yield numbered.line(
                status,
                b"",
                claimed_by=found.claim.instance,
                claim=found.claim.id,
                leg=found.claim.leg,
                seen=found.seen,
                **_beat(silent=found.seen == shown),
            )
            shown, said = found.seen, time.monotonic()
        await asyncio.sleep(look)
        try:
            now = await asyncio.to_thread(place.record.read, found.claim.worker)
        except OutpostError as error:
            trouble = f"its record cannot be read: {error.message}"[:300]
            continue
        trouble = ""
        if now is None:  # somebody has removed it
            return
        found = now
    async for line in ended(place, found, found.result, numbered):
        yield line


async def ended(
    place: Place, found: Found, result: Result, numbered: Numbered
) -> AsyncGenerator[bytes, None]:
    """Yield the rest of the log of a worker that has ended, as far as it is kept, and its result.

    Args:
        place: where its record is.
        found: what that says.
        result: how it ended.
        numbered: the lines of the answer.
    """
    claim = found.claim
    running = WorkerStatus(id=claim.worker, state=State.WORKING, digest=claim.digest)
    size = max(result.log_bytes or 0, 0)
    kept = place.log(claim.worker, claim.owner)
    tail = size - len(found.tail)
    if numbered.offset < (size if kept else tail):
        async for piece in before(numbered, size if kept else tail, kept):
            yield numbered.line(running, piece)
    at = numbered.offset - tail
    if 0 <= at < len(found.tail) and found.tail:
        for piece in pieces(found.tail[at:], last=True)[0]:
            yield numbered.line(running, piece)
    status = WorkerStatus(
        id=claim.worker,
        state=result.state,
        digest=claim.digest,
        detail=result.reason,
        started_at=result.started_at,
        updated_at=result.finished_at,
        result=result,
        fence=result.fence,
    )
    yield numbered.line(status, claim=claim.id, leg=claim.leg)


def _beat(*, silent: bool) -> dict[str, Json]:
    return {"beat": True} if silent else {}
