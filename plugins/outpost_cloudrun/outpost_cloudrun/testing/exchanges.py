"""What an HTTP server is asked, and where its answer goes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

#: More than any request of ours; a limit against mistakes, not one of Google's.
MOST_BODY = 256 << 20

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request, whole.

    Attributes:
        method: such as `GET`.
        target: path and query, as they were sent.
        headers: names in lower case.
        body: all of it.
        version: `1.1` or `2`.
    """

    method: str
    target: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    version: str = "1.1"

    def header(self, name: str) -> str:
        """Return the first value of a header; "" where there is none."""
        return next((value for key, value in self.headers if key == name), "")


class Reply(Protocol):
    """Where an answer goes. Each call waits until the other side takes more."""

    started: bool

    async def start(self, status: int, headers: Headers = ()) -> None:
        """Send status and headers; then `write` sends the body."""

    async def write(self, data: bytes) -> None:
        """Send a part of the body."""

    async def end(self) -> None:
        """End the answer well."""

    def reset(self) -> None:
        """Break the answer off: RST_STREAM, or the end of the connection in HTTP/1.1."""


Handler = Callable[[Request, Reply], Awaitable[None]]


async def answer(reply: Reply, status: int, body: bytes, headers: Headers = ()) -> None:
    """Send a short answer."""
    await reply.start(status, [*headers, ("content-length", str(len(body)))])
    if body:
        await reply.write(body)
    await reply.end()
