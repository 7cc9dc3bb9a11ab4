"""How token servers are asked: httpx for us and for google-auth, in threads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import google.auth.exceptions
import google.auth.transport
import httpx

#: Bytes of an answer of a token server.
_LARGEST: Final = 1 << 20
#: Seconds for all of it.
_PATIENCE: Final = 40.0


class Web:
    """Asks token servers, and notes how far their clocks are from ours.

    Args:
        direct: no proxy of the environment is used, as for a machine's own metadata server.
        patience: seconds for a connection, and for each answer.

    Attributes:
        skew: seconds that the clock of the last server is ahead of ours; None before there was
            one.
    """

    def __init__(self, *, direct: bool = False, patience: float = 20.0) -> None:
        self._direct = direct
        self._timeout = httpx.Timeout(patience, connect=min(patience, 5.0))
        self._client: httpx.Client | None = None
        self.skew: float | None = None

    def ask(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        """Return the answer, read as a whole. Blocks.

        Raises:
            httpx.HTTPError: there was none, or it was endless.
        """
        if self._client is None:
            self._client = httpx.Client(
                timeout=self._timeout,
                follow_redirects=False,
                trust_env=not self._direct,
                verify=not self._direct,
                limits=httpx.Limits(max_keepalive_connections=0),  # it is asked once an hour
            )
        end = time.monotonic() + _PATIENCE
        with self._client.stream(method, url, headers=headers, content=content) as answer:
            self._note(answer)
            body = bytearray()
            for piece in answer.iter_bytes():
                body += piece
                if len(body) > _LARGEST:
                    raise httpx.RemoteProtocolError("the answer is too long for a token")
                if time.monotonic() > end:
                    raise httpx.ReadTimeout(f"the answer was still coming after {_PATIENCE:g} s")
        return httpx.Response(answer.status_code, headers=answer.headers, content=bytes(body))

    def _note(self, answer: httpx.Response) -> None:
        try:
            there = parsedate_to_datetime(answer.headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError, OverflowError):
            return
        self.skew = there - time.time()


class _Answer(google.auth.transport.Response):
    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer

    @property
    def status(self) -> int:
        return self._answer.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    @property
    def data(self) -> bytes:
        return self._answer.content


class GoogleRequest(google.auth.transport.Request):
    """What google-auth asks with.

    Args:
        web: what it goes through.
    """

    def __init__(self, web: Web) -> None:
        self._web = web

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ARG002 - ours is shorter
        **_: Any,
    ) -> google.auth.transport.Response:
        """Ask, and answer in google-auth's words."""
        try:
            answer = self._web.ask(url, method=method, headers=headers, content=body)
        except httpx.HTTPError as error:
            raise google.auth.exceptions.TransportError(error) from error  # type: ignore[no-untyped-call]
        return _Answer(answer)
