"""Speaks to one server over one byte stream: hello, then requests, many at once."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from outpost_core.errors import OutpostError, UnreachableError
from outpost_core.types import Json
from outpost_shared.protocol import (
    MAX_FRAME,
    MAX_NOISE,
    MAX_RAW,
    PROTOCOL,
    BrokenChannelError,
    ByteReader,
    ByteWriter,
    FrameError,
    FrameTooLargeError,
    Lines,
    clean,
    decode,
    error_from_json,
    frame,
    packed,
    quoted,
    raw_size,
    read_data,
)
from outpost_shared.silence import SIGNS

#: How a server's hello begins, wherever in a line: a login shell may print before it.
_HELLO: Final = b'{"outpost":'
#: Shortest line that a server must take.
_SMALLEST_FRAME: Final = 4096
_MOST_INFLIGHT: Final = 1024


#: Params of a request; `data` may be bytes.
Params: TypeAlias = "Mapping[str, Json | bytes]"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerHello:
    """What a server says of itself.

    Args:
        server: program and version, for people.
        capabilities: what its outpost can.
        methods: what it answers to.
        inflight: how many requests it takes at once.
        max_frame: longest line that it takes, in bytes.
        time: its clock, seconds since the epoch.
        skew: seconds that its clock is ahead of ours, as far as that can be known.
        silence: seconds without a word from here after which it ends; None when it never does.
        raw: how many bytes it takes behind a line; 0 when it knows only lines.
    """

    server: str
    capabilities: frozenset[str]
    methods: frozenset[str]
    inflight: int
    max_frame: int
    time: float
    skew: float
    silence: float | None = None
    raw: int = 0


class Client:
    """One channel to one server. Made by `start`; when it has ended, it stays ended.

    Attributes:
        peer: who it is, for messages.
        hello: what the server said of itself.
        closed: set when the channel has ended, for whatever reason.
    """

    def __init__(self, peer: str, lines: Lines, writer: ByteWriter, hello: ServerHello) -> None:
        self.peer = peer
        self.hello = hello
        self.closed = asyncio.Event()
        self._lines = lines
        self._writer = writer
        self._slots = asyncio.Semaphore(hello.inflight)
        self._waiting: dict[int, asyncio.Future[Json]] = {}
        self._last_id = 0
        self._why = ""
        self._reading = asyncio.create_task(self._read())
        self._beating = asyncio.create_task(self._beat(hello.silence)) if hello.silence else None

    @classmethod
    async def start(
        cls,
        peer: str,
        reader: ByteReader,
        writer: ByteWriter,
        *,
        name: str,
        options: Mapping[str, Json],
        timeout: float,
    ) -> Client:
        """Say hello and return the client once the server has answered.

        Args:
            peer: who is at the other end, for messages ("vm1").
            reader: bytes from there.
            writer: bytes to there; is closed when this fails.
            name: the outpost's configured name.
            options: for the server, any JSON; may hold what must not be seen in an argv.
            timeout: seconds that all of it may take.

        Raises:
            UnreachableError: no hello came, `sent` is False; what came instead is quoted.
            OutpostError: the server's own reason not to serve.
        """
        lines = Lines(reader, MAX_NOISE)
        noise: list[bytes] = []
        try:
            async with asyncio.timeout(timeout):
                hello = await _greet(peer, lines, noise, writer, name, options)
        except BaseException as error:
            with contextlib.suppress(Exception):
                writer.close()
            if isinstance(error, TimeoutError):
                why = f"did not say hello within {timeout:g} s"
            elif isinstance(error, FrameError):
                why = "ended without a hello" if lines.rest else f"said no hello: {error}"
            elif isinstance(error, OSError | EOFError):
                why = f"cannot be spoken to: {error}"
            elif isinstance(error, OutpostError) or not isinstance(error, Exception):
                raise
            else:  # the reader's own, such as asyncssh's
                why = f"cannot be spoken to: {type(error).__name__}: {error}"
            raise UnreachableError(
                f"{peer} {why}{_it_said(noise, lines.rest)}",
                hint="see whether its program starts, and prints nothing of its own",
                sent=False,
            ) from error
        lines.limit = MAX_FRAME
        return cls(peer, lines, writer, hello)

    @property
    def heard(self) -> float:
        """`time.monotonic()` when the last byte came."""
        return self._lines.heard

    async def call(self, method: str, params: Params | None = None) -> Json:
        """Send one request and return its result.

        `data` of the params may be bytes, and `data` of the result is, where the server sends
        them as they are (`data_of` reads both ways). Waits while the server has all that it takes
        at once. A call that is cancelled tells the server so; its answer is dropped.

        Raises:
            OutpostError: what the server answered.
            BrokenChannelError: the channel ended; `sent` says whether the request had left.
            FrameTooLargeError: the server does not take a line that long; nothing was sent.
        """
        self._last_id += 1
        number = self._last_id
        said = {"id": number, "method": method, "params": {**(params or {})}}
        line, data = packed(said, "params", self.hello.raw)
        if len(line) > self.hello.max_frame:
            raise FrameTooLargeError(
                f"a request of {len(line)} bytes is too long for {self.peer}, which takes"
                f" {self.hello.max_frame}",
                hint="make the prompt or the issue's text shorter",
            )
        await self._slots.acquire()
        if self.closed.is_set():
            self._slots.release()  # the next one that waits for its turn sees it, too
            raise BrokenChannelError(f"{self.peer} {self._why}", sent=False)
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            try:
                self._writer.write(line)
                if data:
                    self._writer.write(data)
                await self._writer.drain()
            except Exception as error:  # noqa: BLE001 - each kind of stream has its own
                self._end(f"takes no more requests: {_described(error)}")
            return await future
        except asyncio.CancelledError:
            self._cancel(number, future)
            raise

    def drop(self, why: str) -> None:
        """End the channel now, without a word to the other side.

        Args:
            why: continues after the peer's name: "has not been heard of for 30 s".
        """
        self._end(why)

    async def aclose(self) -> None:
        """Say goodbye and end the channel; what is under way fails."""
        if not self.closed.is_set() and "bye" in self.hello.methods:
            with contextlib.suppress(Exception):
                self._writer.write(frame({"id": self._last_id + 1, "method": "bye", "params": {}}))
        self._end("was closed")
        self._reading.cancel()
        await asyncio.wait({task for task in (self._reading, self._beating) if task is not None})

    # --- inside -------------------------------------------------------------------------------

    def _cancel(self, number: int, future: asyncio.Future[Json]) -> None:
        if future.done() and not future.cancelled():
            future.exception()  # it came at the same moment; retrieved, so nobody complains
        future.cancel()
        if number in self._waiting and not self.closed.is_set():
            with contextlib.suppress(Exception):
                self._writer.write(frame({"cancel": number}))

    async def _beat(self, silence: float) -> None:
        """Say something that means nothing, so that the server knows that somebody is here."""
        while not self.closed.is_set():
            await asyncio.sleep(silence / SIGNS)
            with contextlib.suppress(Exception):  # reading says that it is gone
                self._writer.write(frame({"cancel": 0}))

    async def _read(self) -> None:
        try:
            while (line := await self._lines.next()) is not None and not self.closed.is_set():
                if line:
                    answer = decode(line)
                    await read_data(self._lines, answer, "result")
                    self._take(answer)
        except FrameError as error:
            self._end(f"broke the protocol: {error}")
        except Exception as error:  # noqa: BLE001 - each kind of stream has its own
            self._end(f"is gone: {_described(error)}")
        else:
            self._end("ended the connection")

    def _take(self, answer: dict[str, Any]) -> None:
        if "outpost" in answer and "error" in answer:
            self._end(f"ended the connection: {error_from_json(answer['error']).message}")
            return
        number = answer.get("id")
        if type(number) is not int or number not in self._waiting:
            raise FrameError(f"it answered {clean(repr(number), 60)}, which was not asked")
        if ("result" in answer) == ("error" in answer):
            raise FrameError("an answer has neither result nor error, or both")
        future = self._waiting.pop(number)
        self._slots.release()
        if future.done():  # it was cancelled
            return
        if "error" in answer:
            future.set_exception(error_from_json(answer["error"]))
        else:
            future.set_result(answer["result"])

    def _end(self, why: str) -> None:
        if self.closed.is_set():
            return
        self._why = why
        self.closed.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(BrokenChannelError(f"{self.peer} {why}", sent=True))
        self._waiting.clear()
        self._slots.release()
        if self._beating is not None:
            self._beating.cancel()
        with contextlib.suppress(Exception):
            self._writer.close()


async def _greet(
    peer: str,
    lines: Lines,
    noise: list[bytes],
    writer: ByteWriter,
    name: str,
    options: Mapping[str, Json],
) -> ServerHello:
    nonce = secrets.token_hex(16)
    said: Json = {
        "nonce": nonce, "max_frame": MAX_FRAME, "raw": MAX_RAW, "name": name, "beats": True,
        "options": {**options},
    }  # fmt: skip
    writer.write(frame({"outpost": PROTOCOL, "hello": said}))
    await writer.drain()
    room = MAX_NOISE
    while (line := await lines.next()) is not None:
        found = _hello_in(line)
        if found is not None:
            return _hello(peer, found, nonce)
        noise.append(line)
        room -= len(line) + 1
        if room <= 0:
            raise FrameError(f"more than {MAX_NOISE} bytes came before it")
    raise UnreachableError(
        f"{peer} ended without a hello{_it_said(noise, b'')}",
        hint="see whether its program starts",
        sent=False,
    )


def _hello_in(line: bytes) -> dict[str, Any] | None:
    """Return the hello or the error in a line; None for what is noise, our own echo too."""
    at = line.find(_HELLO)
    if at < 0:
        return None
    try:
        found = decode(line[at:])
    except FrameError:
        return None
    hello = found.get("hello")
    answers = "error" in found or (isinstance(hello, dict) and "server" in hello)
    return found if answers else None


def _hello(peer: str, found: dict[str, Any], nonce: str) -> ServerHello:
    version = found["outpost"]
    if version != PROTOCOL or type(version) is not int:
        raise UnreachableError(
            f"{peer} speaks version {clean(repr(version), 20)} of the protocol, this is version"
            f" {PROTOCOL}",
            hint="install versions of Outpost here and there that fit together",
            sent=False,
        )
    if "error" in found:
        raise error_from_json(found["error"])
    hello = found["hello"]
    if hello.get("nonce") != nonce:
        raise FrameError("its hello answers another one, by its nonce")
    inflight, longest = hello.get("inflight"), hello.get("max_frame", MAX_FRAME)
    moment = hello.get("time")
    if type(inflight) is not int or inflight < 1:
        raise FrameError(f"`inflight` in its hello is {quoted(repr(inflight).encode())}")
    if type(longest) is not int or longest < _SMALLEST_FRAME:
        raise FrameError(f"`max_frame` in its hello is {quoted(repr(longest).encode())}")
    silence = hello.get("silence")
    if silence is not None and (type(silence) not in (int, float) or not 1 <= silence < 1e9):
        raise FrameError(f"`silence` in its hello is {quoted(repr(silence).encode())}")
    if type(moment) not in (int, float) or not 0 <= moment < 1e12:
        raise FrameError(f"`time` in its hello is {quoted(repr(moment).encode())}")
    return ServerHello(
        server=clean(hello["server"], 200) if isinstance(hello["server"], str) else "",
        capabilities=_words(hello, "capabilities"),
        methods=_words(hello, "methods"),
        inflight=min(inflight, _MOST_INFLIGHT),
        max_frame=longest,
        time=float(moment),
        skew=moment - time.time(),
        silence=silence,
        raw=raw_size(hello),
    )


def _words(hello: Mapping[str, Any], name: str) -> frozenset[str]:
    words = hello.get(name)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise FrameError(f"`{name}` in its hello is not a list of words")
    return frozenset(words)


def _it_said(noise: list[bytes], rest: bytes) -> str:
    said = b" / ".join(line for line in (*noise, rest) if line.strip())
    return f"; it said {quoted(said, 300)}" if said else ""


def _described(error: Exception) -> str:
    said = clean(str(error), 200)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
