"""The client that talks to a container: HTTP/2, the caller's identity, and what an answer means."""

from __future__ import annotations

import json
import re
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final

import httpx

from outpost_cloudrun.connection.identity import Identity
from outpost_cloudrun.connection.proxy import is_loopback
from outpost_cloudrun.connection.transport import H2Transport, Limits
from outpost_cloudrun.options import Auth, CloudRunOptions
from outpost_core.errors import OutpostError, UnreachableError, UsageError
from outpost_shared.harmless import clean

#: Of each request, unless it says otherwise. A stream has a heartbeat every 15 s, so that 60 s of
#: silence are three of them lost and one late.
TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0, pool=30.0)
#: Bytes of all cookies of one worker.
_LONGEST_COOKIE: Final = 4096
#: Name and value (RFC 6265, section 4.1.1).
_COOKIE: Final = re.compile(
    r"[\w!#$%&'*+.^`|~-]+=[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*", re.ASCII
)


class _Caller(httpx.AsyncBaseTransport):
    """Speaks to one server only, and shows it an ID token; where that is refused, another, once.

    It is a transport and no `httpx.Auth`, because httpx reads the whole answer before it repeats a
    request, and an answer may be endless.

    Args:
        inner: what requests go through.
        server: the address.
        identity: whose tokens are shown; None for nobody's.
        audience: what they are for.
    """

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport,
        server: httpx.URL,
        identity: Identity | None,
        audience: str,
    ) -> None:
        self._inner = inner
        self._server = server
        self._identity = identity
        self._audience = audience

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; after a 401 repeat it once with a new token, if its body can be.

        Raises:
            UsageError: it is for somebody else, who is sent neither tokens nor orders.
            UnreachableError: there is no token.
            httpx.TransportError: as of the transport.
        """
        if _origin(request.url) != _origin(self._server):
            said = f"what is for {self._server.host} is not sent to {request.url.host}"
            raise UsageError(said)
        if self._identity is None:
            return await self._inner.handle_async_request(request)
        _put(request, await self._identity.token(self._audience))
        answer = await self._inner.handle_async_request(request)
        if answer.status_code != 401 or not isinstance(request.stream, httpx.ByteStream):
            return answer
        await answer.aclose()
        _put(request, await self._identity.token(self._audience, fresh=True))
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._inner.aclose()


class Affinity:
    """Brings the requests of one worker to the instance that has it, as far as the front does so.

    A front knows the instance by a cookie
    (https://cloud.google.com/run/docs/configuring/session-affinity). Each worker keeps its own:
    the cookies of a whole client would bring all workers to one instance.

    Args:
        cookie: what an earlier process kept.

    Attributes:
        cookie: the value of the header, to be kept.
    """

    def __init__(self, cookie: str = "") -> None:
        self.cookie = cookie

    def headers(self) -> dict[str, str]:
        """Return the headers for the next request."""
        return {"cookie": self.cookie} if self.cookie else {}

    def learn(self, answer: httpx.Response) -> None:
        """Take over what the front says in an answer."""
        for line in answer.headers.get_list("set-cookie"):
            pair = line.partition(";")[0].strip()
            if not _COOKIE.fullmatch(pair):
                continue
            name = pair.partition("=")[0]
            others = [one for one in self.cookie.split("; ") if one.partition("=")[0] != name]
            cookie = "; ".join([*filter(None, others), pair])
            if len(cookie) <= _LONGEST_COOKIE:
                self.cookie = cookie


def open_client(
    options: CloudRunOptions,
    url: str,
    audience: str = "",
    *,
    identity: Identity | None = None,
    limits: Limits | None = None,
) -> httpx.AsyncClient:
    """Return a client of the container at `url`; whoever asked closes it.

    It speaks to that server only. Redirects are not followed, cookies not kept, `.netrc` not read,
    and answers not compressed. `HTTPS_PROXY`, `NO_PROXY` and `SSL_CERT_FILE` are heeded, as by
    other programs.

    Args:
        options: `auth`, `key_file` and `audience`.
        url: address of the service; paths of requests are relative to it.
        audience: what tokens are for, if it is neither `options.audience` nor the URL.
        identity: who is already known to be asked for tokens.
        limits: of the transport.

    Raises:
        UsageError: the URL is none, or a token would have to be sent in the clear.
    """
    base = _checked(url)
    who = identity or Identity(options)
    audience = audience or options.audience or f"{base.scheme}://{base.netloc.decode('ascii')}"
    needs_token = options.auth is not Auth.NONE
    if needs_token and base.scheme == "http" and not is_loopback(base.host):
        raise UsageError(
            f"a token would be sent to {base.host} in the clear",
            hint="write `url: https://…`, or `auth: none` for a service that needs no token",
        )
    return httpx.AsyncClient(
        base_url=base,
        transport=_Caller(H2Transport(limits=limits), base, who if needs_token else None, audience),
        timeout=TIMEOUT,
        headers={"accept-encoding": "identity", "user-agent": "outpost"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
    )


def front_error(
    answer: httpx.Response, *, whose: str = "", region: str = ""
) -> OutpostError | None:
    """Return what a refusal by Google's front means, None where it is none.

    The front refuses before it wakes a container, so nothing was started. What the container
    itself says is JSON with an `error`; that is for the caller to read.

    Args:
        answer: with its body read, as far as the body is short.
        whose: the identity that asked.
        region: where the service should be.
    """
    if answer.status_code not in (401, 403, 404) or is_from_container(answer):
        return None
    where = f"{answer.request.url.scheme}://{answer.request.url.host}"
    who = whose or "the caller"
    if answer.status_code == 401:
        return UnreachableError(
            f"{where} did not take the token of {who}",
            hint="see `audience:`, which has to be the service's URL or one of its custom"
            " audiences, and this machine's clock",
            sent=False,
        )
    if answer.status_code == 403:
        return UnreachableError(
            f"{who} may not call {where}",
            hint="grant roles/run.invoker: `gcloud run services add-iam-policy-binding SERVICE"
            f" --region {region or 'REGION'} --member=serviceAccount:EMAIL"
            " --role=roles/run.invoker`",
            sent=False,
        )
    return UnreachableError(
        f"there is no service at {where}, or it takes no requests from here",
        hint=f"see that `url:` and `region:`{f' ({region})' if region else ''} are the service's,"
        " and that its ingress is `all`; `outpost doctor` looks",
        sent=False,
    )


def is_from_container(answer: httpx.Response) -> bool:
    """Whether an answer is our container's own, and not the front's."""
    if not answer.headers.get("content-type", "").startswith(
        ("application/json", "application/x-")
    ):
        return False
    try:
        said = json.loads(answer.content)
    except (ValueError, RecursionError, httpx.ResponseNotRead):
        return False
    return isinstance(said, dict) and "error" in said


def _put(request: httpx.Request, token: str) -> None:
    request.headers["authorization"] = f"Bearer {token}"


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    port = url.port or {"https": 443, "http": 80}.get(url.scheme)
    return url.scheme, url.host, port


def _checked(url: str) -> httpx.URL:
    try:
        base = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise UsageError(f"{clean(url)!r} is no URL: {error}") from None
    if base.scheme not in ("http", "https") or not base.host or base.userinfo:
        raise UsageError(
            f"{clean(url)!r} is not the address of a service", hint="such as https://NAME.run.app"
        )
    return base
