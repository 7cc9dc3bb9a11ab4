"""Words for people: tables as wide as the terminal, colours, ages.

Ids, titles and messages come from elsewhere. `clean` makes control characters visible, so that
none of them moves the cursor, and `width` counts what a terminal shows.
"""

from __future__ import annotations

import os
import re
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from outpost_manager.cli.output import style
from outpost_shared import harmless

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from outpost_core.types import Event

clean, clean_lines = harmless.clean, harmless.clean_lines

#: colour of a worker's state, an outpost's state, a verdict.
COLOURS: Final = {
    "queued": "cyan", "starting": "cyan", "working": "blue", "idle": "yellow", "done": "green",
    "failed": "red", "stopped": "yellow", "lost": "magenta", "unreachable": "red",
    "ready": "green", "ok": "green", "missing": "yellow", "broken": "red", "faulty": "red",
    "failing": "yellow", "yes": "green",
    "no": "yellow", "delivered": "green", "waiting": "yellow",
}  # fmt: skip
#: a column is not made narrower than this.
_NARROWEST: Final = 6
#: a column of which less is shown is left out instead, where it may be.
_READABLE: Final = 12
_GAP: Final = "  "
#: a colour, as `say.style` makes it.
_COLOUR: Final = re.compile(r"(\x1b\[[0-9;]*m)")


def width(text: str) -> int:
    """Return the number of terminal cells of `text`, which may hold colours of `say.style`."""
    text = click.unstyle(text)
    if text.isascii():
        return len(text)
    import unicodedata

    cells = 0
    for char in text:
        if unicodedata.category(char) in ("Mn", "Me", "Cf"):
            continue
        cells += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return cells


def fit(text: str, cells: int) -> str:
    """Return plain `text` cut with `…` so that it takes at most `cells` cells."""
    if width(text) <= cells:
        return text
    kept, used = [], 0
    for char in text:
        used += width(char)
        if used > cells - 1:
            break
        kept.append(char)
    return "".join(kept) + "…" if cells > 0 else ""


def crop(text: str, cells: int) -> str:
    """Return `text`, which may hold colours of `say.style`, cut to at most `cells` cells."""
    if width(text) <= cells:
        return text
    kept, room = "", cells
    for part in _COLOUR.split(text):
        if not _COLOUR.fullmatch(part):
            part = fit(part, room)  # noqa: PLW2901 - what is kept of it
            room -= width(part)
        kept += part
    return kept


def terminal_width() -> int | None:
    """Return the width of the terminal that shows standard output, or None without one."""
    if os.environ.get("COLUMNS", "").isdigit():
        return int(os.environ["COLUMNS"]) or None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    keep: Sequence[str] = (),
    colour: Sequence[str] = (),
    drop: Sequence[str] = (),
    wrap: bool = False,
) -> Iterator[str]:
    """Yield the lines of a table.

    Args:
        head: names of the columns.
        rows: plain cells; they are made harmless here.
        keep: columns that are never cut (ids); the others are when the terminal is narrow.
        colour: columns whose cells are words of `COLOURS`.
        drop: columns that are left out, first ones first, where all would be too narrow to read.
        wrap: what the last column has no room for goes on in the next lines, and is not cut.
    """
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [
        max(width(name), *(width(row[i]) for row in cells)) if cells else width(name)
        for i, name in enumerate(head)
    ]
    limit = terminal_width()
    if limit is not None:
        shown_of = _readable(head, widths, keep, drop, limit)
        head = [head[i] for i in shown_of]
        cells = [[row[i] for i in shown_of] for row in cells]
        widths = [widths[i] for i in shown_of]
        _shrink(widths, limit - len(_GAP) * (len(head) - 1), [name in keep for name in head])
    yield _line([style(n.upper(), dim=True) for n in map(fit, head, widths)], widths)
    for row in cells:
        shown = [fit(cell, cells) for cell, cells in zip(row, widths, strict=True)]
        for i, name in enumerate(head):
            if name in colour:
                shown[i] = tint(shown[i], row[i])
        rest = _pieces(row[-1], widths[-1]) if wrap else []
        yield _line([*shown[:-1], rest[0]] if rest else shown, widths)
        for piece in rest[1:]:
            yield _line([*("" for _ in widths[1:]), piece], widths)


