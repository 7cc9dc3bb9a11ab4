"""Serves an outpost on a byte stream; runs on the far side, so it needs no more than it must.

A request is a task; at most `INFLIGHT` run at once, and then no further request is read. What
changes something there is never broken off: a cancellation only says that nobody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import OutpostError, UnsupportedError, UsageError
from outpost_core.types import Json
from outpost_shared.protocol import (
    MAX_FRAME,
    MAX_RAW,
    PROTOCOL,
    ByteReader,
    ByteWriter,
    FrameError,
    Lines,
    clean,
    decode,
    error_to_json,
    frame,
    packed,
    raw_size,
    read_data,
)
from outpost_shared.silence import CLIENT, Silence
from outpost_worker.serving.methods import Answer, Handler, JsonText, Methods

if TYPE_CHECKING:
    from outpost_core.backend import Outpost

#: Requests that run at once.
INFLIGHT: Final = 32
#: Longest line that the server takes: room for an order with a long prompt.
TAKES: Final = 8 * MAX_FRAME
#: Seconds for what is under way when the client has gone.
FINISH: Final = 10.0
#: Methods that only look, and so can be broken off at any time.
_LOOKING: Final = frozenset(
    {"list", "ping", "logs", "peek", "inbox", "facts", "doctor", "viewer", "changes"}
)
_SMALLEST_FRAME: Final = 4096

Build = Callable[[str, Mapping[str, Json]], "Outpost"]


async def serve(
    build: Build,
    reader: ByteReader,
    writer: ByteWriter,
    *,
    server: str,
    extra: Mapping[str, Handler] | None = None,
    silence: float = CLIENT,
) -> None:
    """Serve one client until it says goodbye or its stream ends; workers keep running.

    Args:
        build: makes the outpost, given the name and the options of the client's hello. What it
            raises as an OutpostError is the answer to the hello.
        reader: what the client sends.
        writer: to the client; is closed at the end.
        server: this program and its version, for people.
        extra: further methods by name (`x-…`), as functions of the outpost and the params.
        silence: seconds after which a client is taken for gone that has said nothing, if its
            hello promised that it would.

    Raises:
        FrameError: the client broke the protocol; it was told so.
    """
    lines = Lines(reader, TAKES)
    try:
        try:
            async with asyncio.timeout(silence):
                line = await lines.next()
            if line is None:
                return
            said_hello = decode(line)
            name, options, nonce, takes, raw = _hello(said_hello)
            outpost = build(name, options)
        except TimeoutError:
            return
        except OutpostError as error:
            await _refuse(writer, error)
            return
        except FrameError as error:
            await _refuse(writer, UsageError(str(error)))
            raise
        try:
            methods = Methods(outpost, extra or {}, takes, raw)
            said: Json = {
                "nonce": nonce,
                "server": server,
                "capabilities": [*sorted(outpost.capabilities)],
                "methods": [*methods.names, "bye"],
                "inflight": INFLIGHT,
                "max_frame": TAKES,
                "raw": MAX_RAW,
                "time": time.time(),
                "silence": silence,
            }
            # the first line end is for a login shell that printed something without one
            with contextlib.suppress(OSError):  # then reading says that the client is gone
                writer.write(b"\n" + frame({"outpost": PROTOCOL, "hello": said}))
                await writer.drain()
            beats = said_hello["hello"].get("beats") is True
            try:
                await _Session(methods, lines, writer, takes, raw).run(silence if beats else None)
            finally:
                await methods.aclose()
        finally:
            if hasattr(outpost, "outpost_close"):
                await outpost.outpost_close()
    finally:
        with contextlib.suppress(Exception):
            writer.close()


def _hello(said: dict[str, Any]) -> tuple[str, Mapping[str, Json], str, int, int]:
    """Return name, options, nonce, longest line and most bytes behind one of a client's hello.

    Raises:
        FrameError: it is none.
        UnsupportedError: it speaks another version.
    """
    hello = said.get("hello")
    if type(said.get("outpost")) is not int or not isinstance(hello, dict):
        raise FrameError("it began with something else than a hello")
    if said["outpost"] != PROTOCOL:
        raise UnsupportedError(
            f"this program speaks version {PROTOCOL} of the protocol, not {said['outpost']}",
            hint="install versions of Outpost here and there that fit together",
        )
    name, options, nonce = hello.get("name", ""), hello.get("options", {}), hello.get("nonce")
    takes = hello.get("max_frame", MAX_FRAME)
    if not (isinstance(name, str) and isinstance(options, dict) and isinstance(nonce, str)):
        raise FrameError("its hello lacks `nonce`, or `name` or `options` is something odd")
    if type(takes) is not int or takes < _SMALLEST_FRAME:
        raise FrameError(f"`max_frame` of its hello is not a number from {_SMALLEST_FRAME} up")
    return name, options, nonce, min(takes, TAKES), min(raw_size(hello), MAX_RAW)


async def _refuse(writer: ByteWriter, error: OutpostError) -> None:
    with contextlib.suppress(Exception):
        writer.write(b"\n" + frame({"outpost": PROTOCOL, "error": error_to_json(error)}))
        await writer.drain()


class _Session:
    """The requests of one client, after the hello."""

    def __init__(
        self, methods: Methods, lines: Lines, writer: ByteWriter, takes: int, raw: int
    ) -> None:
        self._methods = methods
        self._lines = lines
        self._writer = writer
        self._takes = takes
        self._raw = raw
        self._slots = asyncio.Semaphore(INFLIGHT)
        self._looking: dict[int, asyncio.Task[None]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._client = Silence(lambda: lines.heard)
        self._silent = False

    async def run(self, silence: float | None) -> None:
        """Answer until the client goes.

        Args:
            silence: seconds without a word after which it is taken for gone; None for never.

        Raises:
            FrameError: it broke the protocol.
        """
        this = asyncio.current_task()
        assert this is not None, "runs in a task"
        watch = asyncio.create_task(self._watch(this, silence)) if silence else None
        try:
            while (line := await self._lines.next()) is not None:
                if line:
                    asked = decode(line)
                    await read_data(self._lines, asked, "params")
                    if not await self._take(asked):
                        return
        except FrameError as error:
            await _refuse(self._writer, UsageError(str(error)))
            raise
        except OSError:  # the client is gone, less politely
            return
        except asyncio.CancelledError:
            if not self._silent:
                raise
            this.uncancel()
        finally:
            if watch is not None:
                watch.cancel()
            await self._finish()

    async def _watch(self, reading: asyncio.Task[Any], silence: float) -> None:
        """Break off the reading once nothing was heard for that long; not while nobody reads."""
        pause, looked = silence / 10, time.monotonic()
        while True:
            await asyncio.sleep(pause)
            before, looked = looked, time.monotonic()
            if looked - before > 2 * pause:  # we were held up, and so was the reading
                self._client.restart()
            if not self._slots.locked() and self._client.seconds > silence:
                self._silent = True
                reading.cancel()
                return

    async def _take(self, asked: dict[str, Any]) -> bool:
        """Begin with one request; return False when it was the last."""
        if "cancel" in asked:
            given_up = asked["cancel"]
            if type(given_up) is int and given_up in self._looking:
                self._looking[given_up].cancel()
            return True
        number, method = asked.get("id"), asked.get("method")
        params = asked.get("params", {})
        if type(number) is not int or not isinstance(method, str) or not isinstance(params, dict):
            raise FrameError("a request lacks `id` or `method`, or its `params` are no object")
        if number in self._tasks:
            raise FrameError(f"request {number} was asked twice")
        if method == "bye":
            await self._send(number, "result", JsonText(b"null"))
            return False
        if self._slots.locked():
            await self._slots.acquire()
            self._client.restart()  # what it said meanwhile was not read
        else:
            await self._slots.acquire()
        task = asyncio.create_task(self._serve(number, method, params))
        self._tasks[number] = task
        if method in _LOOKING:
            self._looking[number] = task
        task.add_done_callback(lambda _: self._done(number))
        # a task that is cancelled before it has begun never answers
        await asyncio.sleep(0)
        return True

    def _done(self, number: int) -> None:
        self._tasks.pop(number, None)
        self._slots.release()

    async def _serve(self, number: int, method: str, params: dict[str, Any]) -> None:
        answer: Answer
        try:
            answer, key = await self._answer(method, params), "result"
        except OutpostError as error:
            answer, key = error_to_json(error), "error"
        except asyncio.CancelledError:
            answer, key = {"kind": "cancelled", "message": "it was cancelled"}, "error"
        except Exception as error:  # noqa: BLE001 - told, whatever it is
            sys.stderr.write(traceback.format_exc())
            said = clean(f"{method} failed: {type(error).__name__}: {error}", 500)
            answer, key = {"kind": "internal", "message": said}, "error"
        self._looking.pop(number, None)
        await self._send(number, key, answer)

    async def _answer(self, method: str, params: dict[str, Any]) -> Answer:
        handler = self._methods.get(method)
        if handler is None:
            raise UnsupportedError(f"this program has no method {clean(method, 60)!r}")
        return await handler(params)

    async def _send(self, number: int, key: str, answer: Answer) -> None:
        data = b""
        if isinstance(answer, JsonText):
            line = b'{"id":%d,"%b":%b}\n' % (number, key.encode(), answer)
        else:
            line, data = packed({"id": number, key: answer}, "result", self._raw)
        if len(line) > self._takes:
            said: Json = {"kind": "internal", "message": f"the answer has {len(line)} bytes"}
            line, data = frame({"id": number, "error": said}), b""
        # the client may have gone; its end of the stream tells
        with contextlib.suppress(Exception):
            self._writer.write(line)
            if data:  # right behind its line: nobody else writes in between
                self._writer.write(data)
            await self._writer.drain()

    async def _finish(self) -> None:
        """Break off what only looks, and let the rest come to its end."""
        for task in self._looking.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait([*self._tasks.values()], timeout=FINISH)
        for task in self._tasks.values():
            task.cancel()


# --- on this process's standard streams ---------------------------------------------------------


def main(build: Build, *, server: str, extra: Mapping[str, Handler] | None = None) -> int:
    """Serve on standard input and output until the client goes, then end this process.

    Standard output becomes standard error and standard input is empty, so that no `print` and no
    child of this process can get into the protocol.

    Args:
        build: as of `serve`.
        server: as of `serve`.
        extra: as of `serve`.
    """
    incoming = os.dup(0)
    outgoing = os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    code = 0
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(_on_pipes(incoming, outgoing, build, server, extra))
    except FrameError as error:
        sys.stderr.write(f"{server}: the client broke the protocol: {error}\n")
        code = 2
    except KeyboardInterrupt:
        code = 130
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    # a thread that hangs on a dead disk would keep this process for ever
    os._exit(code)


async def _on_pipes(
    incoming: int,
    outgoing: int,
    build: Build,
    server: str,
    extra: Mapping[str, Handler] | None,
) -> None:
    loop = asyncio.get_running_loop()
    if size := getattr(fcntl, "F_SETPIPE_SZ", None):  # Linux: fewer, longer turns for long answers
        with contextlib.suppress(OSError):
            fcntl.fcntl(outgoing, size, MAX_RAW)
    reader = asyncio.StreamReader(limit=MAX_FRAME)
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(incoming, "rb", buffering=0)
    )
    transport, protocol = await loop.connect_write_pipe(
        _Outgoing, os.fdopen(outgoing, "wb", buffering=0)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        await serve(build, reader, writer, server=server, extra=extra)
    finally:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(protocol.flushed.wait(), FINISH)


class _Outgoing(asyncio.streams.FlowControlMixin):
    """Knows when all that was written has left."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.flushed.set()
