"""HTTP with a server: bounded answers, errors that say what to do, no surprises of the environment.

httpx is imported when a server is first asked.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

from outpost_core import __version__
from outpost_core.errors import UnreachableError, UsageError
from outpost_manager.remote import address, answers

if TYPE_CHECKING:
    import httpx

    from outpost_manager.remote.address import Address

#: What a query says; what is None is left out.
Query = Mapping[str, str | int | float | bool | list[str] | None]

#: Seconds to connect, and to send a piece of a request.
_CONNECT: Final = 10.0
_SEND: Final = 30.0
#: Seconds within which a server answers what it may have to ask its outposts for.
PATIENCE: Final = 120.0
#: Seconds without a byte of a stream of events, which has a heartbeat, until it counts as cut.
_SILENCE: Final = 60.0
#: Bytes of a document, at most, and of one that says an error.
_LARGEST: Final = 64 << 20
_LARGEST_ERROR: Final = 1 << 20


class Client:
    """A connection to a server; use it as an async context manager.

    Args:
        at: where it is.
        token: who asks; "" where the address alone says it.
    """

    def __init__(self, at: Address, token: str = "") -> None:
        self.at = at
        self._token = token
        self._http: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of the connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def _open(self) -> httpx.AsyncClient:
        if self._http is None:
            import httpx

            headers = {"User-Agent": f"outpost/{__version__}", "Accept": "application/json"}
            if self._token:
                headers["Authorization"] = f"Bearer {self._token}"
            own = httpx.AsyncHTTPTransport(uds=self.at.socket) if self.at.socket else None
            secure = self.at.base.startswith("https:")
            self._http = httpx.AsyncClient(
                base_url=self.at.base,
                headers=headers,
                transport=own,
                # the system's authorities, and those of SSL_CERT_FILE
                verify=ssl.create_default_context() if secure else False,
                # a proxy or a login of ~/.netrc has no business between us and this machine
                trust_env=not self.at.local,
                follow_redirects=False,
                timeout=httpx.Timeout(PATIENCE, connect=_CONNECT, write=_SEND, pool=None),
            )
        return self._http

    async def get(self, path: str, query: Query | None = None) -> dict[str, Any]:
        """Return a document.

        Args:
            path: below the server's URL.
            query: what is asked for.

        Raises:
            UnreachableError: it cannot be asked, or does not answer as a server of ours.
            OutpostError: what it refused with.
        """
        return await self._ask("GET", path, query)

    async def post(
        self, path: str, said: Mapping[str, Any] | None = None, query: Query | None = None
    ) -> dict[str, Any]:
        """Have something done and return the document about it; raises as `get` does.

        Args:
            path: below the server's URL.
            said: the JSON object that is sent.
            query: besides.
        """
        return await self._ask("POST", path, query, {} if said is None else said)

    async def delete(self, path: str) -> dict[str, Any]:
        """Have something removed and return the document about it; raises as `get` does."""
        return await self._ask("DELETE", path, None)

    async def _ask(
        self, method: str, path: str, query: Query | None, said: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        content = None if said is None else json.dumps(said).encode("ascii")
        headers = {} if content is None else {"Content-Type": "application/json"}
        async with self.stream(
            method, path, query, headers=headers, content=content, sent=method != "GET"
        ) as answer:
            body = await self._body(answer, _LARGEST)
        return answers.document(body, self.at.shown)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        silence: float | None = PATIENCE,
        sent: bool = False,
    ) -> AsyncIterator[httpx.Response]:
        """Ask, and hand the answer out while it comes; raises as `get` does.

        Args:
            method: of HTTP.
            path: below the server's URL.
            query: what is asked for.
            headers: besides those of every request.
            content: the body.
            silence: seconds without a byte after which it counts as cut; None for any time.
            sent: what is asked changes something, so an error says that it may have happened.
        """
        http = self._open()
        import httpx

        said = {
            key: str(value).lower() if isinstance(value, bool) else value
            for key, value in (query or {}).items()
            if value is not None
        }
        with self._told(sent):
            request = http.build_request(
                method, path, params=said, headers=headers, content=content,
                timeout=httpx.Timeout(silence, connect=_CONNECT, write=_SEND, pool=None),
            )  # fmt: skip
            answer = await _send(http, request)
            try:
                if answer.status_code != 200:
                    body = await self._body(answer, _LARGEST_ERROR)
                    raise answers.refusal(answer.status_code, body, self.at.shown)
                yield answer
            finally:
                await answer.aclose()

    async def _body(self, answer: httpx.Response, most: int) -> bytes:
        parts, size = list[bytes](), 0
        with self._told(False):
            async for part in answer.aiter_bytes():
                size += len(part)
                if size > most:
                    raise answers.strange(self.at.shown, f"it answered more than {most} bytes")
                parts.append(part)
        return b"".join(parts)

    @contextmanager
    def _told(self, sent: bool) -> Iterator[None]:
        """Turn what httpx raises into what a user reads."""
        import httpx

        try:
            yield
        except httpx.UnsupportedProtocol as error:
            raise UsageError(f"{self.at.shown} cannot be asked: {error}") from None
        except httpx.ConnectTimeout:
            raise self._silent(
                f"nothing there answered within {_CONNECT:g} s", sent=False
            ) from None
        except (httpx.ConnectError, httpx.ProxyError) as error:
            raise self._silent(_cause(error), sent=False) from None
        except httpx.TimeoutException:
            raise self._silent("it has fallen silent", sent=sent) from None
        except httpx.HTTPError as error:
            raise self._silent(f"the connection broke: {_cause(error)}", sent=sent) from None
        except httpx.InvalidURL as error:
            raise UsageError(f"{self.at.shown} cannot be asked: {error}") from None
        except httpx.StreamError as error:
            raise self._silent(str(error), sent=sent) from None

    def _silent(self, why: str, *, sent: bool) -> UnreachableError:
        maybe = "; what was asked may have been done all the same" if sent else ""
        return UnreachableError(
            f"the server {self.at.shown} cannot be reached: {why}{maybe}",
            hint=next_step(self.at, why),
            sent=sent,
        )


async def _send(http: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """Send a request; a reading one twice, where the connection was closed before any answer.

    A server may close a connection that was kept in the moment in which it is used again; RFC 9112,
    9.3.1, lets a client repeat what changes nothing.
    """
    import httpx

    try:
        return await http.send(request, stream=True)
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
        if request.method != "GET":
            raise
        return await http.send(request, stream=True)


def next_step(at: Address, why: str) -> str:
    """Return what to do about a server that cannot be reached.

    Args:
        at: where it is.
        why: in the words of whoever tried.
    """
    if at.socket:
        return "does outpost serve run for that state folder, as your user?"
    secure = at.base.startswith("https:")
    said = why.lower()
    if "certificate" in said:
        if "hostname mismatch" in said or "ip address mismatch" in said:
            return "say the name that is in it, as --server https://NAME, or have it made anew"
        if "expired" in said or "not yet valid" in said:
            return "the server needs a new certificate, or a clock is wrong: here, or there"
        return "SSL_CERT_FILE=FILE names the certificate of an authority of your own"
    if secure and any(
        word in said for word in ("wrong version", "record layer", "unknown protocol")
    ):
        if at.local:
            return f"it does not speak TLS there: say http://{at.base.partition('://')[2]}"
        return "it does not speak TLS there: outpost serve needs --tls-cert and --tls-key for that"
    if not secure and "connection broke" in said:
        return f"where it speaks TLS, say https://{at.base.partition('://')[2]}"
    if secure and not at.local and _proxy():
        return (
            "it is asked through the proxy that HTTPS_PROXY or ALL_PROXY names; NO_PROXY=HOST goes"
            " straight"
        )
    return "does outpost serve run there, and listen? outpost serve --status says so"


def _proxy() -> str:
    from urllib.request import getproxies

    found = getproxies()
    return found.get("https") or found.get("all") or ""


def _cause(error: BaseException) -> str:
    """Return the words of the deepest cause that has some."""
    said, seen = "", error
    for _ in range(10):
        said = (getattr(seen, "strerror", None) or str(seen)).strip() or said
        following = seen.__cause__ or seen.__context__
        if following is None:
            break
        seen = following
    return " ".join(said.split())[:500] or type(error).__name__


def segment(text: str) -> str:
    """Return a text as one part of a path.

    Raises:
        UsageError: it is none that a path can have.
    """
    try:
        said = quote(text, safe=":@+~")
    except UnicodeEncodeError:
        raise UsageError(f"{text[:80]!a} names nothing", hint="outpost workers --all") from None
    if said in ("", ".", ".."):
        raise UsageError(f"{text[:80]!a} names nothing", hint="outpost workers --all")
    return said


def open_client(url: str, environ: Mapping[str, str]) -> Client:
    """Return a client of the server at a URL; asks nobody yet.

    Args:
        url: see `address.address`.
        environ: names the token.

    Raises:
        UsageError: the URL or the token cannot be used.
    """
    return Client(address.address(url), address.token(environ))
