"""Which town of this machine a far one is given: never one that was only found."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

#: What makes a folder a town (gastown 1.0).
MARK: Final = Path("mayor", "town.json")


def near_town(
    config_dir: Path | None,
    environ: Mapping[str, str],
    cwd: Path,
    trusts: Callable[[Path], bool],
) -> Path | None:
    """Return the town that this side works in.

    It is the configuration's, else the nearest around `cwd` that the user has trusted, else the
    one that Gas Town's variables name: another machine gets its files, or what its remote has.

    Args:
        config_dir: folder of `outposts.yaml`, or None.
        environ: has the variables of Gas Town.
        cwd: where the user stands.
        trusts: see `BuildContext`.
    """
    named = environ.get("GT_TOWN_ROOT") or environ.get("GT_ROOT")
    places = (
        config_dir.parent if config_dir else None,
        next(filter(trusts, _around(cwd)), None),
        Path(named) if named else None,
    )
    return next((town for town in places if town and (town / MARK).is_file()), None)


def passed_over(cwd: Path, trusts: Callable[[Path], bool]) -> Path | None:
    """Return the nearest town around `cwd`, when the user has trusted none there."""
    if any(map(trusts, _around(cwd))):
        return None
    return next(_around(cwd), None)


def _around(folder: Path) -> Iterator[Path]:
    for up in (folder, *folder.parents):
        if os.path.isfile(up / MARK):  # noqa: PTH113 - also where it may not look
            yield up
