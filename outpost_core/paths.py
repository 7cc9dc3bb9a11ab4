"""Where Outpost keeps its state on this machine."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def state_dir(environ: Mapping[str, str]) -> Path:
    """Return the state folder; it may not exist yet.

    `$OUTPOST_STATE`, else `$XDG_STATE_HOME/outpost` (XDG Base Directory Specification), else
    `~/Library/Application Support/outpost` on macOS and `~/.local/state/outpost` elsewhere.
    """
    if chosen := environ.get("OUTPOST_STATE"):
        return Path(chosen).expanduser().absolute()
    if base := environ.get("XDG_STATE_HOME"):
        return Path(base) / "outpost"
    home = Path(environ.get("HOME") or Path.home())
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "outpost"
    return home / ".local" / "state" / "outpost"
