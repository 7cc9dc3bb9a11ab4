"""The command line: `outpost`.

`app` holds the group and the table of commands; every other module holds one family of commands
and is imported when one of them is used. Nothing here decides anything: commands turn words into
calls of `outpost_manager.manager` and answers into words.
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import TextIO


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.getfilesystemencoding().lower() != "utf-8" and sys.orig_argv[0]:
        # names, prompts and what git says are UTF-8, whatever the locale was when this began
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606
    _leave_out_current_folder()
    from outpost_manager.cli.app import cli

    sys.stdout, sys.stderr = map(_usable, (sys.stdout, sys.stderr))
    cli.main(prog_name="outpost")


def _leave_out_current_folder() -> None:
    """Import nothing from the current folder, which an empty part of PYTHONPATH stands for.

    `PYTHONPATH=$PYTHONPATH:/more` has one where the variable was empty, and whoever's repository
    the user stands in could bring modules and plugins.
    """
    parts = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if len(parts) == 1 and parts[0] != ".":
        return
    try:
        here = os.getcwd()  # noqa: PTH109 - as Python itself has it
    except OSError:  # it was removed
        return
    if here not in parts and {"", "."} & {*parts}:
        sys.path[:] = [path for path in sys.path if path not in ("", here)]


def _usable(stream: TextIO | None) -> TextIO:
    """Return a stream that takes any text: none was given, or one that knows only ASCII."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - until the end
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream
