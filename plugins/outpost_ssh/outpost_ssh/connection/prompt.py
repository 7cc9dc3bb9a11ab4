"""Acknowledging what sshd says at once, while its answer to the first session depends on it.

After a login sshd sends two small packets in a row: its other host keys, and the answer to our
session. By Nagle's rule it keeps the second until the first is acknowledged; by the delay of
acknowledgements that takes our kernel 40 ms, a third of a whole connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncssh

#: Seconds between two looks; the kernel forgets the wish after a few packets.
_EVERY: Final = 0.002
#: Looks, until a slow host is no longer waited for in this way.
_MOST: Final = 250


@contextlib.asynccontextmanager
async def prompt(connection: asyncssh.SSHClientConnection) -> AsyncIterator[None]:
    """Acknowledge at once what comes over a connection within the block, where that is possible."""
    task = asyncio.ensure_future(_acknowledge(connection.get_extra_info("socket")))
    try:
        yield
    finally:
        task.cancel()


async def _acknowledge(sock: object) -> None:
    option = getattr(socket, "TCP_QUICKACK", None)  # Linux
    change = getattr(sock, "setsockopt", None)
    if option is None or change is None:  # through another host, or a command
        return
    with contextlib.suppress(OSError):  # not TCP, or closed
        for _ in range(_MOST):
            change(socket.IPPROTO_TCP, option, 1)
            await asyncio.sleep(_EVERY)
