"""A container, or whatever answers at its address, that says what a test makes it say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import h2.exceptions
from h2peer import Call, H2Peer, h2peer

Part = Callable[["Hostile", Call, dict[str, Any]], Awaitable[None]]


class Hostile:
    """Runs on a thread of its own, so that tests may block.

    Attributes:
        work: answers `POST /work`; may be changed at any time.
        other: answers everything else, by method and path without query.
        asked: method and path of what came, with the body that was read.
    """

    def __init__(self, work: Part) -> None:
        self.work = work
        self.other: dict[str, Part] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[Mapping[str, str]] = []
        self.peer: H2Peer | None = None

    @property
    def url(self) -> str:
        assert self.peer is not None
        return self.peer.url

    async def take(self, call: Call) -> None:
        await call.complete.wait()
        path = call.path.partition("?")[0]
        name = f"{call.headers[':method']} {path}"
        body = json.loads(call.body or b"{}")
        self.asked.append((name, body))
        self.headers.append(call.headers)
        if name == "POST /work":
            await self.work(self, call, body)
        elif part := self.other.get(name):
            await part(self, call, body)
        else:
            call.answer(404, end=True)

    def count(self, name: str) -> int:
        return sum(asked == name for asked, _ in self.asked)


@contextlib.contextmanager
def hostile(work: Part) -> Iterator[Hostile]:
    """A server that runs within the block."""
    one = Hostile(work)
    ready, over = threading.Event(), threading.Event()
    trouble: list[BaseException] = []

    async def serve() -> None:
        async with h2peer(one.take, streams=100, window=1 << 20) as peer:
            one.peer = peer
            ready.set()
            while not over.is_set():
                await asyncio.sleep(0.05)
            late = (h2.exceptions.StreamClosedError, asyncio.CancelledError)  # it had hung up
            trouble.extend(error for error in peer.errors if not isinstance(error, late))

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(20)
    try:
        yield one
    finally:
        over.set()
        thread.join(20)
    assert not trouble, trouble


def line(body: dict[str, Any], **said: Any) -> bytes:
    """A right line about the order in `body`, with `said` on top."""
    told = {
        "seq": 1,
        "status": "working",
        "branch": None,
        "logs": "",
        "pr_url": None,
        "worker": "w",
        "instance": "ab" * 8,
        "digest": body.get("digest", ""),
        "offset": 0,
        "detail": "",
        **said,
    }
    return json.dumps(told).encode() + b"\n"


def ended(**result: Any) -> dict[str, Any]:
    """The last line's words of a worker that ended well."""
    state = result.get("state", "done")
    return {"status": state, "result": {"state": state, "reason": "ok", **result}}


def begin(call: Call, *headers: tuple[str, str]) -> None:
    call.answer(200, ("content-type", "application/x-ndjson"), *headers)


async def tell(call: Call, *lines: bytes) -> None:
    begin(call)
    for one in lines:
        await call.send(one)


async def honest(_: Hostile, call: Call, body: dict[str, Any]) -> None:
    """A worker that says a word and is done."""
    offset = body["offset"]
    logs = "hello\n"[offset:]
    await tell(call, line(body, logs=logs, offset=offset), line(body, seq=2, **ended()))
    call.end()
