"""One question to an API server: with bounds and a deadline, again where that is harmless."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from outpost_k8s.api.errors import AbsentError, StrangeError, UnavailableError
from outpost_k8s.api.transport import JSON, Transport
from outpost_shared import border
from outpost_shared.backoff import Backoff

#: A thing as the API server tells it, or a part of it.
Object: TypeAlias = dict[str, Any]

#: Seconds that one request may take, and that it is asked again for.
TOTAL: Final = 60.0
PATIENCE: Final = 20.0
#: Seconds for which a server that takes no connection is tried again: it may be restarting, or one
#: of several; who comes with a question is not held up for longer.
_CLOSED: Final = 2.0
#: Longest answer, in bytes: a page of 500 pods of 20 KiB has 10 MiB.
LONGEST: Final = 128 << 20
#: Answers from so many bytes on are long lists.
_LONG: Final = 64 << 10


class Asking:
    """Asks one API server.

    Args:
        transport: to it.
        patience: seconds for which a question is asked again.
    """

    def __init__(self, transport: Transport, patience: float = PATIENCE) -> None:
        self._transport = transport
        self._patience = patience

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        accept: str = JSON,
        content: str = JSON,
        harmless: bool = True,
    ) -> Object:
        """Ask until there is an answer, as long as that is harmless and not for too long.

        Args:
            method: GET, POST, PATCH or DELETE.
            path: what is asked for.
            query: names and values.
            body: what is sent as JSON.
            accept: the type of the answer.
            content: the type of the body.
            harmless: it may be done twice.

        Raises:
            ApiError: the answer is none of success.
            UnavailableError: there was none; `sent` says whether any try may have arrived.
        """
        backoff = Backoff(0.2, 5.0, jitter=0.5, within=self._patience)
        closed = Backoff(0.2, 1.0, jitter=0.5, within=min(_CLOSED, self._patience))
        arrived = False
        while True:
            try:
                async with asyncio.timeout(TOTAL):
                    return await self._once(method, path, query, body, accept, content)
            except AbsentError:
                if method == "DELETE" and arrived:  # it was our earlier try that removed it
                    return {}
                raise
            except TimeoutError:
                failed = UnavailableError(
                    f"{self._transport.peer} did not answer within {TOTAL:g} s", hint="try again"
                )
            except StrangeError:
                raise
            except UnavailableError as error:
                failed = error
            arrived = arrived or failed.sent
            failed.sent = arrived
            pauses = closed if failed.status == 0 and not arrived else backoff
            if pauses.over or (arrived and not harmless):
                raise failed
            pause = max(pauses.pause(), failed.wait)
            if failed.wait > self._patience:
                raise failed
            await asyncio.sleep(pause)

    async def _once(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        body: Any,
        accept: str,
        content: str,
    ) -> Object:
        asked = self._transport.request(
            method, path, query=query, body=body, accept=accept, content=content
        )
        parts, size = [], 0
        async with asked as response:
            async for data in response.content.iter_any():
                parts.append(data)
                size += len(data)
                if size > LONGEST:
                    response.close()
                    raise self.strange(f"{method} {path}", f"more than {LONGEST >> 20} MiB")
        try:
            answer = _parsed(b"".join(parts))
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            begun = border.line(b"".join(parts)[:200].decode("utf-8", "replace"), 100)
            raise self.strange(f"{method} {path}", f"what is no JSON object: {begun!r}")
        return answer

    def strange(self, asked: str, what: str) -> StrangeError:
        """Return the error for an answer that no API server gives."""
        return StrangeError(
            f"{self._transport.peer} answered {what} to {asked}",
            hint=f"see whether {self._transport.place.server} is the API server",
        )


def _parsed(data: bytes) -> Any:
    """Return what JSON says.

    Of a long list, Python's garbage collector would look at what was made so far again and again,
    for a third of the time; nothing in there is garbage.
    """
    if len(data) < _LONG or not gc.isenabled():
        return json.loads(data)
    gc.disable()
    try:
        return json.loads(data)
    finally:
        gc.enable()
