"""What a status, a result or a usage may say: the same check for everything from elsewhere.

Types are seen to by `wire`. Here it is about values: a moment of the year 10^292, a cost below
nothing, a branch that git would take for an option. Whoever takes such a thing in from a worker's
folder, a host or a program asks here first, and says what is wrong in place of believing it.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from outpost_core.types import Result, Usage

#: Seconds that a clock elsewhere may be ahead of ours.
AHEAD: Final = 2 * 86400.0
#: More than anybody will ever have used, of tokens, turns, bytes and dollars.
MOST: Final = 10**15
#: Characters of a short text (reason, session, model), of a path or URL, and of a message.
SHORT: Final = 256
LINE: Final = 4096
TEXT: Final = 16 * 1024
_HASH: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", re.ASCII)
_URL: Final = re.compile(r"https?://[^\s\x00-\x20\x7f-\x9f]+", re.IGNORECASE)
_REASON: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)


def moment(value: float | None, now: float | None = None) -> bool:
    """Whether a value can be a moment that has passed, as clocks go; None can."""
    return value is None or 0.0 <= value <= (time.time() if now is None else now) + AHEAD


def amount(value: float | None, most: float = MOST) -> bool:
    """Whether a value can be a number of things or of dollars; None can."""
    return value is None or 0 <= value <= most


def line(value: str | None, most: int = LINE) -> bool:
    """Whether a value can be one short text; None can."""
    return value is None or (len(value) <= most and "\0" not in value)


def commit(value: str | None) -> bool:
    """Whether a value can be the whole name of a commit; None can."""
    return value is None or _HASH.fullmatch(value) is not None


def branch(value: str | None) -> bool:
    """Whether a value can be a branch; None can."""
    from outpost_core.errors import UsageError
    from outpost_core.names import check_branch

    if value is None:
        return True
    try:
        check_branch(value)
    except UsageError:
        return False
    return True


def url(value: str | None) -> bool:
    """Whether a value can be the address of a web page; None can."""
    return value is None or (len(value) <= LINE and _URL.fullmatch(value) is not None)


def odd_usage(usage: Usage | None) -> str:
    """Return the field of a usage that says what cannot be; "" when all of it can."""
    if usage is None:
        return ""
    for name in ("input_tokens", "output_tokens", "cached_tokens", "cost_usd", "turns"):
        if not amount(getattr(usage, name)):
            return name
    return "" if line(usage.model, SHORT) else "model"


def odd_result(result: Result, now: float | None = None) -> str:
    """Return the field of a result that says what cannot be; "" when all of it can.

    Args:
        result: the result.
        now: seconds since the epoch; None for the clock's.
    """
    checks = (
        ("state", result.state.terminal),
        ("reason", _REASON.fullmatch(result.reason) is not None),
        ("message", line(result.message, TEXT)),
        ("branch", branch(result.branch)),
        ("commit", commit(result.commit)),
        ("pr_url", url(result.pr_url)),
        ("exit_code", result.exit_code is None or -(1 << 31) <= result.exit_code < 1 << 32),
        ("signal", amount(result.signal, 1024)),
        ("checkpoint", line(result.checkpoint)),
        ("session", line(result.session)),
        ("started_at", moment(result.started_at, now)),
        ("finished_at", moment(result.finished_at, now)),
        ("log_bytes", amount(result.log_bytes)),
        ("fence", line(result.fence)),
        ("cost_usd", amount(result.cost_usd)),
        ("retry_at", amount(result.retry_at)),
    )
    for name, fits in checks:
        if not fits:
            return name
    inner = odd_usage(result.usage)
    return f"usage.{inner}" if inner else ""
