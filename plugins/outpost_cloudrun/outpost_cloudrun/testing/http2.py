"""One connection of HTTP/2 without TLS, for `httpd`; h2 knows the protocol."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import GoAwayFrame

from outpost_cloudrun.testing.exchanges import MOST_BODY, Headers, Reply, Request
from outpost_cloudrun.testing.link import Link

#: What a client may send before we say that we have read it.
WINDOW = 1 << 20


class Http2:
    """A connection of HTTP/2: many requests at once.

    Args:
        link: its transport.
        begin: starts to answer a request.
        streams: how many at once.
    """

    def __init__(
        self, link: Link, begin: Callable[[Request, Reply], asyncio.Task[None]], *, streams: int
    ) -> None:
        self.link = link
        self.http = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self.http.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: streams,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 64 << 10,
            },
        )
        self.http.initiate_connection()
        self.http.increment_flow_control_window(WINDOW)
        self.more: dict[int, asyncio.Event] = {}
        self._begin = begin
        self._open: dict[int, _Incoming] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._last: int | None = None
        self._highest = 0
        self.flush()

    def received(self, data: bytes) -> None:
        """Take bytes of the client."""
        try:
            events = self.http.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.flush()
            self.link.sever()
            return
        for event in events:
            self._happened(event)
        self.flush()

    def lost(self) -> None:
        """Nobody reads the answers any more."""
        for task in list(self._tasks.values()):
            task.cancel()
        for event in self.more.values():
            event.set()

    def drain(self) -> None:
        """Say GOAWAY; what is under way goes on.

        The frame is written by hand: `h2` itself would close all streams with it.
        """
        self._last = self._highest
        self.link.send(GoAwayFrame(0, last_stream_id=self._last, error_code=0).serialize())
        self._end_if_idle()

    def ended(self, stream: int) -> None:
        """An answer is over, well or not."""
        self.more.pop(stream, None)
        self._tasks.pop(stream, None)
        self._open.pop(stream, None)
        self.flush()
        self._end_if_idle()

    def flush(self) -> None:
        """Write what `h2` wants to say."""
        self.link.send(self.http.data_to_send())

    def _end_if_idle(self) -> None:
        if self._last is not None and not self._tasks and self.link.transport is not None:
            self.link.transport.close()

    def _happened(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            assert event.stream_id is not None
            if self._last is not None and event.stream_id > self._last:
                self.http.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
                return
            self._highest = max(self._highest, event.stream_id)
            self._open[event.stream_id] = _Incoming(
                [(str(name), str(value)) for name, value in event.headers or ()]
            )
        elif isinstance(event, h2.events.DataReceived):
            assert event.stream_id is not None
            incoming = self._open.get(event.stream_id)
            self.http.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
            if incoming is not None:
                incoming.body += event.data or b""
                if len(incoming.body) > MOST_BODY:
                    self.http.reset_stream(event.stream_id, h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
        elif isinstance(event, h2.events.StreamEnded):
            assert event.stream_id is not None
            self._ask(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            assert event.stream_id is not None
            self._open.pop(event.stream_id, None)
            task = self._tasks.get(event.stream_id)
            if task is not None:
                task.cancel()
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            for waiting in self.more.values():
                waiting.set()

    def _ask(self, stream: int) -> None:
        incoming = self._open.pop(stream, None)
        if incoming is None:
            return
        pseudo = {name: value for name, value in incoming.headers if name.startswith(":")}
        request = Request(
            method=pseudo.get(":method", "GET"),
            target=pseudo.get(":path", "/"),
            headers=[
                ("host", pseudo.get(":authority", "")),
                *((n, v) for n, v in incoming.headers if not n.startswith(":")),
            ],
            body=bytes(incoming.body),
            version="2",
        )
        self.more[stream] = asyncio.Event()
        task = self._begin(request, Reply2(self, stream))
        self._tasks[stream] = task
        task.add_done_callback(lambda _: self.ended(stream))


class _Incoming:
    """A request of which not all is there."""

    def __init__(self, headers: list[tuple[str, str]]) -> None:
        self.headers = headers
        self.body = bytearray()


class Reply2:
    """An answer in HTTP/2.

    Args:
        wire: the connection.
        stream: its stream there.
    """

    def __init__(self, wire: Http2, stream: int) -> None:
        self.started = False
        self._wire = wire
        self._stream = stream

    async def start(self, status: int, headers: Headers = ()) -> None:
        """Send status and headers."""
        await self._wire.link.writable()
        self.started = True
        with _gone():
            self._wire.http.send_headers(
                self._stream, [(":status", str(status)), *((n.lower(), v) for n, v in headers)]
            )
        self._wire.flush()

    async def write(self, data: bytes) -> None:
        """Send a part of the body, as fast as the client takes it."""
        wire = self._wire
        while data:
            await wire.link.writable()
            with _gone():
                room = min(
                    wire.http.local_flow_control_window(self._stream),
                    wire.http.max_outbound_frame_size,
                )
                if room > 0:
                    wire.http.send_data(self._stream, data[:room])
            if room > 0:
                data = data[room:]
                wire.flush()
                continue
            more = wire.more.get(self._stream)
            if more is None:
                raise ConnectionResetError("the stream is gone")
            more.clear()
            await more.wait()

    async def end(self) -> None:
        """End the answer well."""
        await self._wire.link.writable()
        with _gone():
            self._wire.http.end_stream(self._stream)
        self._wire.flush()

    def reset(self) -> None:
        """Send RST_STREAM."""
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self._wire.http.reset_stream(self._stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
        self._wire.flush()


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    """Say in one word that a stream or its connection is no more."""
    try:
        yield
    except h2.exceptions.ProtocolError as error:
        raise ConnectionResetError(str(error)) from error
