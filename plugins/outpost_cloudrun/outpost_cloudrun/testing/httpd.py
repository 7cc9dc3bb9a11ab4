"""A small HTTP server for loopback: HTTP/1.1 and HTTP/2 without TLS on one port.

It exists because a front that misbehaves on purpose needs a hand on every connection: it cuts
them, ends them with GOAWAY, and resets single streams.
"""

from __future__ import annotations

import asyncio
import contextlib

from outpost_cloudrun.testing.accepting import cut, stop_listening
from outpost_cloudrun.testing.exchanges import MOST_BODY, Handler, Reply, Request
from outpost_cloudrun.testing.http1 import Http1
from outpost_cloudrun.testing.http2 import Http2
from outpost_cloudrun.testing.link import Link, Wire


class Server:
    """A server on one port of loopback.

    Args:
        handler: answers each request. An exception of it breaks the answer off.
        streams: how many requests at once a connection of HTTP/2 may have.
    """

    def __init__(self, handler: Handler, *, streams: int = 100) -> None:
        self.handler = handler
        self.streams = streams
        self.links: set[Link] = set()
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Listen, on the port of before if there was one."""
        if self._listener is None:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(
                lambda: Link(self.links, self._speak), "127.0.0.1", self.port, backlog=1024
            )
            self.port = self._listener.sockets[0].getsockname()[1]

    async def shut(self, *, hard: bool) -> None:
        """Stop listening.

        Args:
            hard: cut all connections; else they get GOAWAY, and what is under way goes on.
        """
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await stop_listening(listener)
        if hard:
            await cut([link.transport for link in self.links])
        else:
            for link in list(self.links):
                link.drain()

    async def close(self) -> None:
        """End for good, with everything under way."""
        await self.shut(hard=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _speak(self, link: Link, two: bool) -> Wire:
        if two:
            return Http2(link, self._begin, streams=self.streams)
        return Http1(link, self._begin, most=MOST_BODY)

    def _begin(self, request: Request, reply: Reply) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._answer(request, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer(self, request: Request, reply: Reply) -> None:
        try:
            await self.handler(request, reply)
        except ConnectionError:
            with contextlib.suppress(ConnectionError):
                reply.reset()
        except BaseException:
            reply.reset()
            raise
