"""A server of an outpost that records, and a peer that asks it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from stdiokit import PATIENCE, Bare, Peer, pair

from outpost_core import wire
from outpost_core.backend import Outpost
from outpost_core.types import Health, Message, Order, State, WorkerStatus
from outpost_shared.protocol import FrameError
from outpost_worker.serving.methods import Handler
from outpost_worker.serving.server import serve

HELLO = {"outpost": 1, "hello": {"nonce": "n", "name": "vm1", "options": {}}}


class Recorder(Bare):
    """Answers everything, and keeps what it was asked."""

    capabilities = frozenset({"clean", "peek", "nudge", "mail", "inbox", "secrets"})

    def __init__(self) -> None:
        super().__init__()
        self.hold = asyncio.Event()
        self.held = 0
        self.finished = 0
        self.broken_off = 0
        self.closed = False
        self.log: list[bytes] = []

    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        self.asked.append(("spawn", {"order": order}))
        return WorkerStatus(id=order.worker, state=State.WORKING, digest=wire.digest(order))

    async def outpost_ping(self) -> Health:
        return Health(ok=True, detail="fine")

    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        for piece in self.log:
            yield piece
        try:
            self.held += 1
            await self.hold.wait()
        except asyncio.CancelledError:
            self.broken_off += 1
            raise

    async def outpost_stop(self, worker: str, grace: float) -> None:
        self.held += 1
        await self.hold.wait()
        self.finished += 1

    async def outpost_peek(self, worker: str, lines: int) -> str:
        raise ValueError("a defect")

    async def outpost_mail(self, message: Message) -> None:
        self.asked.append(("mail", {"message": message}))

    async def outpost_inbox(self, identity: str) -> list[Message]:
        return []

    async def outpost_close(self) -> None:
        self.closed = True


@contextlib.asynccontextmanager
async def talking(
    outpost: Outpost, extra: Mapping[str, Handler] | None = None, **hello: Any
) -> AsyncIterator[tuple[Peer, asyncio.Task[None]]]:
    """A peer that was greeted by a server of the outpost."""
    near, far = await pair()
    peer = Peer(near)
    task = asyncio.create_task(serve(lambda *_: outpost, *far, server="s 1", extra=extra))
    await peer.say({"outpost": 1, "hello": {**HELLO["hello"], **hello}})
    greeting = await peer.heard()
    assert greeting["hello"]["nonce"] == "n"
    peer.hello = greeting["hello"]  # type: ignore[attr-defined]
    try:
        yield peer, task
    finally:
        peer.close()
        with contextlib.suppress(FrameError):
            await asyncio.wait_for(task, PATIENCE)


async def ask(peer: Peer, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
    await peer.say({"id": 1, "method": method, "params": {**(params or {})}})
    return await asyncio.wait_for(peer.heard(), PATIENCE)


async def until(true: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.002)
