"""One line of a worker's stream, as a container sends it: a claim, looked at before it counts.

The container runs an agent that may do anything to it. So sizes are bounded, types and values are
those that can be, and text is made plain where it is shown (`records`, `border`).
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from outpost_core import wire
from outpost_core.errors import UsageError
from outpost_core.types import Result, State, Usage
from outpost_shared import border, plausible

#: Longest line, in bytes: what a far side puts into one is far less.
LONGEST: Final = 4 << 20
#: Characters of a claim, of an instance, and of the word that changes with each beat.
_WORD: Final = 256
_CHECKPOINT: Final = re.compile(r"refs/outpost/[A-Za-z0-9._/-]{1,400}", re.ASCII)


class OddLineError(ValueError):
    """What came is no line of the work protocol; the text says what is wrong with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """What one line says.

    Args:
        beat: nothing, but that the worker's container lives.
        moving: the container is going away; the worker's checkpoint was pushed.
        state: how the worker is; None where the line does not say.
        digest: of the order that it has.
        instance: which container says it.
        offset: byte of the output at which `data` begins; None when there is none.
        data: output.
        detail: a short word for people.
        usage: what the agent used so far.
        result: how it ended.
        claim: the claim under which it runs.
        claimed_by: it runs at another container: which.
        seen: a word that changes whenever that one gives a sign of life.
        checkpoint: the ref that unpushed work is under.
    """

    beat: bool = False
    moving: bool = False
    state: State | None = None
    digest: str = ""
    instance: str = ""
    offset: int | None = None
    data: bytes = b""
    detail: str = ""
    usage: Usage | None = None
    result: Result | None = None
    claim: str = ""
    claimed_by: str = ""
    seen: str = ""
    checkpoint: str | None = None


def read(line: bytes) -> Line:
    """Return what a line says.

    Raises:
        OddLineError: it is none.
    """
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        raise OddLineError("it is not JSON") from None
    if not isinstance(said, dict):
        raise OddLineError("it is no object")
    status = said.get("status")
    moving = status == "moving"
    offset, data = _output(said)
    return Line(
        beat=said.get("beat") is True,
        moving=moving,
        state=None if moving or status is None else _state(status),
        digest=_word(said, "digest"),
        instance=_word(said, "instance"),
        offset=offset,
        data=data,
        detail=border.line(_text(said, "detail"), 500),
        usage=_built(Usage, said.get("usage"), "usage"),
        result=_built(Result, said.get("result"), "result"),
        claim=_word(said, "claim"),
        claimed_by=_word(said, "claimed_by"),
        seen=_word(said, "seen"),
        checkpoint=_checkpoint(said.get("checkpoint")),
    )


async def split(pieces: AsyncIterator[bytes], longest: int = LONGEST) -> AsyncIterator[bytes]:
    """Yield the lines of a stream of bytes, without their ends and without empty ones.

    Raises:
        OddLineError: a line is too long, or the stream ended in the middle of one.
    """
    held: list[bytes] = []
    size = 0
    async for piece in pieces:
        *whole, rest = piece.split(b"\n")
        for part in whole:
            line = b"".join((*held, part))
            held, size = [], 0
            if len(line) > longest:
                raise OddLineError(f"a line has {len(line)} bytes")
            if line:
                yield line
        if rest:
            held.append(rest)
            size += len(rest)
            if size > longest:
                raise OddLineError(f"a line has more than {longest} bytes")
    if held:
        raise OddLineError("it ended in the middle of a line")


def _output(said: Mapping[str, Any]) -> tuple[int | None, bytes]:
    logs, data, offset = said.get("logs"), said.get("data"), said.get("offset")
    if not logs and data is None:
        return None, b""
    if type(offset) is not int or not 0 <= offset < plausible.MOST:
        raise OddLineError("its output has no offset")
    if data is not None:
        try:
            return offset, binascii.a2b_base64(data, strict_mode=True)
        except (ValueError, TypeError):
            raise OddLineError("its `data` is not base64") from None
    if not isinstance(logs, str):
        raise OddLineError("its `logs` are no text")
    try:
        return offset, logs.encode("utf-8")
    except UnicodeEncodeError:
        raise OddLineError("its `logs` are no text") from None


def _state(said: object) -> State:
    try:
        return State(str(said))
    except ValueError:
        raise OddLineError("its `status` is none") from None


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise OddLineError(f"its `{name}` is no text")
    return value


def _word(said: Mapping[str, Any], name: str) -> str:
    value = _text(said, name)
    if len(value) > _WORD or not value.isprintable():
        raise OddLineError(f"its `{name}` is no word")
    return value


def _checkpoint(value: object) -> str | None:
    return value if isinstance(value, str) and _CHECKPOINT.fullmatch(value) else None


def _built(kind: Any, said: Any, name: str) -> Any:
    if said is None:
        return None
    try:
        return wire.from_json(kind, said)
    except (UsageError, RecursionError) as error:
        shown = border.line(error.message, 200) if isinstance(error, UsageError) else "too deep"
        raise OddLineError(f"its `{name}` cannot be: {shown}") from None
