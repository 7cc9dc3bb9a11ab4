"""The border of the near side: what outposts say is looked at here, once, before anybody uses it.

An outpost may be a program of a stranger or a far host that somebody has taken over. What it says
is bounded and made plain text where it comes in; what cannot be true is not believed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from outpost_core.stdio.protocol import clean

if TYPE_CHECKING:
    from outpost_core.errors import OutpostError

#: Longest message of an error, and longest line, in characters.
_MOST_TEXT: Final = 4000
_MOST_LINE: Final = 1000


def line(said: str, limit: int = _MOST_LINE) -> str:
    """Return a stranger's text as one line without control characters, at most `limit` long."""
    if len(said) <= limit and said.isprintable():
        return said
    return " ".join(clean(said, limit).split())


def lines(said: str, limit: int = _MOST_TEXT) -> str:
    """Return a stranger's text without control characters, at most `limit` long.

    All lines but the first are indented, so that none looks like one of ours.
    """
    if len(said) <= limit and said.isprintable():
        return said
    first, *more = clean(said, limit).split("\n")
    return "\n".join([first.rstrip(), *(f"  {one.strip()}" for one in more if one.strip())])


def tame(error: OutpostError) -> None:
    """Make what an outpost told as an error harmless, in place."""
    error.message, error.mend = lines(error.message), line(error.mend)
    error.args = (error.message,)
