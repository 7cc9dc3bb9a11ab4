"""Who may ask the API, and how: tokens, roles, `Origin` and `Host`, and how large and slow one is.

What a browser can be made to send is refused by what it cannot leave out: a page of somebody else
sends its `Origin`, and a name that was made to point here stands in `Host`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from outpost_core.errors import OutpostError
from outpost_manager.errorview import error_shape
from outpost_manager.offloop import off_loop
from outpost_mayor.api.holding import Holding, TooManyError
from outpost_mayor.api.tokens import ROLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from outpost_mayor.api.tokens import Tokens

#: Bytes of a request's body, at most.
MOST: Final = 4 << 20
#: Seconds that a body may take to come, and that a client may take to take what is sent to it.
PATIENCE: Final = 30.0
SENDING: Final = 60.0
#: Seconds after which it is looked at again whether a token counts, while a stream goes on.
AGAIN: Final = 5.0
#: What anybody may ask.
_OPEN: Final = ("/healthz",)


class UnauthorizedError(OutpostError):
    """Nobody knows who asks."""

    exit_code = 2


class ForbiddenError(OutpostError):
    """Whoever asks may not do that."""

    exit_code = 2


class TooLargeError(OutpostError):
    """A body is larger than any that makes sense."""

    exit_code = 2


class TooSlowError(OutpostError):
    """A body did not come within its time."""

    exit_code = 5


#: Error → the status that says it.
_STATUS: Final[tuple[tuple[type[OutpostError], int], ...]] = (
    (UnauthorizedError, 401),
    (ForbiddenError, 403),
    (TooLargeError, 413),
    (TooManyError, 429),
)


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks.

    Args:
        name: of the token; "" for whoever owns the mayor.
        role: one of `ROLES`.
    """

    name: str
    role: str

    def may(self, role: str) -> bool:
        """Whether he may do what a role may."""
        return ROLES.index(self.role) >= ROLES.index(role)


def demand(request: Request, role: str, what: str = "this") -> None:
    """See to it that whoever asks has a role.

    Args:
        request: what he asks.
        role: one of `ROLES`.
        what: what needs it, for the error.

    Raises:
        ForbiddenError: he has not.
    """
    caller = request.scope.get("caller")
    if not isinstance(caller, Caller) or not caller.may(role):
        raise ForbiddenError(
            f"{what} needs the role {role}",
            hint=f"ask whoever runs the mayor for it: outpost token add NAME --role {role}",
        )


