"""A TCP relay that is as bad a line as a test wants: slow, narrow, cut, held, or half closed.

It runs in a thread of its own, so that code under test and test may block as they like; every
method may be called from any thread.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

from outpost_cloudrun.testing.accepting import cut, stop_listening

T = TypeVar("T")

Way = Literal["up", "down"]
"""Of the data: `up` from who connects to the server, `down` from the server."""

_CHUNK = 1 << 16


@dataclass(eq=False)
class _Line:
    """One connection through the relay."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    passed: dict[Way, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    frozen: bool = False

    def abort(self) -> None:
        for writer in (self.near, self.far):
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # a reset, not an orderly end
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Relay:
    """Passes connections on to a server.

    Args:
        host: address of the server.
        port: port of the server.
        latency: seconds that each byte is under way, in each direction.
        rate: bytes a second in each direction; None for as fast as it goes.

    Attributes:
        host: the address that the relay listens on.
        port: the port that it listens on.
        cut_after: by way, the bytes after which each connection is cut. Change it at any time.
        lines: how many connections there have been.
    """

    def __init__(
        self, host: str, port: int, *, latency: float = 0.0, rate: float | None = None
    ) -> None:
        self._target = (host, port)
        self.latency = latency
        self.rate = rate
        self.cut_after: dict[Way, int | None] = {"up": None, "down": None}
        self.lines = 0
        self.host = "127.0.0.1"
        self.port = 0
        self._accepting = True
        self._passed: dict[Way, int] = {"up": 0, "down": 0}
        self._open: set[_Line] = set()
        self._transports: list[asyncio.BaseTransport] = []
        self._gates: dict[Way, asyncio.Event] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def passed(self, way: Way) -> int:
        """Return the bytes that have gone through one way, over all connections."""
        return self._passed[way]

    def cut(self) -> int:
        """Cut all connections; new ones are taken. Returns how many there were."""
        return self._do(self._cut())

    def refuse(self, on: bool = True) -> None:
        """Reset each new connection at once, as a server with too many of them does."""
        self._accepting = not on

    def hold(self, *ways: Way) -> None:
        """Let nothing through any more, without a word to either side: a half-open line."""
        self._do(self._gate(ways or ("up", "down"), False))

    def release(self, *ways: Way) -> None:
        """Undo `hold`; what was held arrives."""
        self._do(self._gate(ways or ("up", "down"), True))

    def freeze(self) -> None:
        """Let nothing through on the connections that there are, for ever; new ones are fine."""
        self._do(self._freeze())

    def half_close(self, way: Way) -> None:
        """End one direction of all connections in an orderly way; the other keeps going."""
        self._do(self._half_close(way))

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _listen(self) -> None:
        for way in self._passed:
            self._gates[way] = asyncio.Event()
            self._gates[way].set()
        self._server = await asyncio.start_server(self._take, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        await stop_listening(self._server)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await cut(self._transports)

    async def _cut(self) -> int:
        count = len(self._open)
        for line in self._open:
            line.abort()
        self._open.clear()
        return count

    async def _gate(self, ways: tuple[Way, ...], open_: bool) -> None:
        for way in ways:
            self._gates[way].set() if open_ else self._gates[way].clear()

    async def _freeze(self) -> None:
        for line in self._open:
            line.frozen = True

    async def _half_close(self, way: Way) -> None:
        for line in self._open:
            writer = line.far if way == "up" else line.near
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()

    async def _take(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        self._transports.append(near.transport)
        if not self._accepting:
            _Line(near, near).abort()
            return
        try:
            far_reader, far = await asyncio.open_connection(*self._target)
        except OSError:
            _Line(near, near).abort()
            return
        self._transports.append(far.transport)
        line = _Line(near, far)
        self._open.add(line)
        self.lines += 1
        try:
            await asyncio.gather(
                self._pass(line, "up", reader, far), self._pass(line, "down", far_reader, near)
            )
        finally:
            self._open.discard(line)
            line.near.close()
            line.far.close()

    async def _pass(
        self, line: _Line, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        arriving = asyncio.create_task(self._deliver(line, way, queue, writer))
        try:
            while not arriving.done():
                data = await reader.read(_CHUNK)
                await queue.put((self._loop.time() + self.latency, data))
                if not data:
                    break
            await arriving
        except (OSError, RuntimeError):  # the other side is gone
            line.abort()
        finally:
            arriving.cancel()

    async def _deliver(
        self,
        line: _Line,
        way: Way,
        queue: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
    ) -> None:
        while True:
            due, data = await queue.get()
            if (pause := due - self._loop.time()) > 0:
                await asyncio.sleep(pause)
            await self._gates[way].wait()
            if line.frozen:
                await asyncio.Event().wait()  # until it is cut
            if not data:
                writer.write_eof()
                return
            limit = self.cut_after[way]
            room = len(data) if limit is None else max(limit - line.passed[way], 0)
            line.passed[way] += len(data[:room])
            self._passed[way] += len(data[:room])
            writer.write(data[:room])
            await writer.drain()
            if room < len(data):
                # What was let through must arrive before the reset overtakes it.
                await asyncio.sleep(0.05)
                line.abort()
                return
            if self.rate:
                await asyncio.sleep(len(data) / self.rate)


@contextlib.contextmanager
def relay(
    host: str, port: int, *, latency: float = 0.0, rate: float | None = None
) -> Iterator[Relay]:
    """A relay that runs within the `with` block. For the arguments see `Relay`."""
    with Relay(host, port, latency=latency, rate=rate) as made:
        yield made
