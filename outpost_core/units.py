"""Durations and sizes as people write them: `1h30m`, `2GiB`.

Durations are seconds (float) and sizes bytes (int) everywhere else.
"""

from __future__ import annotations

import math
import re
from typing import Final

_DURATION = re.compile(
    r"\s*(?:(?P<d>\d+(?:\.\d+)?)d)?\s*(?:(?P<h>\d+(?:\.\d+)?)h)?\s*(?:(?P<m>\d+(?:\.\d+)?)m(?!s))?"
    r"\s*(?:(?P<s>\d+(?:\.\d+)?)s)?\s*(?:(?P<ms>\d+(?:\.\d+)?)ms)?\s*",
    re.ASCII,
)
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)
_NUMBER = re.compile(r"\s*\d+(?:\.\d+)?\s*", re.ASCII)
_SECONDS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BINARY: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")
_BYTES: Final[dict[str, int]] = {
    **dict(zip(("", "B", "kB"), (1, 1, 1000), strict=True)),
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGTP", 1)},
    **{name: 1024**power for power, name in enumerate(_BINARY, 1)},
    **{name[:2]: 1024**power for power, name in enumerate(_BINARY, 1)},
}
_LONGEST: Final = 64
_CENTURY: Final = 36500 * 86400.0


def parse_duration(value: str | float) -> float:
    """Return the seconds that `value` says.

    Args:
        value: `30m`, `90s`, `1h30m`, `1.5h`, `1d`, `500ms`, or a number of seconds.

    Raises:
        ValueError: it is none of these, or negative; the message is a sentence for people.
    """
    if isinstance(value, str):
        match = _DURATION.fullmatch(value) if len(value) <= _LONGEST else None
        parts = match.groupdict() if match else {}
        if any(parts.values()):
            return _bounded(sum(float(n) * _SECONDS[unit] for unit, n in parts.items() if n))
        if len(value) <= _LONGEST and _NUMBER.fullmatch(value):
            return _bounded(float(value))
    elif _amount(value):
        return _bounded(float(value))
    raise ValueError(f"{_shown(value)} is not a duration: write 30m, 2h, 90s or 1h30m")


def parse_bytes(value: str | float) -> int:
    """Return the bytes that `value` says.

    Args:
        value: `2GiB` (or `2Gi`, 1024³ each), `500MB` (1000² each), `512B`, or a number of bytes.

    Raises:
        ValueError: it is none of these, or negative; the message is a sentence for people.
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value) if len(value) <= _LONGEST else None
        if match and match[2] in _BYTES:
            whole, _, rest = match[1].partition(".")
            unit = _BYTES[match[2]]
            return int(whole) * unit + round(float(f"0.{rest or 0}") * unit)
    elif _amount(value):
        return round(value)
    raise ValueError(f"{_shown(value)} is not a size: write 2GiB, 500MB or a number of bytes")


def format_duration(seconds: float) -> str:
    """Return seconds as `1h30m`, `45s`, `250ms`; exact to the millisecond.

    Raises:
        ValueError: `seconds` is negative or not finite.
    """
    if not _amount(seconds):
        raise ValueError(f"{seconds} is not a number of seconds")
    rest = round(seconds * 1000)
    text = ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            text += f"{count}{unit}"
    return text or "0s"


def format_bytes(count: int) -> str:
    """Return bytes as `256MiB`, `1.5GiB`, `512B`; rounded to a tenth of the unit.

    Raises:
        ValueError: `count` is negative.
    """
    if count < 0:
        raise ValueError(f"{count} is not a number of bytes")
    if count < 1024:
        return f"{count}B"
    power = min((count.bit_length() - 1) // 10, len(_BINARY))
    if round(count / 1024**power, 1) >= 1024 and power < len(_BINARY):
        power += 1  # 1023.99KiB rounds to the next unit
    return f"{count / 1024**power:.1f}".removesuffix(".0") + _BINARY[power - 1]


def _bounded(seconds: float) -> float:
    """Refuse what no clock of the operating system can wait for."""
    if seconds > _CENTURY:
        raise ValueError("a duration of more than 100 years is not supported")
    return seconds


def _amount(value: float) -> bool:
    return not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
