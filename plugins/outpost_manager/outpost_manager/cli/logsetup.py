"""Where logs go: nowhere, unless `-v`, `-vv` or `OUTPOST_LOG` asks for them.

`OUTPOST_LOG` is a level (`warning`, `info`, `debug`), or level and file: `debug:/tmp/outpost.log`.
On standard error a record passes the filter that everything for people passes. Imported when logs
are asked for, so that nobody else waits for `logging`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Final, TextIO

from outpost_core.errors import UsageError
from outpost_core.nearest import suggest
from outpost_manager.cli import output
from outpost_shared.harmless import clean_lines, escaped
from outpost_shared.log import ROOT

LEVELS: Final = {"warning": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}
_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class _Harmless(logging.Formatter):
    """Spells out what a terminal would obey; no line but a record's first begins at the margin."""

    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        return clean_lines(super().format(record)).replace("\n", "\n    ")


class _JsonLine(logging.Formatter):
    """Makes one line of JSON of a record, for programs that collect logs."""

    def format(self, record: logging.LogRecord) -> str:
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said = {
            "at": f"{whole}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return escaped(json.dumps(said, ensure_ascii=False))


class _Shown(logging.Handler):
    """Prints records as everything for people is printed."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            output.echo(self.format(record), err=True)
        except Exception:  # noqa: BLE001 - as every handler of logging does
            self.handleError(record)


def verbose(count: int) -> None:
    """Log on standard error.

    Args:
        count: 1 for what is done (info), 2 for each step (debug).
    """
    _add(_Shown(), logging.INFO if count == 1 else logging.DEBUG)


def steadily(*, as_json: bool) -> None:
    """Log on standard error what is done, as a program that stays does.

    Args:
        as_json: one JSON object a line, with `at`, `level`, `logger` and `message`.
    """
    shown = [h for h in logging.getLogger(ROOT).handlers if type(h) is _Shown]
    level = min((handler.level for handler in shown), default=logging.INFO)
    _add(_Shown(), min(level, logging.INFO))
    if as_json:
        for handler in logging.getLogger(ROOT).handlers:
            if type(handler) is _Shown:
                handler.setFormatter(_JsonLine())


def from_environment(said: str) -> None:
    """Log as `OUTPOST_LOG` says.

    Raises:
        UsageError: there is no such level, or the file cannot be written.
    """
    word, _, path = said.partition(":")
    level = LEVELS.get(word.strip().lower())
    if level is None:
        known = ", ".join(LEVELS)
        near = suggest(word, LEVELS)
        raise UsageError(
            f"OUTPOST_LOG: there is no level {word[:40]!a}",
            hint=near or f"OUTPOST_LOG=info, or info:FILE; levels are {known}",
        )
    if not path:
        _add(_Shown(), level)
        return
    try:
        _add(logging.StreamHandler(_opened(Path(path).expanduser())), level)
    except OSError as error:
        raise UsageError(
            f"OUTPOST_LOG: {path!a} cannot be written: {error.strerror}",
            hint="name a file in a folder that you can write to",
        ) from None


def _opened(path: Path) -> TextIO:
    """Open a log of the user's own, which nobody else can read, to append to it."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o600), "a", encoding="utf-8", errors="replace")


def _add(handler: logging.Handler, level: int) -> None:
    handler.setFormatter(_Harmless(_FORMAT))
    handler.setLevel(level)
    logger = logging.getLogger(ROOT)
    for before in [one for one in logger.handlers if type(one) is type(handler) is _Shown]:
        logger.removeHandler(before)  # -v and OUTPOST_LOG together: what is said last counts
    logger.addHandler(handler)
    if logger.level == logging.NOTSET or level < logger.level:
        logger.setLevel(level)
