"""Server-sent events, as far as the event log uses them: a field a line, an empty line an event."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Final

from outpost_manager.remote.fields import NotBelievedError

#: Characters of one event, at most.
_LARGEST: Final = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the stream said.

    Args:
        id: the last id that it named; "" for none.
        data: of an event; "" where it only named an id.
    """

    id: str
    data: str


async def events(chunks: AsyncIterable[bytes]) -> AsyncIterator[Said]:
    """Yield what a stream says.

    Args:
        chunks: its bytes, however they are cut.

    Raises:
        NotBelievedError: an event has no end.
    """
    rest, name, data = b"", "", list[str]()
    size = 0
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > _LARGEST:
            raise NotBelievedError("an event has no end")
        for raw in lines:
            line = raw.removesuffix(b"\r").decode("utf-8", "replace")
            if not line:
                if data or name:
                    yield Said(id=name, data="\n".join(data))
                data, size = [], 0
                continue
            key, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if key == "id" and "\0" not in value:
                name = value
            elif key == "data":
                data.append(value)
                size += len(value)
                if size > _LARGEST:
                    raise NotBelievedError("an event has no end")
