"""The program behind the sockets of the API: uvicorn in the mayor's own event loop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from outpost_mayor.api.app import create
from outpost_mayor.api.guard import Guard
from outpost_mayor.api.tokens import Tokens
from outpost_shared import keeping
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_manager.manager import Manager
    from outpost_mayor.api.listen import Doors

#: Connections at once, and seconds that one may be idle.
_CONNECTIONS: Final = 512
_IDLE: Final = 60
#: Seconds that a request may take to be sent, but for its body.
_FIRST: Final = 30.0
#: Seconds that requests may take to end when the mayor does.
_ENDING: Final = 3
_log = Logger("api")


class _Protocol(H11Protocol):
    """HTTP/1.1, with who is at the other end, and without those who connect and say nothing."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "peer": _peer(transport)}
        self._late = self.loop.call_later(_FIRST, self._give_up)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # each request has its time, not only the first: a part of one ends what keeps idle
        # connections from staying
        if self._answering():
            self._in_time()
        elif self._late is None:
            self._late = self.loop.call_later(_FIRST, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def _answering(self) -> bool:
        return bool(self.cycle) and not self.cycle.response_complete

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if not self._answering():  # no request was whole by now
            self.transport.close()


def _peer(transport: asyncio.Transport) -> int | None:
    """Return the user at the other end of a private socket; None of any other connection."""
    end = transport.get_extra_info("socket")
    if end.family != socket.AF_UNIX:
        return None
    try:
        return keeping.peer(end)
    except OSError:
        return None


class _Server(uvicorn.Server):
    """One that leaves signals to the mayor."""

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
        guard, http=_Protocol, ws="none", lifespan="off", log_config=None, access_log=False,
        proxy_headers=False, server_header=False, limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_IDLE, timeout_graceful_shutdown=_ENDING,
        h11_max_incomplete_event_size=64 * 1024,
    )  # fmt: skip
    config.load()
    config.ssl = tls
    server = _Server(config)
    # each server closes what it is given: the sockets themselves stay the caller's
    return server, server.serve(sockets=[each.dup() for each in ends])
