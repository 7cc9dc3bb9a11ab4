"""Words → values: durations, moments, sizes, priorities."""

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


def moment(text: str | None, flag: str) -> float:
    """Return the moment that a user means; 0 for none.

    Raises:
        UsageError: it is neither a moment nor a time from now.
    """
    if not text:
        return 0.0
    import time
    from datetime import datetime, timedelta

    try:
        if len(text) <= 5 and ":" in text:  # a time of the day: the next such one
            now = datetime.now().astimezone()
            hour, minute = (int(part) for part in text.split(":"))
            found = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
            return (found if found > now else found + timedelta(days=1)).timestamp()
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        pass
    try:
        return time.time() + (duration(text, flag) or 0.0)
    except UsageError:
        raise UsageError(
            f"{flag}: {text[:80]!a} is no moment",
            hint="say 2026-01-31T08:00, 22:00, or a time from now such as 2h",
        ) from None
