"""What can go wrong between this side and a server, as the kinds of httpx."""

from __future__ import annotations

from typing import Final

import httpx


class NotSentError(httpx.ConnectError):
    """The request was certainly not acted upon: it may be sent again, or to somebody else.

    Either it never left, or the server said that it will not look at it: REFUSED_STREAM, or a
    GOAWAY whose last stream is an earlier one (RFC 9113, sections 6.8 and 8.7).
    """


#: What httpx raises before anything of a request has left.
_BEFORE: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


def was_sent(error: httpx.HTTPError) -> bool:
    """Return False only where the request certainly did not reach a server that acts on it."""
    return not isinstance(error, _BEFORE)
