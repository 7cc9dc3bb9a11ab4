"""Requests to one API server, over the official client's connection pool.

No model of the official client is used: bodies are dicts, so that a field which it does not know
(yet) is no error, and nothing of its 200 megabytes of classes is imported (`official`).

What this adds: a dead line is seen (the kernel asks whether the other side is there), a login that
has run out is renewed once, and what goes wrong is an error that names the thing and the cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from outpost_core import __version__
from outpost_core.errors import OutpostError, UnreachableError
from outpost_k8s.api import config, failures, login
from outpost_k8s.api.config import Place
from outpost_k8s.api.errors import ApiError, StrangeError, UnavailableError, told
from outpost_k8s.api.failures import CONNECT
from outpost_k8s.api.login import Credentials
from outpost_k8s.api.official import official
from outpost_shared import border

#: Seconds without a byte of an answer.
IDLE: Final = 30.0
#: Connections at once: each that is followed, watched or attached to holds one.
_CONNECTIONS: Final = 200
#: Turns of the event loop in which a connection that was broken off is closed.
_TURNS: Final = 3
#: Seconds before their end at which credentials are renewed.
_EARLY: Final = 30.0
#: Longest body of an error that is read, in bytes.
_ERROR: Final = 64 << 10
JSON: Final = "application/json"


class Transport:
    """The connections to one API server, opened when they are needed.

    Args:
        place: the cluster.
        peer: its name in messages.
        outpost: the outpost's name, for hints.
        kubeconfig: the file that the place came from, as it was configured.
        use_proxy: heed HTTPS_PROXY and NO_PROXY.
    """

    def __init__(
        self,
        place: Place,
        peer: str,
        *,
        outpost: str = "",
        kubeconfig: Path | None = None,
        use_proxy: bool = True,
    ) -> None:
        self.place = place
        self.peer = peer
        self.heard = 0.0  # time.monotonic() of the last answer
        self.skew: float | None = None  # seconds that the server's clock is ahead
        self._date = ""  # the last that it has told
        self._outpost = outpost
        self._kubeconfig = kubeconfig
        self._use_proxy = use_proxy
        self._rest: Any = None  # RESTClientObject of the official client
        self._credentials: Credentials | None = None
        self._logins = 0
        self._logging_in = asyncio.Lock()
        self._before: Any = None  # of the login before

    # --- requests -----------------------------------------------------------------------------

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        accept: str = JSON,
        content: str = JSON,
        idle: float | None = IDLE,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask, and give the answer; a login that has run out is renewed once.

        Args:
            method: GET, POST, PATCH or DELETE.
            path: with a slash at its beginning.
            query: names and values.
            body: what is sent as JSON.
            accept: the type of the answer.
            content: the type of the body.
            idle: seconds without a byte after which the line is taken for dead; None for never.

        Raises:
            ApiError: the answer is none of success.
            UnavailableError: there was none; `sent` says whether the request may have arrived.
        """
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT, connect=CONNECT * 3, sock_read=idle)
        url = self.place.server + path
        if query:
            url += "?" + urlencode(query, quote_via=quote)
        asked = f"{method} {path}"
        for last in (False, True):
            rest, headers, number = await self._ready()
            headers |= {"Accept": accept, "Content-Type": content}
            asked_at = time.time()
            try:
                answer = await rest.request(
                    method, url, headers=headers, body=body, _request_timeout=timeout
                )
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                raise self.broken(error, sending=True) from error
            response: aiohttp.ClientResponse = answer.response
            self.heard = time.monotonic()
            self._heed_date(response.headers.get("Date", ""), asked_at)
            if response.status == 401 and not last and await self._renewed(number):
                response.close()
                continue
            break
        async with response:
            try:
                if response.status >= 300 or response.history:
                    raise await self._told(asked, response)
                yield response
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise self.broken(error) from error

    @asynccontextmanager
    async def websocket(
        self, path: str, query: Sequence[tuple[str, str]], protocols: Sequence[str]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse[bool]]:
        """Open a WebSocket; it is closed with the block.

        Args:
            path: as of `request`.
            query: as of `request`.
            protocols: that we speak, the best first.

        Raises:
            ApiError: the server refuses, with its words.
            UnavailableError: there was no answer; nothing was begun.
        """
        question = urlencode(query, quote_via=quote)
        url = f"{self.place.server}{path}?{question}"
        for last in (False, True):
            rest, headers, number = await self._ready()
            try:
                async with asyncio.timeout(CONNECT * 3):
                    socket_ = await self._session(rest).ws_connect(
                        url.replace("http", "ws", 1),
                        headers=headers,
                        protocols=protocols,
                        autoping=False,
                        autoclose=False,
                        timeout=aiohttp.ClientWSTimeout(ws_close=5.0),
                        proxy=rest.proxy,
                        server_hostname=rest.configuration.tls_server_name,
                    )
            except aiohttp.WSServerHandshakeError as error:
                if error.status == 401 and not last and await self._renewed(number):
                    continue
                raise await self._refused(path, query, error) from error
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                raise self.broken(error, sending=True) from error
            break
        self.heard = time.monotonic()
        try:
            yield socket_
        finally:
            await socket_.close()

    async def _refused(
        self, path: str, query: Sequence[tuple[str, str]], error: aiohttp.WSServerHandshakeError
    ) -> ApiError:
        """Return why a WebSocket was refused: its words come only with a request without one."""
        try:
            async with self.request("GET", path, query=query):
                pass
        except ApiError as said:
            if said.status not in (400, 426) or "upgrade" not in said.message.lower():
                return said
        return told(
            self.peer, f"POST {path}", error.status, error.message.encode(), outpost=self._outpost,
            login=self._how, headers=error.headers,
        )  # fmt: skip

    async def aclose(self) -> None:
        """Close all connections."""
        clients = [rest for rest in (self._before, self._rest) if rest is not None]
        self._before = self._rest = self._credentials = None
        for rest in clients:
            await rest.close()
        for _ in range(_TURNS):  # what was broken off is closed by the loop in its next turns
            await asyncio.sleep(0)

    # --- login --------------------------------------------------------------------------------

    async def _ready(self) -> tuple[Any, dict[str, str], int]:
        """Return the client, the headers of a request, and the number of this login."""
        credentials = self._credentials
        if credentials is None or _over(credentials):
            async with self._logging_in:
                credentials = self._credentials
                if credentials is None or _over(credentials):
                    credentials = await self._log_in()
        headers = dict(credentials.headers)
        key = await credentials.configuration.get_api_key_with_prefix("BearerToken")
        if key:
            headers["Authorization"] = key
        headers["User-Agent"] = f"outpost/{__version__}"
        return self._rest, headers, self._logins

    async def _renewed(self, number: int) -> bool:
        """Log in again, unless that was done since; return whether another try makes sense."""
        async with self._logging_in:
            if number != self._logins:
                return True
            before = self._credentials
            self.place = config.again(self.place, self._kubeconfig)
            fresh = await self._log_in()
            return before is None or (before.token, before.line) != (fresh.token, fresh.line)

    async def _log_in(self) -> Credentials:
        answer = await login.log_in(self.place)
        before = self._credentials
        with login.credentials(self.place, answer) as credentials:
            if before is None or before.line != credentials.line:  # more than the token is new
                try:
                    rest = _client(credentials, self._use_proxy)
                except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                    raise self._no_certificate(error) from error
                await self._replace(rest)
        self._credentials = credentials
        self._logins += 1
        return credentials

    async def _replace(self, rest: Any) -> None:
        """Use other connections from now on; what runs on those of before may end in peace."""
        if self._before is not None:
            await self._before.close()
        self._before, self._rest = self._rest, rest

    def _no_certificate(self, error: Exception) -> UnreachableError:
        said = border.line(str(error), 200)
        return UnreachableError(
            f"the certificates of {self.place.user!r} for {self.peer} cannot be used: {said}",
            hint="let your cluster's tool write the kubeconfig anew",
            sent=False,
        )

    @staticmethod
    def _session(rest: Any) -> aiohttp.ClientSession:
        if rest.pool_manager is None:
            rest.pool_manager = rest._create_pool_manager()  # noqa: SLF001 - as its own WsApiClient
        session: aiohttp.ClientSession = rest.pool_manager
        return session

    @property
    def _how(self) -> str:
        """How we log in, and what is wrong with that, as far as can be seen from here."""
        ends = self._credentials.certificate_ends if self._credentials is not None else None
        if ends is not None and ends < time.time():
            day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ends))
            return f"the certificate of user {self.place.user!r} ended on {day}"
        return self.place.how

    def _heed_date(self, date: str, asked_at: float) -> None:
        if date != self._date:  # hundreds of answers in a second tell the same
            self._date = date
            self.skew = _skew(date, asked_at, self.skew)

    # --- what goes wrong ----------------------------------------------------------------------

    async def _told(self, asked: str, response: aiohttp.ClientResponse) -> ApiError:
        body = b""
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            while len(body) < _ERROR and (data := await response.content.read(_ERROR)):
                body += data
        if response.history:
            return ApiError(
                f"{self.peer} sends us elsewhere: {border.line(str(response.url), 200)}",
                hint="set the API server's own URL in the kubeconfig",
                status=response.status,
            )
        return told(
            self.peer, asked, response.status, body, outpost=self._outpost,
            login=self._how, headers=response.headers,
        )  # fmt: skip

    def broken(self, error: Exception, *, sending: bool = False) -> OutpostError:
        """Return what a failed connection means.

        Args:
            error: what the connection's library says.
            sending: the answer had not begun.
        """
        why, hint, sent = failures.cause(error)
        kind = StrangeError if isinstance(error, failures.FINAL) else UnavailableError
        return kind(
            f"{self.peer} at {self.place.server} {why}", hint=hint, sent=sent or not sending
        )


