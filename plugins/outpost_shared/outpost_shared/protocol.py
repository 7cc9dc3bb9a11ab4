"""What both ends of the protocol share: lines, bytes behind them, JSON, and the table of errors.

One JSON object a line, UTF-8, at most `max_frame` bytes with its line end. Bytes (`data` of params
or of a result) follow their line as they are where the other side takes them so, and are base64 in
it where it does not. Whatever comes from the other end is checked here before anybody looks at it.
"""

from __future__ import annotations

import binascii
import json
import math
import time
from collections.abc import Mapping
from typing import Any, Final, NoReturn, Protocol

from outpost_core.errors import (
    ConfigError,
    ConflictError,
    LedgerError,
    NotFoundError,
    OutpostError,
    PlacementError,
    PluginError,
    SpawnRefusedError,
    UnreachableError,
    UnsupportedError,
    UsageError,
    WorkerError,
)
from outpost_core.types import Json

#: Version of the protocol; counts up only when a peer could misunderstand.
PROTOCOL: Final = 1
#: Longest line that a side takes unless its hello says otherwise, in bytes with the line end.
MAX_FRAME: Final = 1 << 20
#: Most bytes that one line may have behind it, as they are; said in the hello of each side.
MAX_RAW: Final = 1 << 20
#: Most bytes that may come before a server's hello: what login shells print.
MAX_NOISE: Final = 1 << 16
#: Longest text of an error that is believed, in characters.
_MAX_TEXT: Final = 4000
_READ: Final = 1 << 18


class ByteReader(Protocol):
    """The part of `asyncio.StreamReader` (and of asyncssh's readers) that is used."""

    async def read(self, n: int) -> bytes:
        """Return up to `n` bytes as soon as there are any; b"" at the end."""


class ByteWriter(Protocol):
    """The part of `asyncio.StreamWriter` (and of asyncssh's writers) that is used."""

    def write(self, data: bytes) -> None:
        """Queue bytes."""

    async def drain(self) -> None:
        """Wait until the queue is short enough."""

    def close(self) -> None:
        """End the stream."""


class FrameError(ValueError):
    """What came is not the protocol; the text says what is wrong with it."""


class FrameTooLargeError(UsageError):
    """A request that is longer than the other side takes; it was not sent."""


class BrokenChannelError(UnreachableError):
    """The byte stream to the other side ended or cannot be used any more."""


# --- lines ------------------------------------------------------------------------------------


class Lines:
    """Splits a byte stream into lines, each looked at once.

    Args:
        reader: the stream.
        limit: longest line in bytes, with its end.

    Attributes:
        limit: may be changed between two lines.
        heard: `time.monotonic()` when the last bytes came.
        rest: what stood after the last line end when the stream ended.
    """

    def __init__(self, reader: ByteReader, limit: int = MAX_FRAME) -> None:
        self.limit = limit
        self.heard = time.monotonic()
        self.rest = b""
        self._reader = reader
        self._data = b""
        self._start = 0  # of what was not handed out
        self._searched = 0  # no line end before

    async def next(self) -> bytes | None:
        """Return the next line without its end; None when the stream has ended after one.

        Raises:
            FrameError: a line is too long, or the stream ended in the middle of one.
        """
        while (end := self._data.find(b"\n", self._searched)) < 0:
            await self._more()
            if self.rest or not self._data:
                if self.rest:
                    raise FrameError("it ended in the middle of a line")
                return None
        line = self._data[self._start : end]
        self._start = self._searched = end + 1
        if len(line) >= self.limit:
            raise self._too_long(len(line))
        return line

    async def exactly(self, size: int) -> bytes:
        """Return the bytes that follow the line that was returned last.

        Args:
            size: how many.

        Raises:
            FrameError: the stream ended before.
        """
        begun = self._data[self._start : self._start + size]
        self._start = self._searched = self._start + len(begun)
        parts, missing = [begun], size - len(begun)
        while missing:
            chunk = await self._reader.read(min(missing, _READ))
            if not chunk:
                raise FrameError(f"it ended {missing} bytes before the end of {size} bytes")
            self.heard = time.monotonic()
            parts.append(chunk)
            missing -= len(chunk)
        return b"".join(parts)

    async def _more(self) -> None:
        """Read until there is a line end, or the stream has ended."""
        begun = self._data[self._start :]
        parts, size = [begun], len(begun)
        ended = False
        while not ended:
            if size >= self.limit:
                raise self._too_long(size)
            chunk = await self._reader.read(_READ)
            if not chunk:
                self._data, self.rest = b"", b"".join(parts)
                self._start = self._searched = 0
                return
            self.heard = time.monotonic()
            parts.append(chunk)
            size += len(chunk)
            ended = b"\n" in chunk
        self._data = b"".join(parts)
        self._start, self._searched = 0, size - len(parts[-1])

    def _too_long(self, size: int) -> FrameError:
        return FrameError(f"it sent a line of {size} bytes or more; {self.limit} are allowed")


# --- JSON -------------------------------------------------------------------------------------