class Guard:
    """Stands before the application.

    Args:
        app: what answers.
        tokens: who may ask.
        scheme: of the address that clients use; "" for the private socket.
        loopback: whether it listens where nobody but this machine reaches it.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, *, scheme: str, loopback: bool) -> None:
        self._app = app
        self._tokens = tokens
        self._scheme = scheme
        self._loopback = loopback
        self._holding = Holding()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer why not."""
        if scope["type"] != "http":
            return  # a websocket is closed with 403 by whoever called
        with ExitStack() as held:
            try:
                headers = Headers(scope=scope)
                self._from_here(headers)
                body = b""
                if scope["path"] not in _OPEN:  # nothing is read of who needs not say who he is
                    caller = scope["caller"] = await self._caller(scope, headers)
                    send = self._while_known(caller, headers, send)
                    take = held.enter_context(self._holding.request(caller.name))
                    body = await asyncio.wait_for(_body(headers, receive, take), PATIENCE)
            except TimeoutError:
                error: OutpostError = TooSlowError(f"the request took more than {PATIENCE:g} s")
                await _refuse(error, 408, scope, receive, send)
            except (OutpostError, OSError) as refused:  # an OSError: the file of tokens
                status = next((code for kind, code in _STATUS if isinstance(refused, kind)), 500)
                await _refuse(refused, status, scope, receive, send)
            else:
                await self._app(scope, _again(body, receive), _bounded(send))

    def _from_here(self, headers: Headers) -> None:
        """Refuse what a page of somebody else had a browser send.

        Raises:
            ForbiddenError: it is such a request.
        """
        host, origins = headers.get("host", ""), headers.getlist("origin")
        if self._loopback and not _is_loopback(host):
            raise ForbiddenError(
                f"{host[:80]!a} is not this machine's own name", hint="say 127.0.0.1 or localhost"
            )
        for origin in origins:
            if not self._scheme or origin.lower() != f"{self._scheme}://{host}".lower():
                raise ForbiddenError(f"a page of {origin[:80]!a} asks, which is not this server's")

    async def _caller(self, scope: Scope, headers: Headers) -> Caller:
        """Return who asks.

        Raises:
            UnauthorizedError: nobody knows.
        """
        said = headers.getlist("authorization")
        if not said and not self._scheme:
            uid = (scope.get("state") or {}).get("peer")
            if uid in (0, os.geteuid()):
                return Caller(name="", role="admin")
        kind, _, token = (said[0] if len(said) == 1 else "").partition(" ")
        found = None
        if kind.lower() == "bearer" and token:
            found = await off_loop(self._tokens.find, token.strip())
        if found is None:
            raise UnauthorizedError(
                "no token was given" if not said else "that token is nobody's",
                hint="send Authorization: Bearer TOKEN; outpost token add NAME --role ROLE makes"
                " one",
            )
        return Caller(name=found.name, role=found.role)

    def _while_known(self, caller: Caller, headers: Headers, send: Send) -> Send:
        """Return what sends for as long as the token is somebody's, with the role that it had."""
        token = headers.get("authorization", "").partition(" ")[2].strip()
        looked = time.monotonic()

        async def say(message: Message) -> None:
            nonlocal looked
            if token and time.monotonic() - looked >= AGAIN:
                found = await off_loop(self._tokens.find, token)
                if found is None or (found.name, found.role) != (caller.name, caller.role):
                    raise ConnectionAbortedError("the token was removed meanwhile")
                looked = time.monotonic()
            await send(message)

        return say


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.removeprefix("[").removesuffix("]")
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _body(headers: Headers, receive: Receive, take: Callable[[int], None]) -> bytes:
    """Return the whole body.

    Args:
        headers: of the request.
        receive: gives its parts.
        take: counts their bytes.

    Raises:
        TooManyError: whoever asks has the mayor keep too much.
        TooLargeError: it is larger than `MOST`, or says so.
        ConnectionError: whoever sends it is gone.
    """
    said = headers.get("content-length", "0")
    if said.isdigit() and int(said) > MOST:
        raise TooLargeError(f"a request has at most {MOST >> 20} MiB")
    parts, size, more = list[bytes](), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the request was not sent to its end")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        take(len(parts[-1]))
        if size > MOST:
            raise TooLargeError(f"a request has at most {MOST >> 20} MiB")
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what tells an application the body that was read, then what comes."""
    told = False

    async def tell() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return tell


def _bounded(send: Send) -> Send:
    """Return what gives a client up that does not take what is sent to it."""

    async def say(message: Message) -> None:
        await asyncio.wait_for(send(message), SENDING)

    return say


async def _refuse(
    error: Exception, status: int, scope: Scope, receive: Receive, send: Send
) -> None:
    await failure(error, status)(scope, receive, send)


class Document(JSONResponse):
    """A JSON document in ASCII: any text can be in it, and none of it controls a terminal."""

    def render(self, content: Any) -> bytes:
        """Return its bytes."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def failure(error: BaseException, status: int) -> JSONResponse:
    """Return the answer that says an error: the same document as `--json` prints."""
    headers: dict[str, Any] = {"Cache-Control": "no-store"}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="outpost"'
    if status in (429, 503):
        headers["Retry-After"] = "5"
    return Document({"error": error_shape(error)}, status, headers)
