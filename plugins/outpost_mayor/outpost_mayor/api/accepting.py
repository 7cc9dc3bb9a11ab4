"""Who is connected to the API: at most so many, and nobody for nothing.

Connections are accepted here rather than by the framework, so that those that are still at their
TLS handshake count, too. When there is no room, one that waits for nothing makes it: of the address
that has the most of these, the one that is idle the longest. So whoever opens many takes room from
himself, and one whose request is being answered is never cut.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from outpost_shared import keeping
from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    import ssl

#: Connections at once, where so many descriptors may be open twice; workers need some as well.
MOST: Final = 512
#: Seconds that a request may take to be sent, but for its body; and a TLS handshake.
FIRST: Final = 30.0
HANDSHAKE: Final = 10.0


class Guest(H11Protocol):
    """HTTP/1.1, with who is at the other end, and without those who connect and say nothing."""

    _late: asyncio.TimerHandle | None = None
    #: When it was last of use to whoever is at the other end (`time.monotonic`).
    idle_since = 0.0
    #: The address at the other end; "" on a private socket.
    address = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, with a time for the first request."""
        super().connection_made(transport)
        self.idle_since = time.monotonic()
        self.address = self.client[0] if self.client else ""
        self.app_state = {**self.app_state, "peer": _peer(transport)}
        self._late = self.loop.call_later(FIRST, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Take what comes, within the time of its request."""
        super().data_received(data)
        # each request has its time, not only the first: a part of one ends what keeps idle
        # connections from staying
        if self.answering:
            self._in_time()
        elif self._late is None:
            self._late = self.loop.call_later(FIRST, self._give_up)

    def on_response_complete(self) -> None:
        """Be idle from now on."""
        self.idle_since = time.monotonic()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._in_time()
        super().connection_lost(exc)

    @property
    def answering(self) -> bool:
        """Whether a request is being answered."""
        return bool(self.cycle) and not self.cycle.response_complete

    def leave(self) -> None:
        """Make room for others."""
        self.connections.discard(self)
        self.transport.abort()

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if not self.answering:  # no request was whole by now
            self.transport.close()


class _Greeted:
    """A connection that is at its TLS handshake."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.idle_since = time.monotonic()
        self.task: asyncio.Task[Any] | None = None

    def leave(self) -> None:
        assert self.task is not None
        self.task.cancel()


class Porter:
    """Accepts connections.

    Args:
        make: makes the protocol of one.
        guests: those that are connected.
        tls: how they speak TLS.
        most: how many there may be.
    """

    def __init__(
        self,
        make: Callable[[], Guest],
        guests: set[Any],
        tls: ssl.SSLContext | None,
        most: int | None = None,
    ) -> None:
        self._make = make
        self._guests = guests
        self._tls = tls
        self._most = _room() if most is None else most
        self._greeted: set[_Greeted] = set()

    async def accept(self, at: socket.socket) -> None:
        """Let in who connects, for ever.

        Args:
            at: a listening socket that does not block.
        """
        loop = asyncio.get_running_loop()
        pauses = Backoff(0.05, 1.0)
        while True:
            try:
                end, address = await loop.sock_accept(at)
            except OSError:  # it was cut already, or no descriptor is left
                await pauses.wait()
                continue
            pauses.reset()
            self._greet(end, str(address[0]) if isinstance(address, tuple) else "")
            await asyncio.sleep(0)  # others have their turn, however many connect

    async def close(self) -> None:
        """Give up who is at his handshake."""
        tasks = [one.task for one in self._greeted if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _greet(self, end: socket.socket, address: str) -> None:
        if len(self._guests) + len(self._greeted) >= self._most and not self._make_room():
            end.close()
            return
        one = _Greeted(address)
        self._greeted.add(one)
        one.task = asyncio.create_task(self._begin(end))
        one.task.add_done_callback(lambda _: self._greeted.discard(one))

    async def _begin(self, end: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        patience = None if self._tls is None else HANDSHAKE
        try:
            await loop.connect_accepted_socket(
                self._make, end, ssl=self._tls, ssl_handshake_timeout=patience
            )
        except OSError:  # no TLS, or he is gone: his loss
            end.close()

    def _make_room(self) -> bool:
        idle = [one for one in self._guests if not one.answering] + [
            one for one in self._greeted if one.task is not None and not one.task.cancelling()
        ]
        if not idle:
            return False
        crowd = Counter(one.address for one in idle)
        busiest = max(crowd.values())
        of = (one for one in idle if crowd[one.address] == busiest)
        min(of, key=lambda one: one.idle_since).leave()
        return True


def _room() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if files == resource.RLIM_INFINITY else max(8, min(MOST, files // 2))


def _peer(transport: asyncio.Transport) -> int | None:
    """Return the user at the other end of a private socket; None of any other connection."""
    end = transport.get_extra_info("socket")
    if end.family != socket.AF_UNIX:
        return None
    try:
        return keeping.peer(end)
    except OSError:
        return None
