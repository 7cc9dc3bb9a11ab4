"""Which kinds of terminal this machine knows. tmux refuses to run on one that it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

_FOLDERS: Final = (
    "/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo", "/usr/share/lib/terminfo",
    "/usr/lib/terminfo", "/usr/local/share/terminfo",
)  # fmt: skip
_NEAREST: Final = ("xterm-256color", "xterm", "screen-256color", "screen", "vt100", "linux")


def known(environ: Mapping[str, str]) -> str:
    """Return `TERM` if this machine knows that terminal, else the nearest that it knows.

    Where no description is found at all nobody can say, and it stays as it is.

    Args:
        environ: says `TERM`, and where else descriptions are.
    """
    term = environ.get("TERM", "")
    if not term or _described(term, environ):
        return term
    inside = term.startswith(("screen", "tmux"))
    nearest = [*_NEAREST[2:4], *_NEAREST] if inside else [*_NEAREST]
    return next((name for name in nearest if _described(name, environ)), term)


def _described(term: str, environ: Mapping[str, str]) -> bool:
    if "/" in term or term.startswith("."):
        return False
    folders = [environ.get("TERMINFO", ""), *environ.get("TERMINFO_DIRS", "").split(":")]
    if environ.get("HOME"):
        folders.append(f"{environ['HOME']}/.terminfo")
    first = (term[0], f"{ord(term[0]):x}")  # macOS names the folders by number
    return any(
        folder and Path(folder, letter, term).exists()
        for folder in (*folders, *_FOLDERS)
        for letter in first
    )
