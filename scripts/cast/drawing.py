"""Pictures of a terminal as one SVG that moves, light or dark as its viewer wishes; no script."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from terminal import Frame, Row, Run

#: pixels of a character and of a line.
_WIDE: Final = 8.4
_HIGH: Final = 19
_MARGIN: Final = 16
_TOP: Final = 30
_FONTS: Final = "ui-monospace, SFMono-Regular, Menlo, DejaVu Sans Mono, Consolas, monospace"
_COLOURS: Final = {
    #        light, dark
    "red": ("#b91c1c", "#fca5a5"),
    "green": ("#15803d", "#86efac"),
    "brown": ("#92400e", "#fcd34d"),
    "blue": ("#1d4ed8", "#93c5fd"),
    "magenta": ("#a21caf", "#f0abfc"),
    "cyan": ("#0e7490", "#67e8f9"),
}
#: words of a run, which each get a column of their own: fonts differ in width.
_WORDS: Final = re.compile(r"\S+(?: \S+)*")


def draw(frames: Sequence[Frame], columns: int, title: str, most: float) -> str:
    """Return the SVG.

    Args:
        frames: the pictures; those with the same rows one after the other are one.
        columns: of the window.
        title: what it is, for those who do not see it.
        most: seconds that one round may take; a longer one runs faster.
    """
    total = sum(frame.seconds for frame in frames)
    scale = min(1.0, most / total)
    lines = len(frames[0].rows)
    wide, high = round(columns * _WIDE) + 2 * _MARGIN, lines * _HIGH + _TOP + _MARGIN
    rows = {row: f"r{n}" for n, row in enumerate(dict.fromkeys(_all_rows(frames)))}
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" role="img"',
        f' aria-label={quoteattr(title)} font-size="14" font-family="{_FONTS}">',
        f"<title>{escape(title)}</title>",
        f"<style>{_style(frames, total, scale, wide)}</style>",
        "<defs>",
        *(f'<g id="{name}">{"".join(map(_run, row))}</g>' for row, name in rows.items()),
        "</defs>",
        f'<rect class="w" x="1" y="1" width="{wide - 2}" height="{high - 2}" rx="10"/>',
        *(f'<circle class="o" cx="{18 + 18 * n}" cy="16" r="5"/>' for n in range(3)),
        f'<svg x="{_MARGIN}" y="{_TOP}" width="{wide - 2 * _MARGIN}" height="{high - _TOP - 6}">',
        '<g class="reel">',
    ]
    for number, frame in enumerate(frames):
        uses = "".join(
            f'<use href="#{rows[row]}" y="{_HIGH * (line + 1) - 5}"/>'
            for line, row in enumerate(frame.rows)
            if row
        )
        out.append(f'<g transform="translate({number * wide})">{uses}</g>')
    return "\n".join([*out, "</g></svg></svg>", ""])


def _all_rows(frames: Sequence[Frame]) -> Iterator[Row]:
    for frame in frames:
        yield from (row for row in frame.rows if row)


def _style(frames: Sequence[Frame], total: float, scale: float, wide: int) -> str:
    steps, at = [], 0.0
    for number, frame in enumerate(frames):
        steps.append(f"{100 * at / total:.2f}%{{transform:translateX({-number * wide}px)}}")
        at += frame.seconds
    last = -(len(frames) - 1) * wide
    steps.append(f"100%{{transform:translateX({last}px)}}")
    light = "".join(f".{name}{{fill:{pair[0]}}}" for name, pair in _COLOURS.items())
    dark = "".join(f".{name}{{fill:{pair[1]}}}" for name, pair in _COLOURS.items())
    return (
        "text{fill:#1f2937;white-space:pre}.w{fill:#fbfaf7;stroke:#d6d3cb}.o{fill:#d6d3cb}"
        f".b{{font-weight:700}}{light}"
        "@media(prefers-color-scheme:dark){text{fill:#e5e7eb}"
        f".w{{fill:#111827;stroke:#374151}}.o{{fill:#374151}}{dark}}}"
        f"@keyframes reel{{{''.join(steps)}}}"
        f".reel{{animation:reel {total * scale:.2f}s step-end infinite}}"
        f"@media(prefers-reduced-motion:reduce){{.reel{{animation:none;"
        f"transform:translateX({last}px)}}}}"
    )


def _run(run: Run) -> str:
    names = [run.colour] * (run.colour in _COLOURS) + ["b"] * run.bold
    kind = f' class="{" ".join(names)}"' if names else ""
    pieces = []
    for found in _WORDS.finditer(run.text):
        x = round((run.column + found.start()) * _WIDE, 1)
        length = round(len(found[0]) * _WIDE, 1)
        pieces.append(f'<text x="{x:g}" textLength="{length:g}"{kind}>{escape(found[0])}</text>')
    return "".join(pieces)
