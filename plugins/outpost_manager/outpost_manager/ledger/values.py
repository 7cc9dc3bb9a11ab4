"""Values of the ledger's rows, also of those that cannot be: moments, amounts, texts, JSON.

An Outpost of before believed what outposts said, so that a ledger may hold a moment of the year
10^292, and files can be damaged. What reads rows asks here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from outpost_shared import plausible

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from outpost_core.types import Result, Usage

#: Asks the ledger: a statement and its arguments, answered by all rows.
Ask: TypeAlias = "Callable[[str, Sequence[object]], list[tuple[Any, ...]]]"


def asking(db: sqlite3.Connection) -> Ask:
    """Return what asks the ledger inside the write transaction of a connection."""
    return lambda sql, args: db.execute(sql, args).fetchall()


#: No clock is that wrong (2100).
LATEST: Final = 4_102_444_800.0
#: Nano-dollars of one worker beyond which nothing is believed: ten million dollars.
DEAREST: Final = 10**16
#: Longest text of a row that is handed on, in characters.
LONGEST: Final = 20_000


def moment(value: object) -> bool:
    """Whether a value of a row can be a moment; None can."""
    return value is None or (type(value) is float and 0.0 <= value < LATEST)


def amount(value: object) -> bool:
    """Whether a value of a row can be an amount of nano-dollars; None can."""
    return value is None or (type(value) is int and 0 <= value <= DEAREST)


def number(value: object) -> float | None:
    """Return a moment of a row; None for what cannot be one."""
    return value if isinstance(value, float) and moment(value) else None


def nano(value: object) -> int:
    """Return an amount of a row; 0 for what cannot be one."""
    return value if isinstance(value, int) and amount(value) else 0


def text(value: object) -> str:
    """Return a text of a row, bounded; other values in words."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    said = value if isinstance(value, str) else "" if value is None else repr(value)[:80]
    return said if len(said) <= LONGEST else said[: LONGEST - 1] + "…"


def counted(column: str) -> str:
    """Return the SQL of an amount in nano-dollars, of which any number of rows can be added up."""
    return f"min(CAST(coalesce({column}, 0) AS INTEGER), {DEAREST})"


def data(body: object) -> dict[str, Any]:
    """Return the JSON object of an event; one that says so for what cannot be read."""
    try:
        value = json.loads(body)  # type: ignore[arg-type]
    except (TypeError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return {"unreadable": text(body)[:200]}
    return value


#: The texts of a result.
_TEXTS: Final = ("reason", "message", "branch", "commit", "pr_url", "checkpoint", "session")


def oddity(value: Result | Usage) -> str:
    """Return the field of a result or usage whose value no listing could show; "" for none."""
    if not hasattr(value, "usage"):
        return plausible.odd_usage(value)
    for name in ("started_at", "finished_at"):
        if not moment(getattr(value, name)):
            return name
    for name in ("log_bytes", "cost_usd"):
        if not plausible.amount(getattr(value, name)):
            return name
    for name in ("exit_code", "signal"):
        if not plausible.amount(abs(getattr(value, name) or 0), 1 << 32):
            return name
    for name in _TEXTS:
        if len(getattr(value, name) or "") > LONGEST:
            return name
    return "usage" if oddity(value.usage) else ""
