"""A plain HTTP/2 server in the test's own loop, which does what a test says, right or wrong."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from outpost_cloudrun.testing.accepting import cut, stop_listening


def looped(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in a loop of its own."""

    @functools.wraps(test)
    def run(*given: Any, **named: Any) -> None:
        async def whole() -> None:
            await test(*given, **named)

        asyncio.run(whole())

    return run


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until `condition()` is true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


Codes = h2.settings.SettingCodes


class Call:
    """One request that arrived, and the way to answer it."""

    def __init__(self, client: Client, number: int, headers: dict[str, str]) -> None:
        self.client = client
        self.number = number
        self.headers = headers
        self.body = bytearray()
        self.complete = asyncio.Event()
        self.reset = asyncio.Event()  # the caller has reset the stream
        self.reading = asyncio.Event()  # cleared: what arrives is not acknowledged
        self.reading.set()
        self.owed = 0
        self.room = asyncio.Event()

    @property
    def path(self) -> str:
        return self.headers[":path"]

    def answer(self, status: int = 200, *headers: tuple[str, str], end: bool = False) -> None:
        self.client.h2.send_headers(self.number, [(":status", str(status)), *headers], end)
        self.client.flush()

    async def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not self.reset.is_set():
            connection = self.client.h2
            try:
                window = connection.local_flow_control_window(self.number)
            except h2.exceptions.ProtocolError:
                return
            size = min(len(rest), window, connection.max_outbound_frame_size)
            if size <= 0:
                self.room.clear()
                await self.room.wait()
                continue
            connection.send_data(self.number, bytes(rest[:size]))
            rest = rest[size:]
            self.client.flush()
            await self.client.writable.wait()

    def end(self, *trailers: tuple[str, str]) -> None:
        if trailers:
            self.client.h2.send_headers(self.number, list(trailers), end_stream=True)
        else:
            self.client.h2.end_stream(self.number)
        self.client.flush()

    def refuse(self, code: int = h2.errors.ErrorCodes.REFUSED_STREAM) -> None:
        self.client.h2.reset_stream(self.number, code)
        self.client.flush()

    def read(self) -> None:
        """Read again, after `reading.clear()`."""
        self.reading.set()
        self.client.acknowledge(self, 0)


Handler = Callable[[Call], Awaitable[None]]


class Client(asyncio.Protocol):
    """One connection to the peer."""

    def __init__(self, peer: H2Peer) -> None:
        self.peer = peer
        self.calls: dict[int, Call] = {}
        self.writable = asyncio.Event()
        self.writable.set()
        self.lost = asyncio.Event()
        self.answers_pings = True
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.peer.clients.append(self)
        if self.peer.greeting is not None:
            transport.write(self.peer.greeting)
            return
        self.h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                Codes.MAX_CONCURRENT_STREAMS: self.peer.streams,
                Codes.INITIAL_WINDOW_SIZE: self.peer.window,
            },
        )
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(1 << 24)
        self.flush()

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.transport.write(data)

    def raw(self, *frames: bytes) -> None:
        self.transport.write(b"".join(frames))

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self.writable.set()
        for call in self.calls.values():
            call.reset.set()
            call.room.set()
            call.complete.set()

    def data_received(self, data: bytes) -> None:
        if self.peer.greeting is not None:
            return
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self.peer.faults.append(error)
            self.flush()
            self.transport.close()
            return
        for event in events:
            self._handle(event)
        self.flush()

    def acknowledge(self, call: Call, size: int) -> None:
        call.owed += size
        if call.reading.is_set() and call.owed:
            self.h2.acknowledge_received_data(call.owed, call.number)
            call.owed = 0
            self.flush()

    def _handle(self, event: h2.events.Event) -> None:
        number = getattr(event, "stream_id", None)
        if isinstance(event, h2.events.RequestReceived):
            call = Call(self, event.stream_id, dict(event.headers))
            self.calls[event.stream_id] = call
            self.peer.calls.append(call)
            self.peer.tasks.add(task := asyncio.ensure_future(self.peer.handler(call)))
            task.add_done_callback(self.peer.ended)
        elif isinstance(event, h2.events.DataReceived):
            call = self.calls[event.stream_id]
            call.body += event.data
            self.acknowledge(call, event.flow_controlled_length)
        elif isinstance(event, h2.events.StreamEnded):
            self.calls[event.stream_id].complete.set()
        elif isinstance(event, h2.events.StreamReset):
            self.calls[event.stream_id].reset.set()
            self.calls[event.stream_id].room.set()
            self.calls[event.stream_id].complete.set()
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            for call in self.calls.values():
                if not number or call.number == number:
                    call.room.set()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.peer.goaways.append(event)


class H2Peer:
    """See the module.

    Attributes:
        handler: what is done with each request.
        clients: the connections that there were, in their order.
        calls: the requests that there were.
        faults: what clients did wrong.
        greeting: bytes that are sent instead of everything.
    """

    def __init__(self, handler: Handler, *, streams: int = 100, window: int = 65535) -> None:
        self.handler = handler
        self.streams = streams
        self.window = window
        self.greeting: bytes | None = None
        self.clients: list[Client] = []
        self.calls: list[Call] = []
        self.faults: list[Exception] = []
        self.goaways: list[h2.events.ConnectionTerminated] = []
        self.tasks: set[asyncio.Future[None]] = set()
        self.errors: list[BaseException] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ended(self, task: asyncio.Future[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.errors.append(error)


@contextlib.asynccontextmanager
async def h2peer(
    handler: Handler, *, streams: int = 100, window: int = 65535, tls: ssl.SSLContext | None = None
) -> AsyncIterator[H2Peer]:
    """A server that runs within the block."""
    peer = H2Peer(handler, streams=streams, window=window)
    server = await asyncio.get_running_loop().create_server(
        lambda: Client(peer), "127.0.0.1", 0, ssl=tls
    )
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        await stop_listening(server)
        await cut(client.transport for client in peer.clients)
        for task in list(peer.tasks):
            task.cancel()
        await asyncio.gather(*peer.tasks, return_exceptions=True)
        for client in peer.clients:
            await client.lost.wait()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame as RFC 9113, section 4.1 has it."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def goaway(last: int, code: int = 0, said: bytes = b"") -> bytes:
    return frame(7, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + said)
