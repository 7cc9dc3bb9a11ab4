"""A line: one HTTP/2 connection to a server, and what goes on on it (RFC 9113)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import httpx
from h2.errors import ErrorCodes

from outpost_cloudrun.connection.exchange import Exchange
from outpost_cloudrun.connection.faults import NotSentError
from outpost_cloudrun.connection.frames import FrameError, GoAway, OtherProtocolError, Splitter
from outpost_cloudrun.connection.limits import Limits
from outpost_cloudrun.connection.plainly import plainly
from outpost_shared.harmless import clean

# At DEBUG it writes every block of headers, and with it our tokens.
logging.getLogger("hpack").setLevel(logging.INFO)

#: The highest number of a stream; after that a connection takes none.
_LAST_ID: Final = (1 << 31) - 1


class SpeaksHttp1Error(Exception):
    """The server does not speak HTTP/2; no request has been sent to it."""


class Line(asyncio.Protocol):
    """One connection.

    Exchanges end one by one, with the error that each has earned; what the server does wrong ends
    all of them and the connection, and nothing else.

    Args:
        limits: how long and how much.
        changed: called when there may be room for an exchange, here or on another connection.

    Attributes:
        opened: done once the server has said its settings, or why there are none.
        closed: done once the connection is gone.
        draining: it takes no new exchange.
        lost: it is broken or closed.
    """

    def __init__(self, limits: Limits, changed: Callable[[Line], None]) -> None:
        loop = asyncio.get_running_loop()
        self._limits = limits
        self._changed = changed
        self._loop = loop
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.draining = False
        self.lost = False
        self._writable = True
        self._held: set[Exchange] = set()
        self._by_id: dict[int, Exchange] = {}
        self._splitter = Splitter()
        self._goaway: GoAway | None = None
        self._pinged = False
        self._flushing = False
        self._heard = self._used = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        codes = h2.settings.SettingCodes
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                codes.ENABLE_PUSH: 0,
                codes.INITIAL_WINDOW_SIZE: self._limits.window,
                codes.MAX_HEADER_LIST_SIZE: self._limits.headers,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(self._limits.line_window)
        # Until h2 has its acknowledgement it takes the default, so it is told at once.
        self._h2.decoder.max_header_list_size = self._limits.headers

    # Room.

    @property
    def writable(self) -> bool:
        """Whether the operating system takes what is written."""
        return self._writable

    @property
    def held(self) -> int:
        """How many exchanges there are."""
        return len(self._held)

    @property
    def has_room(self) -> bool:
        """Whether one more exchange may begin."""
        if self.lost or self.draining or self._h2.highest_outbound_stream_id >= _LAST_ID - 1:
            return False
        allowed = self._h2.remote_settings.max_concurrent_streams
        return len(self._held) < min(allowed, self._limits.exchanges)

    def hold(self) -> Exchange:
        """Return a place for a request; only where `has_room`."""
        exchange = Exchange(self)
        self._held.add(exchange)
        return exchange

    def release(self, exchange: Exchange) -> None:
        """Take a place back, and tell the server unless it has finished."""
        if exchange not in self._held:
            return
        self._held.discard(exchange)
        if exchange.id and not self.lost:
            self.acknowledge(exchange)
            if not (exchange.ended and exchange.all_sent):
                with contextlib.suppress(h2.exceptions.ProtocolError):  # the server was quicker
                    self._h2.reset_stream(exchange.id, ErrorCodes.CANCEL)
            self._flush_soon()
        self._by_id.pop(exchange.id, None)
        self._used = self._loop.time()
        if not self._held and self.draining:
            self.close("the server has moved on")
        self._changed(self)

    # Sending.

    def send_headers(
        self, exchange: Exchange, headers: list[tuple[bytes, bytes]], *, end: bool
    ) -> None:
        """Begin a stream.

        Raises:
            NotSentError: the connection takes no more.
            httpx.LocalProtocolError: the headers are not allowed.
        """
        if self.lost or self.draining:
            raise NotSentError("the connection takes no more requests")
        number = self._h2.get_next_available_stream_id()
        try:
            self._h2.send_headers(number, headers, end_stream=end)
        except h2.exceptions.TooManyStreamsError as error:
            raise NotSentError("the server takes fewer requests at once now") from error
        except h2.exceptions.ProtocolError as error:
            raise httpx.LocalProtocolError(str(error)) from error
        exchange.id = number
        exchange.all_sent = end
        self._by_id[number] = exchange
        self._splitter.earned(16)
        self._flush_soon()

    def room_to_send(self, exchange: Exchange, wanted: int) -> int:
        """Return how many of `wanted` bytes may be sent now."""
        if self.lost or not self._writable:
            return 0
        try:
            window = self._h2.local_flow_control_window(exchange.id)
        except h2.exceptions.ProtocolError:  # the server has closed the stream, see `error`
            return 0
        return max(0, min(wanted, window, self._h2.max_outbound_frame_size))

    def send_data(self, exchange: Exchange, data: bytes, *, end: bool) -> None:
        """Send a piece of a body that fits, see `room_to_send`."""
        try:
            self._h2.send_data(exchange.id, data, end_stream=end)
        except h2.exceptions.ProtocolError as error:
            raise httpx.RemoteProtocolError(f"the stream is closed: {error}") from error
        exchange.all_sent = end
        self._splitter.earned(2)
        self._flush()

    def acknowledge(self, exchange: Exchange) -> None:
        """Tell the server that what was received has been read."""
        if self.lost or not exchange.owed:
            return
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self._h2.acknowledge_received_data(exchange.owed, exchange.id)
        exchange.owed = 0
        self._flush_soon()

    def _flush_soon(self) -> None:
        """Send in one piece what this turn of the loop has to say."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        transport = self._transport
        if transport is None or transport.is_closing() or not (data := self._h2.data_to_send()):
            return
        transport.write(data)
        if transport.get_write_buffer_size() > self._limits.backlog:
            self._fail(httpx.RemoteProtocolError, "the server does not read what it is answered")

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say our settings."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._fail_opening(SpeaksHttp1Error())
            transport.close()
            return
        self._flush()
        self._timer = self._loop.call_later(self._limits.ping / 4, self._look)

    def data_received(self, data: bytes) -> None:
        """Hand on what the server says."""
        self._heard, self._pinged = self._loop.time(), False
        if self.lost:
            return
        try:
            through, goaways = self._splitter.split(data)
            for event in self._h2.receive_data(through) if through else ():
                self._handle(event)
            for goaway in goaways:
                self._go_away(goaway)
        except OtherProtocolError:
            self._fail_opening(SpeaksHttp1Error())
            self._fail(httpx.RemoteProtocolError, "the server does not speak HTTP/2")
        except (FrameError, h2.exceptions.ProtocolError, ValueError) as error:
            self._flush()  # h2 has a GOAWAY that says what we think of it
            self._fail(httpx.RemoteProtocolError, f"the server broke HTTP/2: {clean(str(error))}")
        else:
            self._flush_soon()

    def pause_writing(self) -> None:
        """The operating system takes no more."""
        self._writable = False

    def resume_writing(self) -> None:
        """It does again."""
        self._writable = True
        self._may_send()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._fail(httpx.ReadError, f"the connection was lost: {plainly(exc)}" if exc else "")
        if self._timer is not None:
            self._timer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)

    # What the server said.

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            if not self.opened.done():
                self.opened.set_result(None)
            self._may_send()
            self._changed(self)
            return
        number: int = getattr(event, "stream_id", None) or 0
        exchange = self._by_id.get(number)
        if isinstance(event, h2.events.WindowUpdated):
            if exchange is not None:
                exchange.may_send()
            elif not number:  # the window of the whole connection
                self._may_send()
        elif isinstance(event, h2.events.DataReceived):
            self._take_data(exchange, number, event)
        elif exchange is not None:
            self._handle_stream(exchange, event)

    def _take_data(
        self, exchange: Exchange | None, number: int, event: h2.events.DataReceived
    ) -> None:
        flow = event.flow_controlled_length or 0
        if exchange is not None and event.data:
            exchange.received(event.data, flow)
        elif flow:  # nobody reads it, or it is padding only
            self._h2.acknowledge_received_data(flow, number)

    def _handle_stream(self, exchange: Exchange, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            headers = [(bytes(name), bytes(value)) for name, value in event.headers or ()]
            status = next((value for name, value in headers if name == b":status"), b"")
            if not (len(status) == 3 and status.isdigit() and b"200" <= status < b"600"):
                exchange.fail(httpx.RemoteProtocolError(f"an answer with status {status[:20]!r}"))
                return
            exchange.answered(int(status), [pair for pair in headers if pair[0][:1] != b":"])
        elif isinstance(event, h2.events.StreamEnded):
            exchange.end()
        elif isinstance(event, h2.events.StreamReset):
            if event.error_code == ErrorCodes.REFUSED_STREAM and exchange.answer is None:
                exchange.fail(NotSentError("the server refused the request unseen"))
            else:
                exchange.fail(
                    httpx.RemoteProtocolError(f"the server ended it: {_named(event.error_code)}")
                )

    def _go_away(self, goaway: GoAway) -> None:
        """Take no new exchange; those that the server looks at go on."""
        self._goaway = goaway
        self.draining = True
        for number, exchange in list(self._by_id.items()):
            if number > goaway.last:
                exchange.fail(NotSentError("the server goes away and did not look at the request"))
        if not self._held:
            self.close("the server has moved on")
        self._changed(self)

    def _may_send(self) -> None:
        for exchange in list(self._held):
            exchange.may_send()

    # Time.

    def _look(self) -> None:
        """Ping a silent line, give up a dead one, close an idle one."""
        limits, now = self._limits, self._loop.time()
        silent = now - self._heard
        if self._pinged and silent >= limits.ping + limits.ping_timeout:
            self._fail(httpx.ReadError, f"the line is dead: no answer to a ping for {silent:.0f} s")
            return
        if not self._held and now - self._used >= limits.idle:
            self.close("it was idle")
            return
        if not self._pinged and silent >= limits.ping:
            self._pinged = True
            self._h2.ping(b"outpost?")
            self._flush()
        self._timer = self._loop.call_later(min(limits.ping, limits.ping_timeout) / 4, self._look)

    # The end.

    def close(self, why: str = "it was closed here") -> None:
        """End the connection in an orderly way; exchanges that there are fail."""
        if self._transport is not None and not self.lost:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self._h2.close_connection()
            self._flush()
        self._fail(httpx.ReadError, f"the connection is closed: {why}", abort=False)

    def abort(self) -> None:
        """End the connection without a word."""
        if self._transport is not None:
            self._transport.abort()
        self._fail(httpx.ReadError, "the connection is closed")

    def _fail(self, kind: type[httpx.TransportError], why: str, *, abort: bool = True) -> None:
        if self.lost:
            return
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
        why = why or "the server closed the connection"
        if self._goaway is not None and self._goaway.code:
            said = clean(self._goaway.said.decode("utf-8", "replace"))
            why += f"; it said {_named(self._goaway.code)} {said}".rstrip()
        self._fail_opening(NotSentError(why))
        for exchange in list(self._held):
            exchange.fail(kind(why) if exchange.id else NotSentError(why))
        if self._transport is not None:
            if abort:
                self._transport.abort()
            else:  # what is not taken in time by the server is not worth waiting for
                self._transport.close()
                self._timer = self._loop.call_later(
                    self._limits.ping_timeout, self._transport.abort
                )
        self._changed(self)

    def _fail_opening(self, error: Exception) -> None:
        if not self.opened.done():
            self.opened.set_exception(error)
            self.opened.exception()  # it is looked at, also where nobody waits any more


def _named(code: ErrorCodes | int | None) -> str:
    try:
        return ErrorCodes(code or 0).name
    except ValueError:
        return f"error {code}"