def _skew(date: str, asked_at: float, before: float | None) -> float | None:
    """Return by how many seconds a server's clock is ahead of ours, by the `Date` of an answer.

    It has whole seconds, and was written at some moment between question and answer: what fits to
    that is no difference.
    """
    try:
        told = parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return before
    if told > time.time():
        return told - time.time()
    return min(told + 1.0 - asked_at, 0.0)


def _over(credentials: Credentials) -> bool:
    return credentials.expires is not None and time.time() > credentials.expires - _EARLY


def _client(credentials: Credentials, use_proxy: bool) -> Any:
    """Return the official client of these credentials; certificates are read here."""
    configuration: Any = credentials.configuration
    configuration.connection_pool_maxsize = _CONNECTIONS
    if use_proxy and not configuration.proxy:
        configuration.proxy = _proxy(configuration.host)
    # with `trust_env` each request would read ~/.netrc and the environment anew, on two threads
    configuration.client_session_kwargs = {
        "trust_env": False,
        "cookie_jar": aiohttp.DummyCookieJar(),
    }
    return official().rest(configuration)


def _proxy(server: str) -> str | None:
    """Return the proxy that the environment says for a server; None for none."""
    where = urlsplit(server)
    if not where.hostname or proxy_bypass(where.hostname):
        return None
    return getproxies().get(where.scheme)
