"""JSON for the far side, without the price of `import json` (5.8 ms, mostly for `re`).

The C parts of the standard library's own reader and writer are used directly; where they are
missing or have another shape (PyPy, a future Python) `json` itself does the work.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Settings:
    """What `json.JSONDecoder()` is to the C scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> float:
        return float(name.replace("Infinity", "inf"))


def _refuse(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} has no JSON shape")


def _lean() -> tuple[Callable[[str], Any], Callable[[Any], str]]:
    import _json

    scan = _json.make_scanner(_Settings())  # type: ignore[arg-type]
    # markers, default, encoder, indent, key and item separator, sort, skip, allow NaN
    encode = _json.make_encoder(
        None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, True
    )

    def read(text: str) -> Any:
        text = text.strip(" \t\n\r")
        try:
            value, end = scan(text, 0)
        except StopIteration:
            raise ValueError("this is not JSON") from None
        if end != len(text):
            raise ValueError("there is something after the JSON value")
        return value

    def write(value: Any) -> str:
        return "".join(encode(value, 0))

    if read(write({"a": [1, 2.5, None, True, "é"]})) != {"a": [1, 2.5, None, True, "é"]}:
        raise ImportError("the C encoder of this Python has another shape")
    return read, write


def _plain() -> tuple[Callable[[str], Any], Callable[[Any], str]]:
    import json

    return json.loads, lambda value: json.dumps(value, separators=(",", ":"))


try:
    _read, _write = _lean()
except (ImportError, AttributeError, TypeError):
    _read, _write = _plain()


def loads(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON.
    """
    return _read(text)


def dumps(value: Any) -> str:
    """Return the JSON text of a value: ASCII, no spaces, one line.

    Raises:
        TypeError: something in it has no JSON shape.
    """
    return _write(value)
