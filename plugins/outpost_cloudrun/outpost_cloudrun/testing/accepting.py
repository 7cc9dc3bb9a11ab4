"""The end of a server of asyncio, with every connection that it has accepted.

`asyncio.Server.close` stops listening and no more. A connection that was accepted just before gets
no transport any more (`Server._attach` has an assertion against it, in Python 3.11) or one that
stays open after the loop has ended; Python complains of its socket at some later moment, in the
middle of somebody else's test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

#: Turns of a loop from a connection that is accepted to the handler that its protocol starts, and
#: from `abort` to the closed socket: asyncio needs three (`_accept_connection2`, `connection_made`,
#: the handler's task), behind TLS two more.
_TURNS: Final = 6


async def stop_listening(server: asyncio.Server) -> None:
    """Stop listening; when this returns, all that was accepted has reached its protocol."""
    loop = asyncio.get_running_loop()
    for listening in server.sockets:
        loop.remove_reader(listening.fileno())
    await _turns()
    server.close()


async def cut(transports: Iterable[asyncio.BaseTransport | None]) -> None:
    """Cut connections in the middle of whatever they are; when this returns, they are closed.

    Args:
        transports: theirs; None for one that has none yet.
    """
    for transport in list(transports):
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()
    await _turns()


async def _turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
