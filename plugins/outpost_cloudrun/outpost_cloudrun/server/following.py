"""The stream of one worker of this instance: what it says and prints, until it has ended."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from outpost_cloudrun.server.instance import Instance
from outpost_cloudrun.server.lines import Numbered, pieces
from outpost_cloudrun.server.watching import Watching
from outpost_core.errors import OutpostError
from outpost_core.types import State, WorkerStatus


class Following:
    """Follows one worker for one caller.

    Args:
        instance: whose worker.
        watching: looks at it.
        numbered: the lines of the answer.
        beat: seconds of silence after which a heartbeat is sent.
    """

    def __init__(
        self, instance: Instance, watching: Watching, numbered: Numbered, beat: float
    ) -> None:
        self._instance = instance
        self._watching = watching
        self._numbered = numbered
        self._beat = beat
        self._read = numbered.offset  # bytes of the log that were read
        self._rest = b""  # the beginning of a character, of which more has to come
        self._said = 0.0

    async def lines(self, status: WorkerStatus) -> AsyncGenerator[bytes, None]:
        """Yield a line for each change and each piece of the log; the last one has the result.

        Args:
            status: what is known of the worker.
        """
        shown: object = None
        running = status
        with self._watching.follow(status.id, status) as watched:
            while watched.status is not None:
                changes, status = watched.changes, watched.status
                if status.result is None:
                    running = status
                    if shown != (about := _shown(status)):
                        shown = about
                        yield self._say(status)
                ended = status.result is not None
                if ended or watched.size > self._read:
                    during = running if running.result is None else _before_its_end(status)
                    async with aclosing(self._log(status.id, last=ended)) as log:
                        async for piece in log:
                            yield self._say(during, piece)
                if ended:
                    yield self._say(status)
                    return
                wait = self._said + self._beat - time.monotonic()
                await watched.change(changes, max(wait, 0.0))
                if watched.changes == changes and time.monotonic() >= self._said + self._beat:
                    yield self._numbered.line(status, beat=True)
                    self._said = time.monotonic()

    def _say(self, status: WorkerStatus, data: bytes = b"") -> bytes:
        self._said = time.monotonic()
        return self._numbered.line(status, data)

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


def _shown(status: WorkerStatus) -> object:
    return status.state, status.detail, status.usage


def _before_its_end(status: WorkerStatus) -> WorkerStatus:
    """Return the status that goes with the rest of the log of a worker that has ended."""
    return dataclasses.replace(status, state=State.WORKING, detail="", result=None)
