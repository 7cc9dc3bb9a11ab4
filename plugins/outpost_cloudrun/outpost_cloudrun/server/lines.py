"""What a stream says: one JSON object a line, with the log's bytes exact."""

from __future__ import annotations

import binascii
from typing import Final

from outpost_core import wire
from outpost_core.types import Json, WorkerStatus
from outpost_shared.protocol import frame

#: Most bytes of the log in one line.
PIECE: Final = 64 << 10


class Numbered:
    """The lines of one answer.

    Args:
        after: the number of the last line that the caller has.
        offset: bytes of the log that the caller has.
        about: keys that each line has.

    Attributes:
        offset: bytes of the log that the caller has once he has read all lines.
    """

    def __init__(self, after: int, offset: int, about: dict[str, Json]) -> None:
        self._seq = after
        self.offset = offset
        self._about = about

    def line(self, status: WorkerStatus, data: bytes = b"", /, **more: Json) -> bytes:
        """Return the next line.

        Args:
            status: the worker's.
            data: the bytes of the log from `offset` on.
            more: further keys, or others in the place of the usual ones.
        """
        self._seq += 1
        result = status.result
        said: dict[str, Json] = {
            "seq": self._seq,
            "status": status.state.value,
            "branch": result.branch if result else None,
            "pr_url": result.pr_url if result else None,
            "worker": status.id,
            **self._about,
            "digest": status.digest,
            "offset": self.offset,
            **_text_of(data),
            "detail": status.detail,
        }
        if status.usage is not None:
            said["usage"] = wire.to_json(status.usage)
        if result is not None:
            said["result"] = wire.to_json(result)
        self.offset += len(data)
        return frame({**said, **more})


def _text_of(data: bytes) -> dict[str, Json]:
    """Return bytes of a log as text, and as they are where the text does not say that."""
    try:
        return {"logs": data.decode("utf-8")}
    except UnicodeDecodeError:
        exact = binascii.b2a_base64(data, newline=False).decode("ascii")
        return {"logs": data.decode("utf-8", "replace"), "data": exact}


def pieces(data: bytes, *, last: bool) -> tuple[list[bytes], bytes]:
    """Cut bytes of a log so that no character is in two pieces.

    Args:
        data: what was read.
        last: nothing follows.

    Returns:
        the pieces, and what has to wait for more.
    """
    cut: list[bytes] = []
    at = 0
    while at < len(data):
        end = min(at + PIECE, len(data))
        if end < len(data) or not last:
            end -= _begun(data[max(at, end - 3) : end])
        if end == at:
            break
        cut.append(data[at:end])
        at = end
    return cut, data[at:]


def _begun(tail: bytes) -> int:
    """Return how many bytes at the end are the beginning of a longer character of UTF-8."""
    for size, byte in enumerate(reversed(tail), 1):
        if byte & 0xC0 == 0x80:  # in the middle of one
            continue
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return size if size < length else 0
    return 0
