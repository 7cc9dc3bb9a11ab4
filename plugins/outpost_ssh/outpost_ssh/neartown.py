"""Which town of this machine a far one is given: never one that was only found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from outpost_core.town import MARK, towns, trusted_town


def near_town(config_dir: Path | None, environ: Mapping[str, str], cwd: Path) -> Path | None:
    """Return the town that this side works in.

    It is the configuration's, else the nearest around `cwd` that the user has trusted, else the
    one that Gas Town's variables name: another machine gets its files, or what its remote has.
    """
    named = environ.get("GT_TOWN_ROOT") or environ.get("GT_ROOT")
    places = (
        config_dir.parent if config_dir else None,
        trusted_town(environ, cwd),
        Path(named) if named else None,
    )
    return next((town for town in places if town and (town / MARK).is_file()), None)


def passed_over(environ: Mapping[str, str], cwd: Path) -> Path | None:
    """Return the nearest town around `cwd`, when the user has trusted none there."""
    if trusted_town(environ, cwd) is not None:
        return None
    return next(iter(towns({}, cwd)), None)
