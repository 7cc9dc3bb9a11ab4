"""What a server answers: each method as a function of the outpost and the request's params.

Params come from another program: each is looked at before it reaches the outpost.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from outpost_core import wire
from outpost_core.errors import NotFoundError, OutpostError, UsageError
from outpost_core.types import Json, Message, WorkerStatus
from outpost_shared.protocol import text
from outpost_worker.serving.news import News
from outpost_worker.serving.request import Params, flag, mask, number, order_of, secrets_of, word

if TYPE_CHECKING:
    from outpost_core.backend import Outpost


#: Longest that a request for a log waits, in seconds.
MOST_WAIT: Final = 60.0
#: Seconds in which an outpost says whether a log that is read up to its end has ended.
_END_WAIT: Final = 0.02
#: Bytes that the frame around a result may take.
_AROUND: Final = 512
#: Lists that are being read in pages at the same time; the oldest is forgotten beyond.
_SNAPSHOTS: Final = 8
_LARGEST: Final = 2**53
#: Programs that one request may ask for.
_PROGRAMS: Final = 100


class JsonText(bytes):
    """A result that is JSON text already."""


#: A result; `data` of an object may be bytes.
Answer: TypeAlias = "Json | JsonText | Mapping[str, Json | bytes]"
Handler: TypeAlias = "Callable[[Outpost, Params], Awaitable[Answer]]"


# --- the methods ------------------------------------------------------------------------------


class Methods:
    """The methods of one outpost on one channel.

    Args:
        outpost: what is served.
        extra: further methods by name.
        max_frame: longest line that the client takes, in bytes.
        raw: how many bytes it takes behind a line.
    """

    def __init__(
        self, outpost: Any, extra: Mapping[str, Handler], max_frame: int, raw: int = 0
    ) -> None:
        self._outpost = outpost
        self._room = max_frame - _AROUND
        self._most = raw or self._room // 4 * 3  # of a log at once
        self._snapshots: OrderedDict[str, list[bytes]] = OrderedDict()
        self._last_snapshot = 0
        self._texts: dict[str, tuple[WorkerStatus, bytes]] = {}
        offered: dict[str, Callable[[Params], Awaitable[Answer]]] = {
            "spawn": self._spawn,
            "list": self._list,
            "ping": self._ping,
            "logs": self._logs,
            "stop": self._stop,
        }
        optional: dict[str, tuple[str, Callable[[Params], Awaitable[Answer]]]] = {
            "clean": ("clean", self._clean),
            "viewer": ("attach", self._viewer),
            "nudge": ("nudge", self._nudge),
            "peek": ("peek", self._peek),
            "mail": ("mail", self._mail),
            "inbox": ("inbox", self._inbox),
            "facts": ("facts", self._facts),
            "doctor": ("doctor", self._doctor),
            "changes": ("changes", self._changes),
        }
        for name, (capability, method) in optional.items():
            if capability in outpost.capabilities:
                offered[name] = method
        for name, handler in extra.items():
            offered[name] = self._bound(handler)
        self._offered = offered
        self._news = News(outpost)

    @property
    def names(self) -> list[str]:
        """The names of all methods."""
        return sorted(self._offered)

    def get(self, name: str) -> Callable[[Params], Awaitable[Answer]] | None:
        """Return a method, or None when there is none of that name."""
        return self._offered.get(name)

    def _bound(self, handler: Handler) -> Callable[[Params], Awaitable[Answer]]:
        async def call(params: Params) -> Answer:
            return await handler(self._outpost, params)

        return call

    async def _spawn(self, params: Params) -> Json:
        secrets = secrets_of(params)
        try:
            order = order_of(params, secrets)
            return wire.to_json(await self._outpost.outpost_spawn(order=order))
        except OutpostError as error:
            mask(error, secrets)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it says, it may say a secret
            trouble = OutpostError(f"{type(error).__name__}: {error}")
            mask(trouble, secrets)
            raise trouble from None

    async def _list(self, params: Params) -> JsonText:
        if params.get("after") is not None:
            return self._next_page("workers", params)
        statuses = await self._outpost.outpost_list()
        known, self._texts = self._texts, {}
        items = []
        for status in statuses:
            before = known.get(status.id)
            # most have ended, and an outpost hands out the very same object for those
            said = before[1] if before and before[0] is status else _status_text(status)
            self._texts[status.id] = (status, said)
            items.append(said)
        return self._page("", items, 0, "workers", params)

    async def _ping(self, params: Params) -> Json:  # noqa: ARG002 - all have it
        return wire.to_json(await self._outpost.outpost_ping())

    async def _logs(self, params: Params) -> Answer:
        worker = word(params, "worker")
        offset = int(number(params, "offset", _LARGEST))
        most = min(max(1, int(number(params, "max", _LARGEST, self._most))), self._most)
        wait = min(number(params, "wait", _LARGEST, 0.0), MOST_WAIT)
        data, end = b"", False
        if wait == 0:
            data, end = await self._read(worker, offset, most, follow=False, wait=math.inf)
            end = False
        if not data:
            data, end = await self._read(worker, offset, most, follow=True, wait=wait or _END_WAIT)
        return {"data": data, "end": end}

    async def _read(
        self, worker: str, offset: int, most: int, *, follow: bool, wait: float
    ) -> tuple[bytes, bool]:
        """Read a log: wait for the first bytes, then take what is there at once."""
        stream: AsyncIterator[bytes] = self._outpost.outpost_logs(
            worker=worker, offset=offset, follow=follow
        )
        pieces: list[bytes] = []
        size = 0
        async with aclosing(stream):  # type: ignore[type-var]
            while size < most:
                step = asyncio.ensure_future(_next(stream))
                try:
                    if size:
                        await asyncio.sleep(0)  # lets it run once: it is done, or has to wait
                    else:
                        await asyncio.wait({step}, timeout=None if wait == math.inf else wait)
                    if not step.done():
                        break
                    piece = step.result()
                finally:
                    if not step.done():
                        step.cancel()
                        await asyncio.wait({step})
                        _ = step.cancelled() or step.exception()  # nobody complains of it
                if piece is None:
                    return b"".join(pieces), True
                pieces.append(piece)
                size += len(piece)
        return b"".join(pieces)[:most], False

    async def _stop(self, params: Params) -> Json:
        grace = float(number(params, "grace", 1e9))
        await self._outpost.outpost_stop(worker=word(params, "worker"), grace=grace)
        return None

    async def _clean(self, params: Params) -> Json:
        worker, force = word(params, "worker"), flag(params, "force")
        return wire.to_json(await self._outpost.outpost_clean(worker=worker, force=force))

    async def _viewer(self, params: Params) -> Json:
        return {"argv": [*await self._outpost.viewer(word(params, "worker"))]}

    async def _nudge(self, params: Params) -> Json:
        worker, typed = word(params, "worker"), word(params, "text")
        await self._outpost.outpost_nudge(worker=worker, text=typed)
        return None

    async def _peek(self, params: Params) -> Json:
        worker, lines = word(params, "worker"), int(number(params, "lines", 1e6))
        shown = await self._outpost.outpost_peek(worker=worker, lines=lines)
        return {"text": shown[-(self._room // 6) :]}

    async def _mail(self, params: Params) -> Json:
        message = wire.from_json(Message, params.get("message"))
        await self._outpost.outpost_mail(message=message)
        return None

    async def _inbox(self, params: Params) -> JsonText:
        if params.get("after") is not None:
            return self._next_page("messages", params)
        messages = await self._outpost.outpost_inbox(identity=word(params, "identity", ""))
        items = [text(wire.to_json(one)) for one in messages]
        return self._page("", items, 0, "messages", params)

    async def _facts(self, params: Params) -> Json:
        programs = params.get("programs", [])
        if not isinstance(programs, list) or len(programs) > _PROGRAMS:
            raise UsageError(f"`programs` of the request is no list of at most {_PROGRAMS}")
        words = [one for one in programs if isinstance(one, str)]
        return wire.to_json(await self._outpost.outpost_facts(programs=words))

    async def _doctor(self, params: Params) -> Json:
        rig = None if params.get("rig") is None else word(params, "rig")
        findings = await self._outpost.outpost_doctor(rig=rig)
        return {"findings": [wire.to_json(finding) for finding in findings]}

    async def _changes(self, params: Params) -> Json:
        wait = min(number(params, "wait", _LARGEST, 0.0), MOST_WAIT)
        return {"now": await self._news.after(word(params, "after", ""), wait)}

    async def aclose(self) -> None:
        """Let go of what watches for this client."""
        await self._news.aclose()

    # --- pages ----------------------------------------------------------------------------------

    def _page(
        self, token: str, items: list[bytes], start: int, key: str, params: Params
    ) -> JsonText:
        """Return as many items as one line holds, and where the next page begins.

        A list that continues is kept as it was when it was asked for, so that no worker is in two
        pages or in none.
        """
        most = int(number(params, "limit", _LARGEST, _LARGEST))
        end, room = start, self._room
        while end < len(items) and end - start < max(most, 1):
            room -= len(items[end]) + 1
            if room < 0 and end > start:
                break
            end += 1
        following = b"null"
        if end < len(items):
            if not token:
                self._last_snapshot += 1
                token = str(self._last_snapshot)
            self._snapshots[token] = items
            while len(self._snapshots) > _SNAPSHOTS:
                self._snapshots.popitem(last=False)
            following = b'"%b:%d"' % (token.encode(), end)
        else:
            self._snapshots.pop(token, None)
        return JsonText(
            b'{"%b":[%b],"next":%b}' % (key.encode(), b",".join(items[start:end]), following)
        )

    def _next_page(self, key: str, params: Params) -> JsonText:
        token, _, place = word(params, "after").partition(":")
        items = self._snapshots.get(token)
        if items is None or not (place.isascii() and place.isdigit() and len(place) < 16):
            raise NotFoundError("that list is not known any more", hint="list from the start")
        return self._page(token, items, int(place), key, params)


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    """Return the next piece; None at the end (StopAsyncIteration cannot leave a task)."""
    async for piece in stream:
        return bytes(piece)
    return None


def _status_text(status: WorkerStatus) -> bytes:
    """Return a status as JSON text; keys that are null are left out."""
    return text(_lean(wire.to_json(status)))


def _lean(value: Json) -> Json:
    if not isinstance(value, dict):
        return value
    return {key: _lean(item) for key, item in value.items() if item is not None}
