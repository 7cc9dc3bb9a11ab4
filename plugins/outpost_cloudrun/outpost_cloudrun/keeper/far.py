"""Asks the program in the containers at one address, and says what an answer means.

The protocol is that of `outpost_cloudrun.server`; between it and us is Google's front, which has
answers of its own. Each failure says whether the request may have been acted upon: only then is a
worker in doubt.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx

from outpost_cloudrun.connection.client import Affinity, front_error
from outpost_cloudrun.connection.faults import was_sent
from outpost_cloudrun.keeper import lines
from outpost_core import wire
from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    OutpostError,
    SpawnRefusedError,
    UnreachableError,
    UsageError,
)
from outpost_core.types import Cleaned, Json
from outpost_shared import border
from outpost_shared.protocol import error_from_json

#: Seconds for a connection to the front.
_CONNECT: Final = 10.0
#: Seconds until an answer begins: a container may have to be started, which Google allows four
#: minutes for, and a request waits in a queue before that.
BEGIN: Final = 300.0
#: Seconds for an answer to a question that needs no work.
_PATIENCE: Final = 60.0
#: Seconds that the clocks may differ before moments are told by ours.
_SAME_TIME: Final = 3.0
#: Bytes of an answer that is no stream.
_MOST: Final = 1 << 20
_TIMEOUT: Final = httpx.Timeout(connect=_CONNECT, read=None, write=60.0, pool=_CONNECT)


class BusyError(UnreachableError):
    """No container is free (429): the request was certainly not acted upon."""


class Answer:
    """The stream of one worker, as it comes.

    Args:
        response: the response, of which nothing was read yet.
    """

    def __init__(self, response: httpx.Response) -> None:
        #: Seconds that the clock over there is ahead of ours, where that is worth mentioning.
        self.skew = _skew(response.headers.get("date", ""))
        self._response = response
        self._lines = lines.split(response.aiter_raw())

    async def next(self, patience: float) -> lines.Line | None:
        """Return the next line; None when the stream has ended.

        Args:
            patience: seconds without a line after which the connection is taken for dead.

        Raises:
            UnreachableError: it broke.
            OddLineError: what came is not the protocol.
        """
        try:
            async with asyncio.timeout(patience):
                async for line in self._lines:
                    return lines.read(line)
        except TimeoutError:
            raise UnreachableError(f"nothing was heard for {patience:g} s") from None
        except httpx.HTTPError as error:
            raise UnreachableError(f"the stream broke: {_said(error)}") from None
        return None

    async def aclose(self) -> None:
        """End the stream; the worker keeps running."""
        with contextlib.suppress(Exception):
            await self._response.aclose()


class Far:
    """The program at one address.

    Args:
        name: the outpost's name, for messages.
        url: where it is.
        client: asks it; is not closed here.
        whose: returns the identity that asks, for messages.
        region: where it is, for messages.
    """

    def __init__(
        self,
        name: str,
        url: str,
        client: httpx.AsyncClient,
        *,
        whose: Callable[[], str] = str,
        region: str = "",
    ) -> None:
        self._name = name
        self.url = url.rstrip("/")
        self._client = client
        self._whose = whose
        self._region = region

    async def work(self, body: Mapping[str, Json], cookie: str) -> tuple[Answer, str]:
        """Start, adopt or attach to a worker; return its stream, and the cookies that go with it.

        Raises:
            SpawnRefusedError: certainly nothing was started.
            ConflictError: the worker is there with another order.
            NotFoundError: there is no such worker (only where nothing was to be started).
            BusyError: no container was free.
            UnreachableError: nothing is known, unless it says `sent=False`.
        """
        response = await self._open("POST", "/work", body, cookie, BEGIN)
        affinity = Affinity(cookie)
        affinity.learn(response)
        return Answer(response), affinity.cookie

    async def stop(self, worker: str, body: Mapping[str, Json], cookie: str) -> None:
        """Ask for a worker's end.

        Raises:
            NotFoundError: there is no such worker.
            OutpostError: as of `work`.
        """
        await self._ask("POST", f"/work/{quote(worker)}/stop", body, cookie, _PATIENCE)

    async def clean(
        self, worker: str, body: Mapping[str, Json], cookie: str, *, force: bool
    ) -> Cleaned:
        """Remove an ended worker's files.

        Raises:
            OutpostError: as of `work`.
        """
        path = f"/work/{quote(worker)}?force={'true' if force else 'false'}"
        content = await self._ask("DELETE", path, body, cookie, _PATIENCE)
        try:
            told = wire.from_json(Cleaned, json.loads(content))
        except (ValueError, UsageError, RecursionError):
            raise UnreachableError(f"{self._name} answered something odd to a clean") from None
        rescued = None if told.rescued is None else border.line(told.rescued)
        return replace(told, rescued=rescued, detail=border.line(told.detail))

    async def bundle(
        self, worker: str, cookie: str, *, owner: str, digest: str
    ) -> AsyncIterator[bytes]:
        """Yield the bundle of a worker's unpushed work.

        Args:
            worker: its id.
            cookie: see `work`.
            owner: the id of the ledger that has ordered it; "" for none.
            digest: identity of its order.

        Raises:
            NotFoundError: there is none.
            ConflictError: the worker that answers is another machine's.
            OutpostError: as of `work`.
        """
        whose = urlencode({"owner": owner, "digest": digest})
        path = f"/work/{quote(worker)}/rescue?{whose}"
        response = await self._open("GET", path, None, cookie, _PATIENCE)
        try:
            pieces = response.aiter_raw()
            while True:
                async with asyncio.timeout(_PATIENCE):
                    piece = await anext(pieces, b"")
                if not piece:
                    return
                yield piece
        except TimeoutError:
            raise UnreachableError(f"nothing more of a bundle came for {_PATIENCE:g} s") from None
        except httpx.HTTPError as error:
            raise UnreachableError(f"a bundle broke off: {_said(error)}") from None
        finally:
            await response.aclose()

    async def health(self, programs: str = "") -> Mapping[str, Any]:
        """Return what a container says of itself; starts one when none is there.

        Args:
            programs: names of programs to look for, with commas.

        Raises:
            OutpostError: as of `work`.
        """
        query = f"?programs={quote(programs)}" if programs else ""
        content = await self._ask("GET", f"/health{query}", None, "", BEGIN)
        try:
            said = json.loads(content)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise UnreachableError(
                f"what answers at {self.url} is not Outpost's program",
                hint=f"outpost bootstrap {self._name}, or see `url` and `service` of it",
            )
        return said

    async def warm(self) -> AsyncIterator[None]:
        """Hold a request that keeps a container; yields with each sign of life.

        Raises:
            OutpostError: as of `work`.
        """
        response = await self._open("GET", "/warm", None, "", BEGIN)
        try:
            async for _ in response.aiter_raw():
                yield
        except httpx.HTTPError:
            return
        finally:
            await response.aclose()

    # --- inside ---------------------------------------------------------------------------------

    async def _open(
        self, method: str, path: str, body: Mapping[str, Json] | None, cookie: str, patience: float
    ) -> httpx.Response:
        """Return an answer that is one, of which nothing was read yet."""
        headers = Affinity(cookie).headers()
        request = self._client.build_request(
            method, self.url + path, json=body, headers=headers, timeout=_TIMEOUT
        )
        try:
            async with asyncio.timeout(patience):
                response = await self._client.send(request, stream=True)
        except TimeoutError:
            raise UnreachableError(f"{self.url} did not answer within {patience:g} s") from None
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"{self.url} cannot be reached: {_said(error)}", sent=was_sent(error)
            ) from None
        except OutpostError as error:  # there is no token: nothing was asked
            raise UnreachableError(error.message, hint=error.hint, sent=False) from error
        if response.is_success:
            return response
        raise self._refusal(response, await self._content(response, patience))

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Json] | None, cookie: str, patience: float
    ) -> bytes:
        """Return the content of an answer that is no stream."""
        response = await self._open(method, path, body, cookie, patience)
        return await self._content(response, patience)

    async def _content(self, response: httpx.Response, patience: float) -> bytes:
        held: list[bytes] = []
        room = _MOST
        try:
            async with asyncio.timeout(patience):
                async for piece in response.aiter_raw():
                    held.append(piece[:room])
                    room -= len(held[-1])
                    if not room:
                        break
        except (TimeoutError, httpx.HTTPError) as error:
            raise UnreachableError(f"the answer of {self.url} broke off: {_said(error)}") from None
        finally:
            await response.aclose()
        return b"".join(held)

    def _refusal(self, response: httpx.Response, content: bytes) -> OutpostError:
        """Return what an answer that is none means."""
        told = _told(content)
        status = response.status_code
        if told is not None:
            return _by_program(status, told)
        front = front_error(response, whose=self._whose(), region=self._region)
        if front is not None:
            return front
        if status == 429:
            hint = f"raise max_workers of {self._name}, or wait"
            return BusyError("no container is free", hint=hint, sent=False)
        if status in _NOT_TAKEN:
            return SpawnRefusedError(f"{self.url} answered {status}: {_NOT_TAKEN[status]}")
        return UnreachableError(
            f"{self.url} answered {status}", hint=f"outpost doctor {self._name}"
        )


#: What the front says of a request that it does not hand on.
_NOT_TAKEN: Final = {
    400: "the request is not understood",
    413: "the order is too large: make the prompt or the issue's text shorter",
}


def _told(content: bytes) -> OutpostError | None:
    """Return the error that our program told; None when somebody else answered."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("error"), dict):
        return None
    error = said["error"]
    if not isinstance(error.get("kind"), str):  # Google's own errors are objects too
        return None
    told = error_from_json(error)
    border.tame(told)
    return told


def _by_program(status: int, told: OutpostError) -> OutpostError:
    if status == 404:
        return NotFoundError(told.message, hint=told.hint)
    if status == 409:
        return ConflictError(told.message, hint=told.hint)
    if status == 429:
        return BusyError(told.message, hint=told.hint, sent=False)
    if status in (400, 401, 403, 413, 422):
        return SpawnRefusedError(told.message, hint=told.hint)
    sent = told.sent if isinstance(told, UnreachableError) else True
    return UnreachableError(told.message, hint=told.hint, sent=sent)


def _skew(date: str) -> float:
    """Return how far a clock is ahead of ours, by the date that it says to the second."""
    try:
        skew = parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return skew if abs(skew) > _SAME_TIME else 0.0


def _said(error: BaseException) -> str:
    said = border.line(str(error), 200)
    return said or type(error).__name__
