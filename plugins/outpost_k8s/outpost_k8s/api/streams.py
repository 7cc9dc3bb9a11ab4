"""Answers that go on: the log of a container, and the changes of a kind of thing.

They may be silent for hours. Whether that is the silence of a dead server is found out by asking
it something else: the kernel sees a dead line (`transport`), but not a program that stands still.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from outpost_core.errors import OutpostError
from outpost_k8s.api.errors import ApiError, StrangeError, UnavailableError, told
from outpost_k8s.api.transport import JSON, Transport
from outpost_shared import border

#: Seconds of silence after which the server is asked whether it is there, and that it has to say.
QUIET: Final = 20.0
_WORD: Final = 10.0
#: Longest event of a watch, in bytes: a thing of etcd has 1.5 MiB at most.
_EVENT: Final = 8 << 20


async def chunks(
    transport: Transport,
    path: str,
    query: Sequence[tuple[str, str]],
    *,
    accept: str = JSON,
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of an answer as they come, until its end.

    Args:
        transport: to the API server.
        path: what is asked.
        query: names and values.
        accept: the type of the answer.

    Raises:
        ApiError: there is nothing of the kind.
        UnavailableError: the line broke, or the server stands still.
    """
    async with transport.request("GET", path, query=query, accept=accept, idle=None) as response:
        while True:
            try:
                async with asyncio.timeout(QUIET):
                    data = await response.content.readany()
            except TimeoutError:
                await _ask(transport)
                continue
            if not data:
                return
            yield data


async def _ask(transport: Transport) -> None:
    """Make sure that the server answers; whatever it says is a sign of life.

    Raises:
        UnavailableError: it says nothing.
    """
    try:
        async with asyncio.timeout(_WORD), transport.request("GET", "/version", idle=_WORD):
            return
    except TimeoutError:
        raise UnavailableError(
            f"{transport.peer} has stopped to answer", hint="try again"
        ) from None
    except ApiError as error:
        if not error.status:
            raise


async def events(
    transport: Transport, path: str, query: Sequence[tuple[str, str]], *, accept: str = JSON
) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    """Yield kind and thing of each event of a watch, until the server ends it.

    Args:
        transport: to the API server.
        path: of the kind of thing.
        query: with `watch` and the version to begin after.
        accept: the type of the things.

    Raises:
        ExpiredError: that version is no longer kept.
        ApiError: another error that the server tells in the place of an event.
        UnavailableError: the line broke, the server stands still, or says what is no event.
    """
    rest = b""
    async for data in chunks(transport, path, query, accept=accept):
        *lines, rest = (rest + data).split(b"\n") if b"\n" in data else (rest + data,)
        if len(rest) > _EVENT:
            raise _odd(transport, rest)
        for line in lines:
            if line:
                yield _event(transport, path, line)


def _event(transport: Transport, path: str, line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        said = json.loads(line)
        kind, thing = said["type"], said["object"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _odd(transport, line) from None
    if not isinstance(kind, str) or not isinstance(thing, dict):
        raise _odd(transport, line)
    if kind == "ERROR":
        code = thing.get("code")
        status = code if isinstance(code, int) else 500
        raise told(transport.peer, f"GET {path}", status, json.dumps(thing).encode())
    return kind, thing


def _odd(transport: Transport, line: bytes) -> OutpostError:
    begun = border.line(line[:200].decode("utf-8", "replace"), 100)
    return StrangeError(
        f"{transport.peer} sent what is no event of a watch: {begun!r}",
        hint=f"see whether {transport.place.server} is the API server",
    )
