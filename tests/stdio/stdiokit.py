"""Byte streams of real sockets between a client and whatever a test puts at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from outpost_core.backend import BuildContext, Outpost, OutpostOptions
from outpost_core.types import Agent, Issue, Order, WorkerStatus
from outpost_exec.stdio.client import Client
from outpost_exec.stdio.remote import StdioOutpost
from outpost_shared.protocol import FrameError
from outpost_worker.serving.methods import Handler
from outpost_worker.serving.server import serve

#: Seconds until what has to come is taken for missing; much more than a loaded machine needs.
PATIENCE = 30.0

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

HELLO: dict[str, Any] = {
    "server": "peer 1",
    "capabilities": [],
    "methods": ["spawn", "list", "ping", "logs", "stop"],
    "inflight": 4,
    "max_frame": 1 << 20,
    "time": 0,
}


async def pair() -> tuple[Stream, Stream]:
    """Two ends of one connection."""
    one, two = socket.socketpair()
    limit = 1 << 20
    return (
        await asyncio.open_connection(sock=one, limit=limit),
        await asyncio.open_connection(sock=two, limit=limit),
    )


class Peer:
    """The other end of a client, played by a test, word by word."""

    def __init__(self, stream: Stream) -> None:
        self.reader, self.writer = stream

    async def heard(self) -> dict[str, Any]:
        """The next line that is not empty, as JSON."""
        while (line := await self.reader.readuntil(b"\n")) == b"\n":
            pass
        return json.loads(line)

    async def requests(self) -> AsyncIterator[dict[str, Any]]:
        while line := await self.reader.readline():
            yield json.loads(line)

    async def say(self, frame: object) -> None:
        await self.raw(json.dumps(frame).encode() + b"\n")

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def greet(self, **changed: Any) -> dict[str, Any]:
        """Answer the client's hello; return it."""
        asked = await self.heard()
        await self.say(
            {"outpost": 1, "hello": {"nonce": asked["hello"]["nonce"], **HELLO} | changed}
        )
        return asked

    def close(self) -> None:
        self.writer.close()


async def start(near: Stream, **options: Any) -> Client:
    timeout = options.pop("timeout", PATIENCE)
    return await Client.start(
        "peer", *near, name="vm1", options=options.pop("options", {}), timeout=timeout
    )


async def connected(**changed: Any) -> tuple[Client, Peer]:
    """A client and the peer that has greeted it."""
    near, far = await pair()
    peer = Peer(far)
    client, _ = await asyncio.gather(start(near), peer.greet(**changed))
    return client, peer


class Served(StdioOutpost):
    """An outpost object whose other half is served in this same event loop."""

    type = "served"

    def __init__(self, inner: Outpost, extra: Mapping[str, Handler] | None = None) -> None:
        super().__init__("vm1", OutpostOptions(), BuildContext(state_dir=Path("/nonexistent")))
        self.inner = inner
        self.extra = extra
        self.capabilities = inner.capabilities
        self.connects = 0
        self.cut = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> Client:
        self.connects += 1
        near, far = await pair()
        self.writers.append(far[1])
        self.tasks.append(asyncio.create_task(self._serve(far)))
        return await start(near)

    async def _serve(self, far: Stream) -> None:
        with contextlib.suppress(FrameError, ConnectionError):
            await serve(lambda *_: self.inner, *far, server="served 1", extra=self.extra)

    def break_line(self) -> None:
        """End the connection under both, without a word."""
        for writer in self.writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def served(inner: Outpost, **extra: Handler) -> AsyncIterator[Served]:
    outpost = Served(inner, {name.replace("_", "-"): handler for name, handler in extra.items()})
    try:
        yield outpost
    finally:
        await outpost.outpost_close()
        await asyncio.gather(*outpost.tasks)


def order(issue: str = "gt-1", *argv: str, **fields: Any) -> Order:
    return Order(issue=Issue(id=issue), agent=Agent(argv=argv or ("true",)), **fields)


class Bare(Outpost):
    """An outpost that says what it was asked; tests override what they need."""

    type = "bare"

    def __init__(self) -> None:
        super().__init__("bare", OutpostOptions(), BuildContext(state_dir=Path("/nonexistent")))
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.statuses: list[WorkerStatus] = []

    async def outpost_list(self) -> list[WorkerStatus]:
        self.asked.append(("list", {}))
        return self.statuses