def _no_constant(word: str) -> NoReturn:
    raise FrameError(f"{word} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise FrameError("a number is too large")
    return value


_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
_UTF8: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_ASCII: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def decode(line: bytes) -> dict[str, Any]:
    """Return the object of one line.

    Raises:
        FrameError: it is not JSON, or no object.
    """
    try:
        value = _DECODER.decode(line.decode("utf-8"))
    except FrameError:
        raise
    except RecursionError:
        raise FrameError("it sent JSON that is nested too deep") from None
    except ValueError:
        raise FrameError(f"it sent what is not JSON: {quoted(line)}") from None
    if not isinstance(value, dict):
        raise FrameError(f"it sent JSON that is no object: {quoted(line)}")
    return value


def text(value: Json) -> bytes:
    """Return the JSON text of a value, without a line end."""
    try:
        return _UTF8.encode(value).encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair: only the escape can say it
        return _ASCII.encode(value).encode("ascii")


def frame(value: Json) -> bytes:
    """Return the line of a value."""
    return text(value) + b"\n"


# --- bytes ------------------------------------------------------------------------------------


def raw_size(said: Mapping[str, Any], name: str = "raw") -> int:
    """Return how many bytes a line says follow it, or a hello that its side takes; 0 for none.

    Raises:
        FrameError: that is no number, or not one of bytes that a line may have behind it.
    """
    size = said.get(name, 0)
    if type(size) is not int or size < 0:
        raise FrameError(f"`{name}` of a line is {quoted(repr(size).encode())}")
    return size


async def read_data(lines: Lines, said: Mapping[str, Any], key: str) -> None:
    """Read the bytes that follow a line, if there are any, and make them its `data`.

    Args:
        lines: where the line came from.
        said: the line; its object under `key` is given the bytes.
        key: `params` or `result`.

    Raises:
        FrameError: there are too many, there is no object that they belong to, or the stream ended.
    """
    if "raw" not in said:
        return
    size, holder = raw_size(said), said.get(key)
    if size > MAX_RAW:
        raise FrameError(f"{size} bytes follow a line of it; {MAX_RAW} are allowed")
    if not isinstance(holder, dict) or "data" in holder:
        raise FrameError(f"bytes follow a line of it that has no `{key}` for them")
    holder["data"] = await lines.exactly(size)


def packed(said: dict[str, Any], key: str, takes: int) -> tuple[bytes, bytes]:
    """Return a line, and the bytes that are to follow it.

    Args:
        said: the line's object. `data` in its object under `key` may be bytes.
        key: `params` or `result`.
        takes: how many bytes the other side takes behind a line; as base64 they go in the line.
    """
    holder = said.get(key)
    if not isinstance(holder, dict) or not isinstance(data := holder.get("data"), bytes):
        return frame(said), b""
    if not takes or len(data) > takes:
        text = binascii.b2a_base64(data, newline=False).decode("ascii")
        return frame({**said, key: {**holder, "data": text}}), b""
    rest = {name: value for name, value in holder.items() if name != "data"}
    return frame({**said, key: rest, "raw": len(data)}), data


def data_of(holder: Mapping[str, Any]) -> bytes:
    """Return the `data` of params or of a result, in whichever way it came.

    Raises:
        ValueError: it is neither bytes nor base64.
    """
    data = holder.get("data")
    if isinstance(data, bytes):
        return data
    if not isinstance(data, str):
        raise ValueError("`data` is neither bytes nor base64")
    return binascii.a2b_base64(data, strict_mode=True)


def quoted(data: bytes, limit: int = 80) -> str:
    """Return the beginning of what a peer sent, safe to be shown."""
    shown = clean(data[: limit * 4].decode("utf-8", "replace"), limit)
    return repr(shown + "…" if len(data) > len(shown.encode()) else shown)


def clean(said: str, limit: int = _MAX_TEXT) -> str:
    """Return a peer's text without control characters (line ends stay), at most `limit` long."""
    cut = said if len(said) <= limit else said[: limit - 1] + "…"
    return "".join(c if c.isprintable() or c == "\n" else " " for c in cut).strip()


# --- errors -----------------------------------------------------------------------------------

#: kind → class. A name of a class is never taken from the other side.
_KINDS: Final[Mapping[str, type[OutpostError]]] = {
    "usage": UsageError,
    "config": ConfigError,
    "plugin": PluginError,
    "not_found": NotFoundError,
    "conflict": ConflictError,
    "unsupported": UnsupportedError,
    "placement": PlacementError,
    "refused": SpawnRefusedError,
    "unreachable": UnreachableError,
    "ledger": LedgerError,
    "worker": WorkerError,
    "internal": OutpostError,
    "cancelled": OutpostError,
}
_NAMES: Final = {kind: name for name, kind in [*_KINDS.items()][:-1]}


def error_to_json(error: OutpostError) -> dict[str, Json]:
    """Return the JSON of an error."""
    name = next((_NAMES[kind] for kind in type(error).__mro__ if kind in _NAMES), "internal")
    data: dict[str, Json] = {"kind": name, "message": error.message}
    if error.hint:
        data["hint"] = error.hint
    if isinstance(error, UnreachableError):
        data["sent"] = error.sent
    if isinstance(error, WorkerError):
        data["reason"] = error.reason
    return data


def error_from_json(data: Json) -> OutpostError:
    """Return the error that a peer told; whatever it sent, it is one."""
    said = data if isinstance(data, dict) else {}
    kind = _KINDS.get(str(said.get("kind")), OutpostError)
    message = _said(said, "message") or "the other side told an error without a text"
    hint = _said(said, "hint")
    if kind is UnreachableError:
        return UnreachableError(message, hint=hint, sent=said.get("sent") is not False)
    if kind is WorkerError:
        return WorkerError(message, reason=_said(said, "reason") or "internal", hint=hint)
    return kind(message, hint=hint)


def _said(data: Mapping[str, Json], name: str) -> str:
    value = data.get(name)
    return clean(value) if isinstance(value, str) else ""
