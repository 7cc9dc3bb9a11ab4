"""Asks a server over a channel that is opened when something is asked, and anew when it broke.

What can be repeated is repeated once; what is not known is never guessed.
"""

from __future__ import annotations

import asyncio

from outpost_core.backend import BuildContext, Outpost, OutpostOptions
from outpost_core.errors import ConflictError, OutpostError, UnreachableError, UnsupportedError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Json
from outpost_exec.stdio.client import Client, Params
from outpost_shared import silence
from outpost_shared.protocol import BrokenChannelError
from outpost_shared.silence import Silence


class Caller(Outpost):
    """The half of a served outpost that keeps the channel; a subclass gives `connect`."""

    def __init__(self, name: str, options: OutpostOptions, context: BuildContext) -> None:
        super().__init__(name, options, context)
        self._client: Client | None = None
        self._connecting: asyncio.Task[Client] | None = None
        self._closed = False

    async def connect(self) -> Client:
        """Open a channel to the server. Called when there is none, never twice at once.

        Raises:
            BrokenChannelError: what the channel was to stand on turned out to be broken; it is
                called once more then, and may make that anew. Nobody below repeats anything.
            UnreachableError: it could not be opened; says `sent=False`.
            OutpostError: the server does not want to serve.
        """
        raise NotImplementedError

    def given_up(self, client: Client, why: str) -> None:
        """End a channel on which nothing is heard; a subclass also drops what is below it.

        Args:
            client: the channel.
            why: continues after the peer's name.
        """
        client.drop(why)

    async def explain(self, error: OutpostError) -> None:
        """Add to the message of an error what is known of why the channel broke."""

    async def client(self) -> Client:
        """Return the live channel, opened now if there is none.

        Raises:
            UnreachableError: the outpost was closed.
            OutpostError: as of `connect`.
        """
        if self._closed:  # what is still under way must not open it again
            raise UnreachableError(f"{self.name} was closed", sent=False)
        if self._client is not None and not self._client.closed.is_set():
            return self._client
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
        # all that wait share one try, and one that leaves does not take it from the others
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> Client:
        try:
            self._client = await self.connect()
        except BrokenChannelError:  # what it stands on had broken unseen, and is made anew
            try:
                self._client = await self.connect()
            except BrokenChannelError as error:
                raise UnreachableError(error.message, hint=error.hint, sent=False) from error
        return self._client

    def _connected(self, task: asyncio.Task[Client]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # seen, also when nobody waits any more

    async def call(self, method: str, params: Params | None = None, *, repeat: bool = True) -> Json:
        """Ask the server, on a new channel if there is none or it breaks.

        A call that is cancelled while the server owes its answer and is silent takes the channel
        for dead (see `outpost_shared.silence`), so that the next call opens a new one.

        Args:
            method: its name.
            params: its arguments; `data` may be bytes, here and in the result (`data_of`).
            repeat: ask once more when the channel broke before an answer came. Only for what may
                be done twice.

        Raises:
            UnreachableError: no answer; `sent` is False only when certainly nothing was asked.
            UnsupportedError: the server has no such method.
            OutpostError: what the server answered.
        """
        return await self._asked(method, params, repeat=repeat)

    async def _asked(
        self,
        method: str,
        params: Params | None,
        *,
        repeat: bool,
        due: float = 0.0,
        deadline: float | None = None,
    ) -> Json:
        """As `call`, for a request whose answer is due after so many seconds, and comes in time."""
        broken: UnreachableError | None = None
        while True:
            try:
                client = await self.client()
                self._check_offered(client, method)
                return await self._exchange(client, method, params, due, deadline)
            except BrokenChannelError as error:
                if broken is not None or (error.sent and not repeat):
                    error.sent = error.sent or (broken is not None and broken.sent)
                    await self.explain(error)
                    raise
                broken = error
            except OutpostError as error:
                if broken is not None and broken.sent:
                    raise _in_doubt(error, broken, method) from error
                raise

    async def _exchange(
        self,
        client: Client,
        method: str,
        params: Params | None,
        due: float,
        deadline: float | None,
    ) -> Json:
        server = Silence(lambda: client.heard, due)
        try:
            async with asyncio.timeout(deadline):
                return await client.call(method, params)
        except (TimeoutError, asyncio.CancelledError) as error:
            if server.seconds >= silence.ANSWER and not client.closed.is_set():
                self.given_up(client, f"has not been heard of for {server.seconds:.0f} s")
            if isinstance(error, TimeoutError):
                raise BrokenChannelError(
                    f"{client.peer} did not answer {method} within {deadline:g} s"
                ) from None
            raise

    def _check_offered(self, client: Client, method: str) -> None:
        if method not in client.hello.methods:
            raise UnsupportedError(
                f"the program of {self.name} ({client.hello.server}) has no method {method!r}",
                hint=f"outpost doctor {self.name} compares what is declared with what it offers",
            )

    @hookimpl
    async def outpost_close(self) -> None:
        """End the channel for good; workers keep running."""
        self._closed = True
        connecting, client, self._client = self._connecting, self._client, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait({connecting})
        if client is not None:
            await client.aclose()


def _in_doubt(error: OutpostError, broken: UnreachableError, method: str) -> OutpostError:
    """Return what is to be raised when the repeated request was answered with an error.

    The first one may still be at work over there: a refusal of the second proves nothing.
    """
    if isinstance(error, UnreachableError) or (
        method == "spawn" and not isinstance(error, ConflictError)
    ):
        return UnreachableError(
            f"{broken.message}; asked again: {error.message}", hint=error.hint, sent=True
        )
    return error
