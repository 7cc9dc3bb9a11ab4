"""Foreign text made harmless: what a terminal would obey, or nobody would see, is spelled out."""

from __future__ import annotations

import re
from typing import Final

#: Longest text that is shown where one line is meant, in characters.
LONGEST: Final = 4000
#: Letters and marks that have no width and no shape; Python calls them printable.
UNSEEN: Final = frozenset(
    [
        "\u034f", "\u115f", "\u1160", "\u17b4", "\u17b5", "\u180b", "\u180c", "\u180d", "\u180f",
        "\u3164", "\uffa0", *map(chr, range(0xE0100, 0xE01F0)),
    ]
)  # fmt: skip
#: what needs a look in a JSON document.
_UNUSUAL: Final = re.compile(r"[^\x20-\x7e\n]")


def clean(text: str) -> str:
    """Return `text` on one line with its control and direction-changing characters escaped.

    What is longer than `LONGEST` is cut.
    """
    if len(text) > LONGEST:
        text = text[: LONGEST - 1] + "…"
    return _spelled(text)


def clean_lines(text: str) -> str:
    """Do the same, keep line breaks and tabs, and cut nothing."""
    if text.isascii() and text.isprintable():
        return text
    return "\n".join(
        "\t".join(_spelled(part) for part in line.split("\t")) for line in text.split("\n")
    )


def escaped(document: str) -> str:
    """Return a JSON document in which such characters are escaped as JSON can; it says the same.

    Outside of its texts a document has none but line ends.
    """
    return _UNUSUAL.sub(_in_json, document)


def _in_json(found: re.Match[str]) -> str:
    char = found.group()
    if char.isprintable() and char not in UNSEEN:
        return char
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _spelled(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() and c not in UNSEEN else _escape(c) for c in text)


def _escape(char: str) -> str:
    code = ord(char)
    if char in "\t\n":
        return " "
    if code < 256:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
