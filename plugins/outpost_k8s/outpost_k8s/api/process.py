"""A program that is started in a container, over a WebSocket of the API server.

Each message is one byte that names a channel, and the channel's bytes. `v5.channel.k8s.io` (on by
default since Kubernetes 1.30) can end the input alone; `v4` cannot: there, the end of the input is
the end of everything.
https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4006-transition-spdy-to-websockets
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from aiohttp import ClientError, ClientWebSocketResponse, WSMsgType

from outpost_core.errors import OutpostError
from outpost_k8s.api.errors import ApiError, UnavailableError
from outpost_k8s.api.transport import Transport
from outpost_shared import border
from outpost_shared.silence import Silence

_V5: Final = "v5.channel.k8s.io"
PROTOCOLS: Final = (_V5, "v4.channel.k8s.io")
_STDIN, _STDOUT, _STDERR, _STATUS, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255

#: Bytes that wait to be read, or to be sent, before the other side is held up.
_WAITING: Final = 1 << 20
#: Longest message that we send, in bytes.
_FRAME: Final = 128 << 10
#: Bytes of its standard error that are kept.
_KEPT: Final = 16 << 10
#: Seconds of silence after which the other side is asked for a sign of life, and after which it is
#: taken for dead.
PING: Final = 10.0
DEAD: Final = 35.0
#: Seconds that the rest of the output may take after the program has ended.
_REST: Final = 10.0


class Output:
    """What a program prints: the reading half of `Process`."""

    def __init__(self) -> None:
        self.room = asyncio.Event()
        self.room.set()
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._come = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None

    async def read(self, n: int = 1 << 16) -> bytes:
        """Return up to `n` bytes as soon as there are any; b"" at the end.

        Raises:
            UnavailableError: the connection broke.
        """
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            self._come.clear()
            await self._come.wait()
        piece = self._pieces.popleft()
        if len(piece) > n:
            self._pieces.appendleft(piece[n:])
            piece = piece[:n]
        self._size -= len(piece)
        if self._size <= _WAITING // 2:
            self.room.set()
        return piece

    def feed(self, data: bytes) -> None:
        """Add what has come."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > _WAITING:
            self.room.clear()
        self._come.set()

    def end(self, error: Exception | None) -> None:
        """Say that nothing more comes, and why if that is no good end."""
        self._ended, self._error = True, error
        self._come.set()


class Input:
    """What a program reads: the writing half of `Process`.

    Attributes:
        closed: nothing more is to be written.
    """

    def __init__(self) -> None:
        self.closed = False
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._come = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._resized = b""
        self._gone = False

    def write(self, data: bytes) -> None:
        """Queue bytes.

        Raises:
            ConnectionResetError: the program, or the connection, has ended.
        """
        if self._gone or self.closed:
            raise ConnectionResetError("its input has ended")
        for start in range(0, len(data), _FRAME):
            self._pieces.append(bytes(data[start : start + _FRAME]))
        self._size += len(data)
        if self._size > _WAITING:
            self._room.clear()
        self._come.set()

    async def drain(self) -> None:
        """Wait until little enough is queued.

        Raises:
            ConnectionResetError: the program, or the connection, has ended.
        """
        await self._room.wait()
        if self._gone:
            raise ConnectionResetError("its input has ended")

    def close(self) -> None:
        """End the program's input, once all that is queued was sent."""
        self.closed = True
        self._come.set()

    def resize(self, columns: int, rows: int) -> None:
        """Queue a new size of its terminal, before everything else."""
        said = json.dumps({"Width": columns, "Height": rows})
        self._resized = bytes((_RESIZE,)) + said.encode()
        self._come.set()

    async def next(self) -> bytes | None:
        """Return the next message for the program; None at the end."""
        while True:
            if self._resized:
                message, self._resized = self._resized, b""
                return message
            if self._pieces:
                piece = self._pieces.popleft()
                self._size -= len(piece)
                if self._size <= _WAITING // 2:
                    self._room.set()
                return b"\0" + piece
            if self.closed:
                return None
            self._come.clear()
            await self._come.wait()

    def end(self) -> None:
        """Nobody reads any more."""
        self._gone = True
        self._room.set()


