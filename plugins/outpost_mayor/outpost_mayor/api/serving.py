"""The program behind the sockets of the API: uvicorn in the mayor's own event loop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from outpost_mayor.api.accepting import Guest, Porter
from outpost_mayor.api.app import create
from outpost_mayor.api.guard import Guard
from outpost_mayor.api.tokens import Tokens

if TYPE_CHECKING:
    from outpost_manager.manager import Manager
    from outpost_mayor.api.listen import Doors

#: Seconds that a connection may be idle.
_IDLE: Final = 60
#: Seconds that requests may take to end when the mayor does.
_ENDING: Final = 3


class _Server(uvicorn.Server):
    """One that leaves signals to the mayor, and accepting to a porter."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer at sockets."""
        await super().startup(sockets=[])
        self._porter = Porter(self._guest, self.server_state.connections, self.config.ssl)
        self._accepting = [asyncio.create_task(self._porter.accept(one)) for one in sockets or ()]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and let what is asked be answered."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        await self._porter.close()
        await super().shutdown(sockets=sockets)

    def _guest(self) -> Guest:
        return Guest(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signal."""
        yield


async def serve(manager: Manager, doors: Doors) -> None:
    """Answer what comes at the sockets; never ends but by being cancelled."""
    # what matters of requests is logged here; uvicorn would do so with tracebacks
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    app = create(manager, doors.ended)
    tokens = Tokens(doors.state)
    servers = [_server(Guard(app, tokens, scheme="", loopback=False), [doors.local])]
    if doors.at is not None:
        guard = Guard(app, tokens, scheme=doors.at.scheme, loopback=doors.at.loopback)
        servers.append(_server(guard, doors.remote, tls=doors.tls))
    running = [asyncio.create_task(each) for _, each in servers]
    try:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in running:
            if task.done():
                task.result()
        raise OSError("it has ended by itself")
    finally:
        doors.ended.set()
        for server, _ in servers:
            server.should_exit = True
        await asyncio.wait(running, timeout=_ENDING * 2)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _server(guard: Guard, ends: list[socket.socket], *, tls: Any = None) -> tuple[_Server, Any]:
    config = uvicorn.Config(
        guard, http=Guest, ws="none", lifespan="off", log_config=None, access_log=False,
        proxy_headers=False, server_header=False, timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=_ENDING, h11_max_incomplete_event_size=64 * 1024,
    )  # fmt: skip
    config.load()
    config.ssl = tls
    server = _Server(config)
    # each server closes what it is given: the sockets themselves stay the caller's
    return server, server.serve(sockets=[each.dup() for each in ends])
