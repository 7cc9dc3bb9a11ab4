"""Addresses of services and of the Admin API, as options write them."""

from __future__ import annotations

from urllib.parse import urlsplit

from outpost_core.errors import UsageError


def is_loopback(url: str) -> bool:
    """Whether an address is of this machine, where nobody listens in and nobody charges."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.") or host.endswith(".localhost")


def check_url(word: str, url: str) -> None:
    """Refuse what is no address of a host, and what would be sent in the clear to another one.

    Args:
        word: the option.
        url: its value.

    Raises:
        UsageError: see above.
    """
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        whole = False
    if (
        not whole
        or parts.scheme not in ("http", "https")
        or not (url.isascii() and url.isprintable())
        or " " in url
        or parts.query
        or parts.fragment
        or parts.username is not None
    ):
        raise UsageError(
            f"{word} {url.rpartition('@')[2][:80]!a} is not the address of a host",
            hint=f"write {word}: https://HOST, without a login name and without a query",
        )
    if parts.scheme == "http" and not is_loopback(url):
        raise UsageError(
            f"{word} {url[:80]!a} is not encrypted: everybody on the way could read what is sent",
            hint="use https; http is for this machine alone, such as http://127.0.0.1:8080",
        )
