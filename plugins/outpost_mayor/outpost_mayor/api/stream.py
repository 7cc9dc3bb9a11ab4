"""Server-sent events: the event log as it grows, for as long as somebody listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from starlette.responses import StreamingResponse

from outpost_core.errors import OutpostError
from outpost_manager import jsonviews
from outpost_mayor.api.guard import failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi import Request
    from starlette.types import Receive, Scope, Send

    from outpost_core.types import Event
    from outpost_manager.manager import Manager

EVENT_STREAM: Final = "text/event-stream"
#: Seconds after which something is sent where nothing happens, so that both ends know of a cut.
HEARTBEAT: Final = 15.0
#: What comes when nothing comes.
_OVER: Final = object()
T = TypeVar("T")
#: Streams at once.
_MOST: Final = 100


class CrowdedError(OutpostError):
    """So many listen that one more would slow the others down."""

    exit_code = 3


class Streaming(StreamingResponse):
    """A stream that lets go of what it comes from, however little of it was sent.

    Args:
        pieces: what is sent.
        over: lets go.
        more: of the answer.
    """

    def __init__(
        self,
        pieces: AsyncIterator[str] | AsyncIterator[bytes],
        over: Callable[[], Awaitable[object]],
        **more: Any,
    ) -> None:
        super().__init__(pieces, **more)
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._over()


class _Listening(StreamingResponse):
    """A stream of events: one of so many that there may be at once, from its first byte on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, or say that too many listen."""
        state = scope["app"].state
        if state.streams >= _MOST:
            error = CrowdedError(f"{_MOST} listen already", hint="try again later, or ask by pages")
            await failure(error, 503)(scope, receive, send)
            return
        state.streams += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            state.streams -= 1


async def stream(
    request: Request, manager: Manager, after: int | None, of: str | None
) -> StreamingResponse:
    """Return events as they happen.

    Args:
        request: who asks.
        manager: an open one.
        after: id of the last event that he knows; None for what happens from now on.
        of: only those of this worker.
    """
    ended = request.app.state.ended
    begin = await manager.ledger.last_event() if after is None else after

    async def lines() -> AsyncIterator[str]:
        # whoever is cut before the first event knows where to go on
        yield f"id: {begin}\nretry: 2000\n: the log\n\n"
        async with aclosing(_until(ended, manager, begin, of)) as found:
            async for event in found:
                yield ": alive\n\n" if event is None else _line(event)

    return _Listening(
        lines(), media_type=EVENT_STREAM,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )  # fmt: skip


async def _until(
    ended: asyncio.Event, manager: Manager, after: int, of: str | None
) -> AsyncGenerator[Event | None]:
    """Yield events until the mayor ends, None where nothing has happened for a while."""
    ending = asyncio.ensure_future(ended.wait())
    found: asyncio.Queue[Event] = asyncio.Queue(100)
    reading = asyncio.ensure_future(_read(manager, after, of, found))
    getting = asyncio.ensure_future(found.get())
    try:
        while True:
            done, _ = await asyncio.wait(
                {ending, reading, getting}, timeout=HEARTBEAT, return_when=asyncio.FIRST_COMPLETED
            )
            if getting in done:
                yield getting.result()
                getting = asyncio.ensure_future(found.get())
            elif not done:
                yield None
            else:  # it ends, or the log cannot be read: whoever listens comes again
                return
    finally:
        for task in (ending, reading, getting):
            task.cancel()
        await asyncio.gather(ending, reading, getting, return_exceptions=True)


async def _read(manager: Manager, after: int, of: str | None, to: asyncio.Queue[Event]) -> None:
    async with aclosing(manager.events(after)) as events:
        async for event in events:
            if of in (None, event.worker):
                await to.put(event)


def _line(event: Event) -> str:
    shape = json.dumps(jsonviews.event(event))
    return f"id: {event.id}\nevent: {_word(event.kind)}\ndata: {shape}\n\n"


def _word(kind: str) -> str:
    """Return a kind without what would end its line."""
    return "".join(each for each in kind if each.isprintable())


async def until_ended(ended: asyncio.Event, found: AsyncIterator[T]) -> AsyncGenerator[T]:
    """Yield what comes until the mayor ends.

    Raises:
        ConnectionAbortedError: it ends before all has come, so that whoever listens knows of it.
    """
    ending = asyncio.ensure_future(ended.wait())
    try:
        while True:
            coming = asyncio.ensure_future(anext(found, _OVER))
            try:
                await asyncio.wait({ending, coming}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    raise ConnectionAbortedError("the mayor ends")
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)
            one = coming.result()
            if one is _OVER:
                return
            yield cast("T", one)
    finally:
        ending.cancel()
