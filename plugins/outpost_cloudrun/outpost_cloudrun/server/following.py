"""The stream of one worker of this instance: what it says and prints, until it has ended."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from outpost_cloudrun.server.here import Here
from outpost_cloudrun.server.instance import Instance
from outpost_cloudrun.server.lines import PIECE, Numbered, pieces
from outpost_cloudrun.server.watching import Watched, Watching
from outpost_core.errors import OutpostError
from outpost_core.types import Json, State, WorkerStatus
from outpost_worker.record.segments import KeptLog, gap


class Following:
    """Follows one worker for one caller.

    Args:
        instance: whose worker.
        watching: looks at it.
        here: what is known of it beside its folder.
        numbered: the lines of the answer.
        beat: seconds of silence after which a heartbeat is sent.
    """

    def __init__(
        self, instance: Instance, watching: Watching, here: Here, numbered: Numbered, beat: float
    ) -> None:
        self._instance = instance
        self._watching = watching
        self._here = here
        self._numbered = numbered
        self._beat = beat
        self._read = max(numbered.offset - here.base, 0)  # bytes of the log here that were read
        self._rest = b""  # the beginning of a character, of which more has to come
        self._said = 0.0

    async def lines(self, status: WorkerStatus) -> AsyncGenerator[bytes, None]:
        """Yield a line for each change and each piece of the log.

        The last one has the result, or says that the worker moves to another instance. Where
        another one has it already, the lines just end.

        Args:
            status: what is known of the worker.
        """
        here = self._here
        here.followers += 1
        try:
            with self._watching.follow(status.id, status) as watched:
                async with aclosing(self._lines(watched, status)) as lines:
                    async for line in lines:
                        yield line
        finally:
            here.followers -= 1

    async def _lines(self, watched: Watched, status: WorkerStatus) -> AsyncGenerator[bytes, None]:
        here, shown, first = self._here, object(), True
        while watched.status is not None and not here.superseded:
            changes, status = watched.changes, watched.status
            ended = status.result is not None
            status = here.as_shown(status)
            if shown != (about := _shown(status)) and (status.result is None or first):
                shown = about
                more = self._claim() if first else {}
                during = status if status.result is None else _before_its_end(status)
                yield self._say(during, b"", **more)
                if first:
                    async for piece in before(self._numbered, here.base, here.kept_log()):
                        yield self._say(during, piece)
                first = False
            if ended or watched.size > self._read:
                during = status if status.result is None else _before_its_end(status)
                async with aclosing(self._log(status.id, last=ended)) as log:
                    async for piece in log:
                        yield self._say(during, piece)
            if status.result is not None:
                yield self._say(status)
                return
            if here.moved is not None:
                checkpoint, detail = here.moved or None, here.moved_detail
                said: dict[str, Json] = {"checkpoint": checkpoint, "detail": detail}
                yield self._say(status, b"", status="moving", **said, **self._claim())
                return
            await watched.change(changes, max(self._said + self._beat - time.monotonic(), 0.0))
            if watched.changes == changes and time.monotonic() >= self._said + self._beat:
                yield self._say(status, beat=True)

    def _claim(self) -> dict[str, Json]:
        known = self._here.known
        return {} if known is None else {"claim": known.claim.id, "leg": known.claim.leg}

    def _say(self, status: WorkerStatus, data: bytes = b"", /, **more: Json) -> bytes:
        self._said = time.monotonic()
        return self._numbered.line(status, data, **more)

    async def _log(self, worker: str, *, last: bool) -> AsyncGenerator[bytes, None]:
        """Yield what is new in the log, in pieces that can be text."""
        log = self._instance.outpost_logs(worker=worker, offset=self._read, follow=False)
        try:
            async with aclosing(log):  # type: ignore[type-var]
                async for data in log:
                    self._read += len(data)
                    ready, self._rest = pieces(self._rest + data, last=False)
                    for piece in ready:
                        yield piece
        except OutpostError:  # it was removed, or is broken: how the worker ends counts
            pass
        if last and self._rest:
            rest, self._rest = self._rest, b""
            yield rest


async def before(
    numbered: Numbered, until: int, kept: KeptLog | None
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a log from where a caller is up to an offset, from where they are kept.

    What is kept nowhere is shown as a gap of just as many bytes.

    Args:
        numbered: the lines that they go into.
        until: the offset of the first byte that the caller gets otherwise.
        kept: what is kept; None where nothing is.
    """
    rest = b""
    read = numbered.offset
    lost = until - read
    while read < until:
        data = b""
        if kept is not None:
            try:
                data = await asyncio.to_thread(kept.read, read, min(until - read, 1 << 20))
            except OutpostError:
                kept = None
        if not data:  # from here on
            at = lost - (until - read)
            data = gap(lost)[at:][: 16 * PIECE] if lost < (64 << 20) else b" " * (16 * PIECE)
        data = data[: until - read]
        read += len(data)
        ready, rest = pieces(rest + data, last=read >= until)
        for piece in ready:
            yield piece


def _shown(status: WorkerStatus) -> object:
    return status.state, status.detail, status.usage


def _before_its_end(status: WorkerStatus) -> WorkerStatus:
    """Return the status that goes with the rest of the log of a worker that has ended."""
    return dataclasses.replace(status, state=State.WORKING, detail="", result=None)
