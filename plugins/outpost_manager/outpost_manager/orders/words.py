"""Words → values: durations, sizes, priorities."""

from __future__ import annotations

from outpost_core.errors import UsageError


def duration(text: str | float | None, flag: str) -> float | None:
    """Return seconds from `90s`, `1h30m`, or None from None.

    Raises:
        UsageError: it is no length of time.
    """
    if text is None:
        return None
    from outpost_core.units import parse_duration

    try:
        return parse_duration(text)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{flag}: {error}") from None


def size(text: str | float | None, flag: str) -> int | None:
    """Return bytes from `2GiB`, or None from None.

    Raises:
        UsageError: it is no size.
    """
    if text is None:
        return None
    from outpost_core.units import parse_bytes

    try:
        return parse_bytes(text)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{flag}: {error}") from None


def priority(text: str | None) -> int | None:
    """Return 0 to 4 from `P0` to `P4` or `0` to `4`, or None from None.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    number = text.removeprefix("P").removeprefix("p")
    if number not in {"0", "1", "2", "3", "4"}:
        raise UsageError(f"--priority: {text!a} is not one of P0 to P4", hint="P0 is the highest")
    return int(number)
