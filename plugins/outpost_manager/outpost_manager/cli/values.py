"""Words of the command line → values: durations, sizes, priorities, `K=V`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outpost_core.errors import UsageError
from outpost_manager.orders.words import duration, priority, size

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["assignments", "duration", "json_or_text", "priority", "size"]


def assignments(texts: Sequence[str], flag: str) -> dict[str, str]:
    """Return a mapping from `K=V` words.

    Raises:
        UsageError: one has no `=` or no name. The value is not repeated: it may be private.
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{flag}: {name!a} is not NAME=VALUE", hint=f"{flag} NAME=VALUE")
        values[name] = value
    return values


def json_or_text(text: str) -> Any:
    """Return the JSON value that a word is (`3`, `true`, `[1]`), else the word itself."""
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text
