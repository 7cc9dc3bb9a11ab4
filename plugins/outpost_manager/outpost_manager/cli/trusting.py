"""Show what a found file says, and ask whether to trust it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from outpost_core.errors import ConfigError
from outpost_manager.cli import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outpost_core.discovery import Plugins
    from outpost_manager.config.places import Place
    from outpost_manager.config.trusted import Found


class Talk(Protocol):
    """What of the invocation is needed to show something and to ask."""

    json: bool

    def note(self, text: str) -> None:
        """Print a line for people."""

    def plugins(self) -> Plugins:
        """Return the installed packages."""


def ask_again(session: Talk, place: Place) -> bool:
    """Show how a file has changed since it was trusted, and ask; True when it is trusted now."""
    from outpost_manager.config import trusted

    if not can_ask(session):
        return False
    try:
        found = _read(place.path)
        session.note(render.clean(f"{place.path} has changed since you trusted it:"))
        _show(session, [found])
    except ConfigError as error:
        session.note(render.clean_lines(str(error)))
        return False
    if not click.confirm("trust what it says now?", err=True):
        return False
    trusted.trust(found, os.environ)
    return True


def _read(path: Path) -> Found:
    """Read a file that is to be trusted.

    Raises:
        ConfigError: it cannot be read, or others could have written it.
    """
    from outpost_manager.config import trusted
    from outpost_shared.access import NotPrivateError

    try:
        return trusted.read_found(path)
    except NotPrivateError as error:
        raise ConfigError(
            f"cannot be trusted: {error.path}: {error.why}", file=str(path), hint=error.hint
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", file=str(path)) from None


def _show(session: Talk, found: Sequence[Found]) -> None:
    """Say what the files would make Outpost do; what changed, of those that were trusted before.

    Raises:
        ConfigError: one of them cannot be understood.
    """
    from outpost_manager.config import trusted
    from outpost_manager.config.effects import differences, effects

    backends = session.plugins().backends
    for one in found:
        now = effects(one.path, one.data, backends)
        record = trusted.recorded(one.path, os.environ)
        try:
            before = effects(one.path, record.text.encode(), backends) if record else {}
        except ConfigError:
            before = {}
        lines = differences(before, now)
        session.note(render.clean(f"{one.path}:{'' if lines else ' says nothing new'}"))
        for mark, key, value in lines:  # all: the last one may be what runs a command
            shown = render.clean(f"{key}: {value}")
            session.note(f"  {mark if record else ''}{' ' if record else ''}{shown}")


def can_ask(session: Talk) -> bool:
    """Tell whether somebody sits at a terminal, and did not ask for JSON."""
    return not session.json and sys.stdin.isatty() and sys.stderr.isatty()
