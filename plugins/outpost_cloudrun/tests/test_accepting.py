"""Servers in the tests' own process leave no connection open when they end."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from h2peer import h2peer
from peers.relay import relay
from test_h2_proxy import connect_proxy, echo

from outpost_cloudrun.testing.exchanges import Reply, Request, answer
from outpost_cloudrun.testing.httpd import Server


@asynccontextmanager
async def emulated() -> AsyncIterator[Server]:
    async def well(_: Request, reply: Reply) -> None:
        await answer(reply, 200, b"")

    server = Server(well)
    await server.open()
    yield server
    await server.close()


@pytest.fixture
def complaints(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Python says of things that were forgotten; anything here fails a later test."""
    said: list[str] = []
    gc.collect()
    monkeypatch.setattr(sys, "unraisablehook", lambda found: said.append(str(found.exc_value)))
    return said


@pytest.mark.parametrize(
    "serving",
    [emulated, lambda: h2peer(echo), lambda: connect_proxy(1)],
    ids=["emulated", "h2", "proxy"],
)
def test_a_server_that_ends_closes_also_what_was_just_accepted(
    serving: Callable[[], AbstractAsyncContextManager[Any]], complaints: list[str]
) -> None:
    async def whole(turns: int) -> list[socket.socket]:
        async with serving() as server:
            callers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            return callers

    for turns in range(8):
        for caller in asyncio.run(whole(turns)):
            caller.close()
    gc.collect()
    assert not complaints


def test_so_does_the_relay(complaints: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as far:
        for _ in range(30):
            with relay("127.0.0.1", far.getsockname()[1]) as line:
                line.cut()
                callers = [socket.create_connection((line.host, line.port)) for _ in range(5)]
            for caller in callers:
                caller.close()
    gc.collect()
    assert not complaints
