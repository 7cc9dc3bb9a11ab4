"""Tolerations as the option `tolerations` writes them. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

from outpost_core.errors import UsageError

EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_TAINT: Final = re.compile(
    r"(?P<key>\*|(?:[a-z0-9.-]{1,253}/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)"
    r"(?:=(?P<value>(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?))?"
    r"(?::(?P<effect>[A-Za-z]{1,20}))?",
    re.ASCII,
)


def toleration(text: str) -> dict[str, Any]:
    """Return what `KEY[=VALUE][:EFFECT]` bears; `*` is every key.

    Raises:
        UsageError: it is written otherwise.
    """
    match = _TAINT.fullmatch(text)
    if match is None or (match["effect"] or "NoSchedule") not in EFFECTS:
        raise UsageError(
            f"tolerations: {text[:80]!a} is no taint",
            hint="write KEY, KEY=VALUE or either with :NoSchedule, :PreferNoSchedule or"
            " :NoExecute, as `kubectl describe node` shows it; * is every taint",
        )
    found: dict[str, Any] = {}
    if match["key"] != "*":
        found["key"] = match["key"]
    elif match["value"] is not None:
        raise UsageError("tolerations: * is every taint, whatever its value", hint="write * alone")
    found["operator"] = "Exists" if match["value"] is None else "Equal"
    if match["value"] is not None:
        found["value"] = match["value"]
    if match["effect"]:
        found["effect"] = match["effect"]
    return found
