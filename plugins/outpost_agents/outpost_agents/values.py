"""Values of any shape: what an agent prints is checked here, and nothing raises."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    #: A JSON object of an agent's output.
    Line = dict[str, Any]

#: A number of things beyond which it is none.
_COUNT_LIMIT = 10**15
#: USD that no agent has ever spent: more is a defect of what it prints.
MONEY_LIMIT = 1_000_000.0


def mapping(value: object) -> Line:
    """Return a JSON object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[Line]:
    """Return the JSON objects of a list, none for anything else."""
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def text(value: object) -> str:
    """Return a text, "" for anything else."""
    return value if isinstance(value, str) else ""


def count(value: object) -> int | None:
    """Return a number of things, None for what cannot be one."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _COUNT_LIMIT:
        return value
    return None


def summed(values: Iterable[object]) -> int | None:
    """Return the sum of what are counts; None when none is."""
    counts = [number for number in map(count, values) if number is not None]
    return min(sum(counts), _COUNT_LIMIT - 1) if counts else None


def number(value: object) -> float | None:
    """Return a number that is not negative, None for what is none."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _COUNT_LIMIT:
        return float(value)
    return None


def money(value: object) -> float | None:
    """Return USD, None for what cannot be that."""
    usd = number(value)
    return usd if usd is not None and usd <= MONEY_LIMIT else None


def one_line(words: str, limit: int) -> str:
    """Return text that is safe to print and to encode: one line, no control characters."""
    head = words[: 4 * limit].encode("utf-8", "replace").decode()
    line = " ".join("".join(c if c.isprintable() else " " for c in head).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
