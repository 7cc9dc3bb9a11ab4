"""Requests and responses as plain values, a small router, and the ASGI application around both.

Nothing here knows of workers, or of the server that carries it. What a caller sends is bounded
before anybody looks at it: path, headers, body, the time that a body takes, and how many answers
are open at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    OutpostError,
    PlacementError,
    SpawnRefusedError,
    UnreachableError,
    UnsupportedError,
    UsageError,
)
from outpost_core.types import Json
from outpost_shared.protocol import clean, error_to_json, text

#: Bytes of a body, of all headers, and of a path with its query.
MOST_BODY: Final = 8 << 20
MOST_HEADERS: Final = 64 << 10
MOST_PATH: Final = 4 << 10
#: Bytes of all bodies that are being read at the same time.
MOST_BODIES: Final = 64 << 20
#: Seconds that a body may take.
BODY_TIME: Final = 60.0
#: Seconds for the last line of a stream when this program ends.
_LAST_LINE: Final = 0.5

Scope: TypeAlias = "MutableMapping[str, Any]"
Receive: TypeAlias = "Callable[[], Awaitable[MutableMapping[str, Any]]]"
Send: TypeAlias = "Callable[[MutableMapping[str, Any]], Awaitable[None]]"


class HttpError(OutpostError):
    """An answer with a status of its own, such as 413.

    Args:
        status: the HTTP status.
        error: what is told.
    """

    def __init__(self, status: int, error: OutpostError) -> None:
        super().__init__(error.message, hint=error.hint)
        self.status = status
        self.error = error


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a caller asks.

    Args:
        method: GET, POST …
        path: decoded, from `/` on.
        query: the last value of each name.
        headers: names in lower case.
        body: all of it.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Response:
    """What a caller gets.

    Args:
        status: the HTTP status.
        body: all of it, or pieces as they come; an iterator is closed when the caller goes.
        type: the content type.
        headers: further ones.
    """

    status: int = 200
    body: bytes | AsyncIterator[bytes] = b""
    type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler: TypeAlias = "Callable[..., Awaitable[Response]]"


def json_response(value: Json, status: int = 200) -> Response:
    """Return a response with a JSON value."""
    return Response(status=status, body=text(value) + b"\n")


def error_response(error: OutpostError) -> Response:
    """Return the response that tells an error; its status says of which kind it is."""
    if isinstance(error, HttpError):
        return json_response({"error": error_to_json(error.error)}, error.status)
    kinds: tuple[tuple[type[OutpostError], int], ...] = (
        (ConflictError, 409),
        (NotFoundError, 404),
        (SpawnRefusedError, 422),
        (PlacementError, 422),
        (UnreachableError, 503),
        (UsageError, 400),
        (UnsupportedError, 400),
    )
    status = next((status for kind, status in kinds if isinstance(error, kind)), 500)
    return json_response({"error": error_to_json(error)}, status)


def busy(what: str) -> HttpError:
    """Return the error of who has to come back later: this instance takes no more of it now."""
    error = UnreachableError(f"this instance takes no more: {what}", sent=False)
    return HttpError(429, error)


class Router:
    """Which function answers what.

    Routes look like `/work/{id}/stop`; a part in braces is any text without a slash, and is
    handed over under its name.
    """

    def __init__(self) -> None:
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = []

    def add(self, method: str, route: str, handler: Handler) -> None:
        """Let a handler answer a method at a route."""
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(route))
        self._routes.append((method, re.compile(pattern), handler))

    async def answer(self, request: Request) -> Response:
        """Return the handler's response.

        Raises:
            NotFoundError: there is no such route.
            HttpError: 405, it takes another method.
            OutpostError: what the handler raised.
        """
        methods = []
        for method, pattern, handler in self._routes:
            found = pattern.fullmatch(request.path)
            if found is None:
                continue
            if method == request.method:
                return await handler(request, **found.groupdict())
            methods.append(method)
        if methods:
            said = f"{clean(request.method, 20)} is not for that path; {', '.join(methods)} is"
            raise HttpError(405, UsageError(said))
        raise NotFoundError(
            f"there is nothing at {ascii(request.path[:120])[1:-1]}",
            hint="see docs/reference/work-protocol.md",
        )


class Application:
    """An ASGI application (version 3.0, type `http`) over a router.

    Args:
        router: who answers.
        token: what callers have to show as `Authorization: Bearer …`; "" for nothing.
        streams: how many answers in pieces may be open at once.
        open_paths: paths that everybody may ask.
    """

    def __init__(
        self,
        router: Router,
        *,
        token: str = "",
        streams: int = 1000,
        open_paths: str = "/health /healthz",
    ) -> None:
        self._router = router
        self._token = token.encode()
        self._most_streams = streams
        self._open = open_paths.split()
        self._reading = 0  # bytes of bodies
        self.streams = 0
        self.ending = asyncio.Event()  # streams that have no end of their own end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            response = await self._answer(scope, receive)
        except OutpostError as error:
            response = error_response(error)
        except Exception as error:  # noqa: BLE001 - told, whatever it is
            sys.stderr.write(traceback.format_exc())
            said = clean(f"{type(error).__name__}: {error}", 500)
            response = error_response(OutpostError(f"a defect of this program: {said}"))
        await self._send(response, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        pairs = scope["headers"]
        if sum(len(name) + len(value) for name, value in pairs) > MOST_HEADERS:
            raise HttpError(431, UsageError(f"the headers have more than {MOST_HEADERS} bytes"))
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in pairs}
        query = scope.get("query_string", b"")
        if len(scope["path"]) + len(query) > MOST_PATH:
            raise HttpError(414, UsageError(f"the path has more than {MOST_PATH} bytes"))
        if scope["path"] not in self._open:
            self._check(headers)
        try:
            asked = dict(parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict"))
        except ValueError:
            raise UsageError("the query of the path cannot be read") from None
        request = Request(
            method=scope["method"],
            path=scope["path"],
            query=asked,
            headers=headers,
            body=await self._body(headers, receive),
        )
        return await self._router.answer(request)

    def _check(self, headers: Mapping[str, str]) -> None:
        """Refuse who does not show the token; how long that takes says nothing about it.

        Raises:
            HttpError: 401.
        """
        if not self._token:
            return
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(shown.strip().encode("latin-1", "replace"), self._token)
        if scheme.lower() != "bearer" or not right:
            raise HttpError(
                401,
                UsageError(
                    "the caller has not shown the token of this program",
                    hint="send `Authorization: Bearer …` with what OUTPOST_TOKEN is there",
                ),
            )

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        """Read the body.

        Raises:
            HttpError: 413 it is too long, 408 too slow, 429 too many are being read.
        """
        said = headers.get("content-length", "")
        if said.isdecimal() and int(said[:20]) > MOST_BODY:
            raise _too_long()
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_TIME):
                more = True
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise UsageError("the caller went away before its request was whole")
                    part = message.get("body", b"")
                    size += len(part)
                    self._reading += len(part)
                    parts.append(part)
                    more = message.get("more_body", False)
                    if size > MOST_BODY:
                        raise _too_long()
                    if self._reading > MOST_BODIES:
                        raise busy("too many long requests at once")
        except TimeoutError:
            raise HttpError(408, UsageError(f"the body took more than {BODY_TIME:g} s")) from None
        finally:
            self._reading -= size
        return b"".join(parts)

    async def _send(self, response: Response, receive: Receive, send: Send) -> None:
        if isinstance(response.body, bytes):
            with contextlib.suppress(Exception):  # the caller has gone
                await self._begin(response, send)
                await send({"type": "http.response.body", "body": response.body})
            return
        pieces = response.body
        if self.streams >= self._most_streams:
            await _close(pieces)
            error = busy(f"{self.streams} streams are open")
            await self._send(error_response(error), receive, send)
            return
        self.streams += 1
        sending = asyncio.ensure_future(self._stream(response, pieces, send))
        gone = asyncio.ensure_future(_until_gone(receive))
        ending = asyncio.ensure_future(self.ending.wait())
        tasks = {sending, gone, ending}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():  # who has a last line of his own is just sending it
                await asyncio.wait({sending, gone}, timeout=_LAST_LINE)
        finally:
            self.streams -= 1
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await _close(pieces)
        if not sending.cancelled() and (trouble := sending.exception()):
            sys.stderr.write("".join(traceback.format_exception(trouble)))

    async def _stream(self, response: Response, pieces: AsyncIterator[bytes], send: Send) -> None:
        await self._begin(response, send)
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _begin(self, response: Response, send: Send) -> None:
        headers = {"content-type": response.type, "cache-control": "no-store", **response.headers}
        if isinstance(response.body, bytes):
            headers["content-length"] = str(len(response.body))
        else:
            headers["x-accel-buffering"] = "no"  # an nginx in front hands each line on at once
        pairs = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": pairs})


def _too_long() -> HttpError:
    return HttpError(413, UsageError(f"the body has more than {MOST_BODY} bytes"))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _close(pieces: AsyncIterator[bytes]) -> None:
    close = getattr(pieces, "aclose", None)
    if close is not None:
        with contextlib.suppress(Exception):
            await close()
