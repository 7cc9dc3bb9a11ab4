"""The other half of an outpost object: one that serves, and one that plays what a test wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from stdiokit import Bare, Peer, order, pair, start

from outpost_core import wire
from outpost_core.backend import BuildContext, OutpostOptions
from outpost_core.errors import NotFoundError, OutpostError, UnreachableError
from outpost_core.types import Health, Json, Message, Order, State, WorkerStatus
from outpost_exec.stdio.client import Client
from outpost_exec.stdio.remote import StdioOutpost

REQUIRED = ["spawn", "list", "ping", "logs", "stop", "bye"]


class Inner(Bare):
    """What is served: logs from a text, spawns that are counted."""

    capabilities = frozenset({"secrets", "nudge", "mail"})

    def __init__(self) -> None:
        super().__init__()
        self.text = b""
        self.over = False
        self.spawned = 0

    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        self.spawned += 1
        return WorkerStatus(id=order.worker, state=State.WORKING, digest=wire.digest(order))

    async def outpost_ping(self) -> Health:
        return Health(ok=True)

    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        if worker != "gt-1.1":
            raise NotFoundError(f"no {worker}")
        while True:
            over = self.over
            if piece := self.text[offset : offset + 5000]:
                offset += len(piece)
                yield piece
            elif over or not follow:
                return
            else:
                await asyncio.sleep(0.001)

    async def outpost_nudge(self, worker: str, text: str) -> None:
        self.asked.append(("nudge", {"text": text}))

    async def outpost_mail(self, message: Message) -> None:
        self.asked.append(("mail", {"message": message}))


async def read(outpost: StdioOutpost, offset: int = 0, follow: bool = False) -> bytes:
    stream = outpost.outpost_logs(worker="gt-1.1", offset=offset, follow=follow)
    async with aclosing(stream):
        return b"".join([piece async for piece in stream])


class Scripted(StdioOutpost):
    """Each connection is played by the next of a list of coroutines."""

    type = "scripted"
    capabilities = frozenset({"nudge", "mail", "attach", "peek", "clean"})

    def __init__(self, *plays: Any, **hello: Any) -> None:
        super().__init__("vm1", OutpostOptions(), BuildContext(state_dir=Path("/nonexistent")))
        self.plays = [*plays]
        self.hello = {"methods": [*REQUIRED, "nudge", "mail", "viewer", "peek"]} | hello
        self.peers: list[Peer] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.given: list[str] = []

    async def connect(self) -> Client:
        if not self.plays:
            raise UnreachableError("vm1 is off", sent=False)
        near, far = await pair()
        peer = Peer(far)
        self.peers.append(peer)

        async def play(script: Any) -> None:
            await peer.greet(**self.hello)
            await script(peer)

        self.tasks.append(asyncio.create_task(play(self.plays.pop(0))))
        return await start(near)

    def given_up(self, client: Client, why: str) -> None:
        self.given.append(why)
        super().given_up(client, why)

    async def end(self) -> None:
        await self.outpost_close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for peer in self.peers:
            peer.close()


async def breaks(peer: Peer) -> None:
    await peer.heard()
    peer.close()


def answers(result: Json) -> Any:
    async def play(peer: Peer) -> None:
        async for asked in peer.requests():
            if asked.get("method") != "bye":
                await peer.say({"id": asked["id"], "result": result})

    return play


def fails(**error: Any) -> Any:
    async def play(peer: Peer) -> None:
        async for asked in peer.requests():
            if asked.get("method") != "bye":
                await peer.say({"id": asked["id"], "error": error})

    return play


async def silence(peer: Peer) -> None:
    async for _ in peer.requests():
        pass


def raised(call: str, *plays: Any, hello: dict[str, Any] | None = None, **args: Any) -> Any:
    """What a hook raises with these plays."""

    async def run() -> OutpostError:
        outpost = Scripted(*plays, **(hello or {}))
        try:
            with pytest.raises(OutpostError) as caught:
                await getattr(outpost, call)(**args)
            assert not outpost.plays, "not all were tried"
            return caught.value
        finally:
            await outpost.end()

    return asyncio.run(run())


STATUS: Json = {"id": "gt-1.1", "state": "working", "digest": wire.digest(order())}
