"""When a provider takes requests again, told by the words with which an agent ends.

What they say was collected from the agents themselves and from their issue trackers:

- Claude Code: `Claude AI usage limit reached|1764300000`, `5-hour limit reached ∙ resets 3pm`,
  `You've hit your session limit · resets 3:40pm (Asia/Tokyo)`, `… resets Oct 9, 5pm (UTC)`;
- Codex: `You've hit your usage limit. … try again in 3 days 4 hours 9 minutes.`, `… try again at
  3:28 PM.`, `… try again at Jul 5th, 2026 8:19 PM.`, `"resets_in_seconds":13872`;
- Gemini CLI: `Your quota will reset after 18h31m10s`, `Please retry in 34.07s`,
  `"retryDelay": "34s"`;
- HTTP as far as an agent shows it: `retry-after: 30`.

They are claims of an agent. Whoever acts on them bounds them.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import tzinfo

#: Reasons that mean: later.
LIMITS = frozenset({"rate_limited", "overloaded"})
#: Seconds from now beyond which a moment is no word on a limit: 400 days.
FARTHEST = 400 * 86400.0
#: A wall-clock time that has passed by so many seconds is still today's: the agent was slow.
_JUST_NOW = 600.0
#: Characters of a message that are looked at.
_LOOKED_AT = 2000

_EPOCH = re.compile(r"(?:\||resets?_?at\W{1,6})(1\d{9})(?:\d{3})?\b", re.IGNORECASE)
_ISO = re.compile(
    r"(?:until|reset\w*|again at)\W{1,6}(2\d\d\d-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d)?)"
    r"(?:\.\d+)? ?(?:Z|UTC)",
    re.IGNORECASE,
)
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_SPAN = re.compile(
    r"(?:again in |retry in |resets? in |resets? after |resets? |retry_?delay\W{1,6}|wait )"
    r"((?:\d{1,9}(?:\.\d{1,12})? ?(?:milliseconds?|ms|days?|d|hours?|hrs?|h|minutes?|mins?|m"
    r"|seconds?|secs?|s)(?![a-z])(?:,? (?:and )?)?){1,5})",
    re.IGNORECASE,
)
_SECONDS = re.compile(
    r"(?:retry[- ]?after|resets_in_seconds)\W{1,6}(\d{1,9})(?![\w.:])", re.IGNORECASE
)
_PIECE = re.compile(r"(\d{1,9}(?:\.\d{1,12})?) ?([a-z]*)", re.IGNORECASE)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = re.compile(
    r"(?:resets?|again|available|renews?)(?: at| on)? "
    r"(?:(?P<month>[a-z]{3})[a-z]*\.? (?P<day>\d{1,2})(?:st|nd|rd|th)?(?:,? (?P<year>20\d\d))?"
    r",?(?: at)? )?"
    r"(?P<hour>0?[1-9]|1[0-2])(?::(?P<minute>[0-5]\d))? ?(?P<half>[ap])\.?m\b\.?"
    r"(?P<tomorrow> tomorrow)?(?: ?\((?P<zone>[A-Za-z0-9_+/-]{1,40})\))?",
    re.IGNORECASE,
)


def moment(words: str, now: float, zone: str = "") -> float | None:
    """Return when a provider takes requests again, in seconds since 1970; None: it is not said.

    Args:
        words: with which the agent ended.
        now: seconds since 1970.
        zone: the time zone of the agent's clock; "" for this machine's.
    """
    words = words[:_LOOKED_AT].replace("\u202f", " ").replace("\u00a0", " ")
    try:
        return _epoch(words) or _iso(words) or _clock(words, now, zone) or _span(words, now)
    except (ValueError, OverflowError, OSError):
        return None  # a date that is none


def _epoch(words: str) -> float | None:
    found = _EPOCH.search(words)
    return float(found[1]) if found else None


def _iso(words: str) -> float | None:
    found = _ISO.search(words)
    if not found:
        return None
    from datetime import UTC, datetime

    return datetime.fromisoformat(f"{found[1]}T{found[2]}").replace(tzinfo=UTC).timestamp()


def _span(words: str, now: float) -> float | None:
    if bare := _SECONDS.search(words):
        return now + float(bare[1])
    found = _SPAN.search(words)
    if not found:
        return None
    whole = 0.0
    for number, unit in _PIECE.findall(found[1]):
        known = unit.lower()
        key = "ms" if known in ("ms", "millisecond", "milliseconds") else known[:1]
        whole += float(number) * _UNITS[key]
    return now + whole


def _clock(words: str, now: float, zone: str) -> float | None:
    found = _CLOCK.search(words)
    if not found:
        return None
    from datetime import datetime, timedelta

    here = _zone(found["zone"] or zone)
    hour = int(found["hour"]) % 12 + (12 if found["half"] in "pP" else 0)
    today = datetime.fromtimestamp(now, here)
    at = today.replace(hour=hour, minute=int(found["minute"] or 0), second=0, microsecond=0)
    if found["month"]:
        at = at.replace(
            year=int(found["year"] or today.year),
            month=_MONTHS.index(found["month"].lower()) + 1,
            day=int(found["day"]),
        )
        if not found["year"] and at.timestamp() < now - 86400:
            at = at.replace(year=today.year + 1)
    elif found["tomorrow"] or at.timestamp() < now - _JUST_NOW:
        at += timedelta(days=1)
    return at.timestamp()


def _zone(name: str) -> tzinfo | None:
    """Return a time zone; this machine's for none, and for one that is not known here."""
    if not name:
        return None
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None
