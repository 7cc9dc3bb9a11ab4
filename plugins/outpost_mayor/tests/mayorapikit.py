"""The API of tests: behind real sockets, in a process or in this one."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from outpost_manager.config.api import address
from outpost_manager.manager import Manager
from outpost_mayor.api import listen
from outpost_mayor.api.answering import answer

T = TypeVar("T")
LOCAL = "outposts:\n  - {name: local, type: local, mode: process, max_workers: 50}\n"


class UnixConnection(HTTPConnection):
    """HTTP over a private socket.

    Args:
        path: of the socket.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


class Answer:
    """What a request was answered with."""

    def __init__(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.status, self.headers, self.data = status, headers, data

    @property
    def json(self) -> Any:
        """The document."""
        return json.loads(self.data)


def ask(
    at: Path | str,
    method: str,
    path: str,
    body: Any = None,
    *,
    token: str = "",
    headers: dict[str, str] | None = None,
) -> Answer:
    """Ask something; `at` is a socket, or HOST:PORT."""
    line = UnixConnection(at) if isinstance(at, Path) else HTTPConnection(at, timeout=60)
    said = dict(headers or {})
    if token:
        said["Authorization"] = f"Bearer {token}"
    data = None
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        said.setdefault("Content-Type", "application/json")
    try:
        line.request(method, path, data, said)
        got = line.getresponse()
        return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
    finally:
        line.close()


@contextmanager
def answering(folder: Path, listening: str = "127.0.0.1:0", config: str = LOCAL) -> Iterator[Api]:
    """Have a manager answer at sockets on a thread of its own, without the services of a mayor."""
    (folder / "outposts.yaml").write_text(config)
    environ = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "LEFT_OUT": "a-secret-value"}
    begun: Future[Api] = Future()
    ended = asyncio.Event()

    async def live() -> None:
        async with Manager.open(
            config=folder / "outposts.yaml", state=folder / "state", environ=environ, cwd=folder
        ) as manager:
            at = address(listening) if listening else manager.config.api.address
            async with listen.opened(manager.state, at) as doors:
                task = asyncio.create_task(answer(manager, doors))
                begun.set_result(Api(manager, doors, asyncio.get_running_loop()))
                await ended.wait()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:
            if begun.done():
                raise
            begun.set_exception(error)

    thread = Thread(target=run)
    thread.start()
    try:
        api = begun.result(60)
        try:
            yield api
        finally:
            api.loop.call_soon_threadsafe(ended.set)
    finally:
        thread.join(60)
        assert not thread.is_alive()


class Api:
    """An API that answers."""

    def __init__(
        self, manager: Manager, doors: listen.Doors, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.manager, self.doors, self.loop = manager, doors, loop

    @property
    def address(self) -> str:
        """HOST:PORT where it listens."""
        return self.doors.urls[1].partition("://")[2]

    def ask(self, *words: Any, remote: bool = False, **more: Any) -> Answer:
        """Ask something at the private socket, or over the network."""
        return ask(self.address if remote else self.doors.unix, *words, **more)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something with its manager, in its event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(120)