def _pieces(text: str, cells: int) -> list[str]:
    """Return plain `text` in lines of at most so many cells; none where it is one line."""
    from textwrap import wrap

    if not width(text) > cells > 1:
        return []
    return wrap(text, cells if width(text) <= len(text) else cells // 2)  # a wide one takes two


def _readable(
    head: Sequence[str], widths: Sequence[int], keep: Sequence[str], drop: Sequence[str], limit: int
) -> list[int]:
    """Return the columns that can be shown, each wide enough to be read."""
    shown = [*range(len(head))]
    for name in drop:
        least = [widths[i] if head[i] in keep else min(widths[i], _READABLE) for i in shown]
        if sum(least) + len(_GAP) * (len(shown) - 1) <= limit:
            break
        shown = [i for i in shown if head[i] != name]
    return shown


def _shrink(widths: list[int], room: int, keep: list[bool]) -> None:
    """Take cells from the widest columns until the row fits, in place."""
    while sum(widths) > room:
        free = [i for i, w in enumerate(widths) if not keep[i] and w > _NARROWEST]
        if not free:
            return
        widths[max(free, key=lambda i: widths[i])] -= 1


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell + " " * (cells_ - width(cell)) for cell, cells_ in zip(cells, widths, strict=True)
    ]
    return _GAP.join(padded).rstrip()


def tint(text: str, word: str | None = None) -> str:
    """Colour a state's name.

    Args:
        text: what is shown.
        word: the word that has the colour, where `text` is a cut form of it.
    """
    key = (word or text).split(" ")[0]
    return style(text, fg=COLOURS[key]) if key in COLOURS else text


def pairs(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield `name  value` lines, leaving out empty values; values may be coloured."""
    shown = [(name, value) for name, value in rows if value]
    longest = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        yield f"{style(name.ljust(longest), dim=True)}{_GAP}{value}"


def age(moment: float | None, now: float | None = None) -> str:
    """Return how long ago a moment was, in its largest unit: `40s`, `12m`, `3h`, `5d`."""
    if moment is None:
        return "-"
    return span(max(0.0, (time.time() if now is None else now) - moment))


def ago(moment: float | None, now: float | None = None) -> str:
    """Return how long ago a moment was, in words: `just now`, `40 s ago`, `5 min ago`."""
    if moment is None:
        return "-"
    seconds = max(0.0, (time.time() if now is None else now) - moment)
    return "just now" if seconds < 5 else f"{lasting(seconds)} ago"


def lasting(seconds: float) -> str:
    """Return a length of time in its largest unit, in words: `40 s`, `5 min`, `3 h`, `2 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def span(seconds: float) -> str:
    """Return a length of time in its two largest units: `4s`, `1m30s`, `2h05m`, `3d04h`."""
    whole = int(seconds)
    for size, unit, smaller, name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // smaller:02d}{name}"
    return f"{whole}s"


def count(number: int, word: str) -> str:
    """Return a number of things: `1 worker`, `2,000 workers`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def money(usd: float | None) -> str:
    """Return an amount in USD, or "" when there is none."""
    if usd is None:
        return ""
    return f"${usd:.2f}" if usd >= 1 or usd == 0 else f"${usd:.{4 if usd >= 0.0001 else 6}f}"


def event_line(event: Event, *, of_many: bool = False) -> str:
    """Return an event as one line.

    Args:
        event: what happened.
        of_many: name the worker, too.
    """
    from outpost_manager.jsonviews import moment

    more = (f"{key}={value}" for key, value in event.data.items() if value != "")
    words = [event.kind, event.worker if of_many else "", event.outpost, *more]
    return f"{moment(event.at)}  {clean(' '.join(filter(None, words)))}"
