"""Ways to a host's sshd: a TCP connection that tries all addresses, or a ProxyCommand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from outpost_shared import children

if TYPE_CHECKING:
    from collections.abc import Sequence

#: As `socket.getaddrinfo` tells it.
_Address: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]
#: Seconds after which the next address of a name is tried besides the ones before it.
_STAGGER: Final = 0.25
#: No more of what a ProxyCommand says is kept.
_KEPT: Final = 4096


async def dial(
    host: str, port: int, *, family: int = 0, local: tuple[str, int] | None = None
) -> socket.socket:
    """Return a connected socket; of several addresses the first that answers (RFC 8305).

    Args:
        host: a name or an address.
        port: the port.
        family: `socket.AF_INET`, `socket.AF_INET6` or 0 for both.
        local: the address and port to connect from.

    Raises:
        OSError: no address could be connected to; that of the first one.
    """
    loop = asyncio.get_running_loop()
    found = await _addresses(host, port, family)
    waiting: set[asyncio.Task[socket.socket]] = set()
    errors: list[BaseException] = []
    addresses = _mixed(found)
    try:
        while addresses or waiting:
            if addresses:
                info = addresses.pop(0)
                waiting.add(loop.create_task(_dial_one(info, local)))
            done, waiting = await asyncio.wait(
                waiting,
                timeout=_STAGGER if addresses else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            connected = [task.result() for task in done if task.exception() is None]
            for spare in connected[1:]:
                spare.close()
            if connected:
                return connected[0]
            errors += [error for task in done if (error := task.exception()) is not None]
    finally:
        for task in waiting:
            task.cancel()
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(result, socket.socket):
                result.close()
    raise errors[0]


async def _addresses(host: str, port: int, family: int) -> Sequence[_Address]:
    """Look a name up, on a thread of its own that nobody has to wait for.

    The loop's own threads are few and waited for at the end: names for which no name server
    answers would hold up other hosts, and this program's exit.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Sequence[_Address]] = loop.create_future()

    def tell(answer: Sequence[_Address] | Exception) -> None:
        if found.done():
            return
        if isinstance(answer, Exception):
            found.set_exception(answer)
        else:
            found.set_result(answer)

    def look() -> None:
        answer: Sequence[_Address] | Exception
        try:
            answer = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # the latter: a label that is empty or too long
            answer = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, answer)

    threading.Thread(target=look, name=f"look up {host}", daemon=True).start()
    return await found


async def _dial_one(info: _Address, local: tuple[str, int] | None) -> socket.socket:
    family, kind, protocol, _, address = info
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        if local is not None:
            made.bind(local)
        await asyncio.get_running_loop().sock_connect(made, address)
    except BaseException:
        made.close()
        raise
    return made


def _mixed(found: Sequence[_Address]) -> list[_Address]:
    """Return the addresses with their families in turn, the preferred family first."""
    first = [info for info in found if info[0] == found[0][0]]
    other = [info for info in found if info[0] != found[0][0]]
    return [
        info for pair in itertools.zip_longest(first, other) for info in pair if info is not None
    ]


async def speaks(made: socket.socket) -> None:
    """Wait until the other side has said something, or has closed; nothing is read."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(made, tell)
    try:
        await ready
    finally:
        loop.remove_reader(made)


class Proxy:
    """A running ProxyCommand: a process of a shell that carries the connection.

    Args:
        process: the process, in a session of its own.
        socket: this side of the connection.
    """

    def __init__(self, process: asyncio.subprocess.Process, made: socket.socket) -> None:
        self.socket = made
        self._process = process
        self._said = bytearray()
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, command: str) -> Proxy:
        """Start a ProxyCommand, as OpenSSH does: by the user's shell, which it replaces.

        Args:
            command: the text of the user's own SSH configuration, with its % expanded.
        """
        near, far = socket.socketpair()
        shell = os.environ.get("SHELL") or "/bin/sh"
        try:
            process = await asyncio.create_subprocess_exec(
                shell,
                "-c",
                f"exec {command}",
                stdin=far.fileno(),
                stdout=far.fileno(),
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except BaseException:
            near.close()
            raise
        finally:
            far.close()
        near.setblocking(False)
        return cls(process, near)

    @property
    def said(self) -> str:
        """What the command wrote to its standard error."""
        return self._said.decode("utf-8", "replace")

    async def aclose(self) -> None:
        """End the command, and wait for it."""
        try:
            await children.end(self._process)
        finally:
            self._listener.cancel()
            await asyncio.wait({self._listener})

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(_KEPT):
            self._said += chunk
            del self._said[:-_KEPT]
