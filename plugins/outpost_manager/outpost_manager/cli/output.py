"""The one place where text for people leaves: everything in it is made harmless here.

Ids, titles, reasons and errors come from elsewhere, and are put together with colours of our own.
Which of the two an ESC is cannot be seen in the text afterwards. So `style` makes marks that only
this process knows, and what prints turns those into colours and shows every other control
character instead of obeying it, whoever forgot to clean what.

The linter forbids `click.style` and `click.echo` everywhere else.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Final

import click

from outpost_shared.harmless import clean_lines

#: Random digits: a mark looks like a colour (so that widths are counted right and `click.unstyle`
#: takes it out), and is one that no terminal knows.
_KEY: Final = str(int.from_bytes(os.urandom(8), "big") | 1 << 63)
_MARK: Final = re.compile(rf"\x1b\[{_KEY};([0-9;]{{0,16}})m")
#: colours that are used, by the number of SGR.
_COLOURS: Final = {
    "red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36",
}  # fmt: skip
#: back to the beginning of the line, and away with what stands there.
_ERASE: Final = "\r\x1b[K"


def style(text: str, *, fg: str | None = None, bold: bool = False, dim: bool = False) -> str:
    """Return text that is printed in a colour.

    Args:
        text: what is shown, plain.
        fg: name of the colour.
        bold: in bold.
        dim: in the background.
    """
    codes = [_COLOURS[fg]] if fg is not None else []
    codes += ["1"] * bold + ["2"] * dim
    if not codes:
        return text
    return "".join(f"\x1b[{_KEY};{code}m" for code in codes) + f"{text}\x1b[{_KEY};0m"


def shown(text: str) -> str:
    """Return text for a terminal: the colours of `style`, line ends and tabs, nothing else."""
    if text.isascii() and text.isprintable():
        return text
    pieces = _MARK.split(text)  # text, code, text, code, …
    return "".join(
        f"\x1b[{piece}m" if number % 2 else clean_lines(piece)
        for number, piece in enumerate(pieces)
    )


def coloured(text: str) -> str:
    """Return text that was filtered already, with the colours of `style`."""
    return _MARK.sub("\x1b[\\1m", text)


def echo(text: str, *, err: bool = False) -> None:
    """Print text for people, and end the line.

    Args:
        text: may hold foreign text as it came, and colours of `style`.
        err: print on standard error.
    """
    click.echo(shown(text), err=err)


def error(text: str) -> str:
    """Return the text of an error as it is shown: no line but the first begins at the margin.

    Args:
        text: message and hint; foreign words in it may bring lines of their own, which must not
            look like answers of ours.
    """
    first, *more = text.split("\n")
    shown_more = [one if one[:1] in (" ", "") else f"  {one}" for one in more]
    return "\n".join([style("error: ", fg="red", bold=True) + first, *shown_more])


def filtered(text: str, *, err: bool = False) -> None:
    """Print what a filter of foreign output has made (`terminal`, `readable`), as it is."""
    click.echo(coloured(text), nl=False, err=err)


def document(text: str) -> None:
    """Print a JSON document; see `session.print_json`, which makes it harmless and exact."""
    click.echo(text)


def live(text: str) -> None:
    """Put a line on standard error in the place of the one before; "" takes it away."""
    sys.stderr.write(_ERASE + (shown(text.replace("\n", " ")) if text else ""))
    sys.stderr.flush()
