"""The connections of one event loop: shared by destination, and bounded together.

Imports nothing heavy, so that an outpost can be built without it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from outpost_ssh.connection.clientconfig import Destination
    from outpost_ssh.connection.hostconnection import HostConnection


class ConnectionPool:
    """All connections of one event loop."""

    def __init__(self) -> None:
        from outpost_ssh.connection.login import Gates

        self.gates = Gates()
        self._connections: dict[Destination, HostConnection] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def hold(self, destination: Destination) -> HostConnection:
        """Return the connection to a destination, to be given back by `release`."""
        from outpost_ssh.connection.hostconnection import HostConnection

        connection = self._connections.get(destination)
        if connection is None:
            connection = self._connections[destination] = HostConnection(destination, self)
        connection.users += 1
        return connection

    async def release(self, connection: HostConnection) -> None:
        """Give a connection back; the last one who does ends its connection."""
        connection.users -= 1
        if connection.users == 0:
            if self._connections.get(connection.destination) is connection:
                del self._connections[connection.destination]
            await connection.aclose()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something in the background, and keep hold of it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


_pools: dict[asyncio.AbstractEventLoop, ConnectionPool] = {}


def pool() -> ConnectionPool:
    """Return the pool of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _pools:
        for other in [other for other in _pools if other.is_closed()]:
            del _pools[other]
        _pools[loop] = ConnectionPool()
    return _pools[loop]
