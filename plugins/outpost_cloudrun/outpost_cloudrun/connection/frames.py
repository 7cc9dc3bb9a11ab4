"""The bytes of a server cut into frames, before h2 sees them (RFC 9113, section 4).

h2 shuts its connection down at a GOAWAY, although the streams that there are go on. So that frame
is taken out here and handled by us. So are floods of frames that carry nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

_HEADER: Final = 9
_DATA: Final = 0x0
_SETTINGS: Final = 0x4
_GOAWAY: Final = 0x7

#: Bytes of a frame that we take: the smallest bound that HTTP/2 allows, and the default.
LARGEST: Final = 1 << 14
#: Frames without data that may come at once, and how many more may each second.
PATIENCE: Final = 10_000
PATIENCE_A_SECOND: Final = 200


class FrameError(Exception):
    """A server sent what is not HTTP/2, or a flood."""


class OtherProtocolError(FrameError):
    """The very first bytes show that the server does not speak HTTP/2."""


@dataclass(frozen=True)
class GoAway:
    """The server takes no new stream on this connection.

    Args:
        last: the highest stream that it looked at, or will.
        code: why; 0 for an orderly end.
        said: what it added for people.
    """

    last: int
    code: int
    said: bytes


class Splitter:
    """Cuts what arrives into frames, keeps GOAWAY back, and counts what carries nothing."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._begun = False
        self._patience = float(PATIENCE)
        self._counted = time.monotonic()

    def earned(self, frames: int) -> None:
        """Allow `frames` more: they answer what we have sent."""
        self._patience = min(self._patience + frames, PATIENCE)

    def split(self, data: bytes) -> tuple[bytes, list[GoAway]]:
        """Take bytes; return the whole frames for h2, and each GOAWAY.

        Raises:
            FrameError: a frame is too large, malformed, or one too many.
        """
        rest = self._rest
        rest += data
        if not self._begun and len(rest) > 3:
            if rest[3] != _SETTINGS:
                raise OtherProtocolError(f"it answered {bytes(rest[:24])!r}")
            self._begun = True
        through: list[bytes] = []
        goaways: list[GoAway] = []
        begin = empty = 0
        while len(rest) - begin >= _HEADER:
            length = int.from_bytes(rest[begin : begin + 3], "big")
            if length > LARGEST:
                raise FrameError(f"a frame of {length} bytes, and {LARGEST} is the most")
            end = begin + _HEADER + length
            kind = rest[begin + 3]
            empty += kind != _DATA or not length
            if len(rest) < end:
                empty -= kind != _DATA or not length  # it is counted once it is whole
                break
            if kind == _GOAWAY:
                goaways.append(_goaway(bytes(rest[begin:end])))
            else:
                through.append(bytes(rest[begin:end]))
            begin = end
        del rest[:begin]
        self._bear(empty)
        return b"".join(through), goaways

    def _bear(self, frames: int) -> None:
        now = time.monotonic()
        grown = self._patience + (now - self._counted) * PATIENCE_A_SECOND
        self._counted = now
        self._patience = min(grown, PATIENCE) - frames
        if self._patience < 0:
            raise FrameError("a flood of frames without data")


def _goaway(frame: bytes) -> GoAway:
    if len(frame) < _HEADER + 8 or int.from_bytes(frame[5:9], "big") & 0x7FFFFFFF:
        raise FrameError("a malformed GOAWAY")
    last = int.from_bytes(frame[9:13], "big") & 0x7FFFFFFF
    return GoAway(last, int.from_bytes(frame[13:17], "big"), frame[17:217])