class Process:
    """One program in a container. Made by `start`; close it in any case.

    Attributes:
        stdout: what it prints (`protocol.ByteReader`).
        stdin: what it reads (`protocol.ByteWriter`).
    """

    def __init__(self, what: str, transport: Transport, stack: AsyncExitStack, socket: Any) -> None:
        self.stdout = Output()
        self.stdin = Input()
        self._what = what
        self._transport = transport
        self._stack = stack
        self._socket: ClientWebSocketResponse[bool] = socket
        self._stderr = b""
        self._heard = time.monotonic()
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._end.add_done_callback(_seen)
        self._status: int | OutpostError | None = None
        self._tasks = [asyncio.create_task(run()) for run in (self._hear, self._say, self._look)]

    @classmethod
    async def start(
        cls, transport: Transport, path: str, argv: Sequence[str], *, container: str, stdin: bool,
        tty: bool,
    ) -> Process:  # fmt: skip
        """Start a program.

        Args:
            transport: to the API server.
            path: of the pod's `exec`.
            argv: program and arguments.
            container: in which one.
            stdin: it gets input.
            tty: it gets a terminal; what it says as errors comes with the output then.

        Raises:
            ApiError: there is no such pod or container, or we may not.
            UnavailableError: there was no answer.
        """
        flags = {"stdin": stdin, "stdout": True, "stderr": not tty, "tty": tty}
        query = [("command", argument) for argument in argv]
        query += [("container", container), *((name, "true") for name, on in flags.items() if on)]
        stack = AsyncExitStack()
        socket = await stack.enter_async_context(transport.websocket(path, query, PROTOCOLS))
        return cls(f"{argv[0]} in {path.split('/')[-2]}", transport, stack, socket)

    @property
    def stderr(self) -> bytes:
        """The last of what it said as errors, at most 16 KiB."""
        return self._stderr

    def resize(self, columns: int, rows: int) -> None:
        """Tell its terminal another size."""
        self.stdin.resize(columns, rows)

    async def ended(self) -> int:
        """Wait until it has ended, and return its exit status.

        Raises:
            ApiError: it could not be started.
            UnavailableError: the connection broke before its end was told.
        """
        return await asyncio.shield(self._end)

    async def close(self) -> None:
        """Close the connection; a program that still runs sees the end of its input."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._finish(UnavailableError(f"{self._what}: the connection was closed from here"))
        await self._stack.aclose()

    # --- inside -------------------------------------------------------------------------------

    async def _hear(self) -> None:
        """Take messages until the connection ends."""
        why: OutpostError | None = None
        try:
            async with asyncio.timeout(None) as rest:
                while True:
                    await self.stdout.room.wait()
                    message = await self._socket.receive()
                    self._heard = time.monotonic()
                    if message.type is WSMsgType.BINARY:
                        self._take(message.data)
                        if self._status is not None and rest.when() is None:
                            rest.reschedule(asyncio.get_running_loop().time() + _REST)
                    elif message.type is WSMsgType.PING:
                        await self._socket.pong(message.data)
                    elif message.type is WSMsgType.ERROR:
                        raise message.data
                    elif message.type is not WSMsgType.PONG:
                        break
        except TimeoutError:
            pass  # its status is known
        except (ClientError, OSError) as error:
            why = self._broken(str(error) or type(error).__name__)
        if self._status is None:
            self._finish(why or self._broken("it was closed from there"))
        elif isinstance(self._status, OutpostError):
            self._finish(self._status)
        else:
            self._finish(None, self._status)

    def _take(self, message: bytes) -> None:
        channel, data = message[:1], message[1:]
        if not channel or (not data and channel[0] != _STATUS):
            return  # the server opens each channel with an empty message
        if channel[0] == _STDOUT:
            self.stdout.feed(data)
        elif channel[0] == _STDERR:
            self._stderr = (self._stderr + data)[-_KEPT:]
        elif channel[0] == _STATUS and data:
            self._status = self._ending(data)

    def _ending(self, data: bytes) -> int | OutpostError:
        """Return the exit status in the last word of a program, or why it did not start."""
        try:
            said = json.loads(data)
            if said.get("status") == "Success":
                return 0
            for cause in (said.get("details") or {}).get("causes") or []:
                if cause.get("reason") == "ExitCode":
                    return int(cause["message"])
            message = border.line(str(said.get("message") or ""), 500)
            reason = border.line(str(said.get("reason") or ""), 60)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            message, reason = border.line(data[:500].decode("utf-8", "replace"), 500), ""
        return ApiError(
            f"{self._what} did not run: {message}", reason=reason, hint="see the pod's state"
        )

    async def _say(self) -> None:
        """Send what is written, until the end of the input."""
        try:
            while (message := await self.stdin.next()) is not None:
                await self._socket.send_bytes(message)
            if self._socket.protocol == _V5:
                await self._socket.send_bytes(bytes((_CLOSE, _STDIN)))
            else:
                await self._socket.close()
        except (ClientError, OSError) as error:
            self.stdin.end()
            self._finish(self._broken(str(error) or type(error).__name__))

    async def _look(self) -> None:
        """Ask for a sign of life where there was none; end what is dead."""
        silence = Silence(lambda: self._heard)
        while not self._end.done():
            await asyncio.sleep(PING / 2)
            if not self.stdout.room.is_set():  # we do not listen ourselves
                silence.restart()
            elif silence.seconds > DEAD:
                self._finish(self._broken(f"not heard of for {silence.seconds:.0f} s"))
                self._tasks[0].cancel()
            elif silence.seconds > PING:
                with contextlib.suppress(TimeoutError, ClientError, OSError):
                    async with asyncio.timeout(PING / 2):
                        await self._socket.ping()

    def _broken(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"{self._what}: the connection to {self._transport.peer} broke:"
            f" {border.line(why, 200)}",
            hint="try again",
        )

    def _finish(self, error: OutpostError | None, status: int = 0) -> None:
        if self._end.done():
            return
        if error is None:
            self._end.set_result(status)
        else:
            self._end.set_exception(error)
        self.stdin.end()
        self.stdout.end(error if isinstance(error, UnavailableError) else None)


def _seen(end: asyncio.Future[int]) -> None:
    """Nobody need ask how it ended."""
    if not end.cancelled():
        end.exception()
