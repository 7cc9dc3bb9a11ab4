"""Where Outpost keeps its state and its configuration on this machine."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from outpost_core.errors import UsageError


def here(environ: Mapping[str, str]) -> Path:
    """Return the current folder; where it was removed, what it was called.

    Most commands need none, and those that look into it say that it is not there.
    """
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path(environ.get("PWD") or "/the current folder")


def home(environ: Mapping[str, str]) -> Path | None:
    """Return the user's home folder; None for a user who has none."""
    if environ.get("HOME"):
        return Path(environ["HOME"])
    try:
        return Path.home()
    except RuntimeError:
        return None


def config_dir(environ: Mapping[str, str]) -> Path | None:
    """Return the folder of the user's own configuration; it may not exist. None without a home.

    `$XDG_CONFIG_HOME/outpost` (XDG Base Directory Specification), else `~/.config/outpost`.
    """
    base = environ.get("XDG_CONFIG_HOME", "")
    own = Path(base) if base.startswith("/") else None
    if own is None and (folder := home(environ)) is not None:
        own = folder / ".config"
    return None if own is None else own / "outpost"


def state_dir(environ: Mapping[str, str]) -> Path:
    """Return the state folder; it may not exist yet.

    `$OUTPOST_STATE`, else `$XDG_STATE_HOME/outpost` (XDG Base Directory Specification), else
    `~/Library/Application Support/outpost` on macOS and `~/.local/state/outpost` elsewhere.

    Raises:
        UsageError: neither is set, and the user has no home folder.
    """
    if chosen := environ.get("OUTPOST_STATE"):
        return Path(chosen).expanduser().absolute()
    base = environ.get("XDG_STATE_HOME", "")
    if base.startswith("/"):  # a relative one is to be ignored, says the specification
        return Path(base) / "outpost"
    own = home(environ)
    if own is None:
        raise UsageError(
            "nobody knows your home folder: HOME is not set, and your user has no entry in passwd",
            hint="export HOME=FOLDER, or OUTPOST_STATE=FOLDER for the state alone",
        )
    if sys.platform == "darwin":
        return own / "Library" / "Application Support" / "outpost"
    return own / ".local" / "state" / "outpost"
