"""What an agent's error means, told by its words."""

from __future__ import annotations

import re

#: What an error says → its reason. The first that fits counts.
_TROUBLES = tuple(
    (reason, re.compile("|".join(patterns), re.IGNORECASE))
    for reason, *patterns in (
        ("budget_reached", r"maximum budget", r"budget (was |is |has been )?(reached|exceeded)"),
        (
            "not_logged_in", r"\b401\b", "unauthorized", r"(invalid|incorrect) (x-)?api[ -_]?key",
            "api key not valid", "not logged in", r"please (run /login|log ?in|set an auth)",
            r"missing environment variable: .*(key|token)", r"authentication_(error|failed)",
            "oauth token", r"token (has |is )?expired", r"no (api key|credentials)",
        ),
        (
            "rate_limited", r"\b429\b", r"rate[ _-]?limit", "too many requests", "usage limit",
            "limit reached", "quota", "hit your .*limit", "resource_exhausted",
        ),
        (
            "overloaded", r"\b5(00|02|03|04|29)\b", "overloaded", "service unavailable",
            "high demand", "at capacity", "internal server error", "bad gateway",
        ),
    )
)  # fmt: skip


def trouble(words: str) -> str:
    """Return the reason (of `types.REASONS`) that an error's text tells of; "" for none."""
    return next((reason for reason, pattern in _TROUBLES if pattern.search(words)), "")
