"""Where `outposts.yaml` is looked for, which of the files counts, and why not the others.

What the user names (`--config`, `$OUTPOST_CONFIG`) counts as it is. What is found by walking up
from the current folder counts when nobody else could have written it and the user has trusted its
bytes; the nearest one wins. The user's own file counts when nobody else could have written it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from shlex import quote

from outpost_core.errors import ConfigError
from outpost_manager.config.town import FILE_NAME, towns
from outpost_shared import access, private
from outpost_shared.paths import config_dir

#: What chose a file: see `Choice`.
TOWN, USER, BUILT_IN = "town", "user", "built in"


class Standing(StrEnum):
    """What became of one place."""

    USED = "used"
    MISSING = "not there"
    NEXT = "another one comes first"
    UNTRUSTED = "not trusted"
    CHANGED = "changed since it was trusted"
    UNSAFE = "others could have written it"
    UNREADABLE = "cannot be read"


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place where the configuration is looked for.

    Args:
        path: the file.
        why: what names it: `--config`, `$OUTPOST_CONFIG`, `town` or `user`.
        standing: what became of it.
        detail: the reason in words; "" where the standing says all.
        hint: what the user can do; may be empty.
        relied: the user counts on it, since it is his own or he has trusted it.
    """

    path: Path
    why: str
    standing: Standing
    detail: str = ""
    hint: str = ""
    relied: bool = False

    @property
    def passed_over(self) -> str:
        """Why a file that is there is not used, in one sentence; "" of any other place."""
        if self.standing in (Standing.USED, Standing.MISSING, Standing.NEXT):
            return ""
        return f"{self.path} is not used: {self.detail or self.standing}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which configuration counts.

    Args:
        path: the file; None when everything is built in.
        why: `--config`, `$OUTPOST_CONFIG`, `town`, `user` or `built in`.
        data: the bytes of the file where they were read to choose it: these are to be used.
        places: all places in the order in which they are looked at.
    """

    path: Path | None
    why: str
    data: bytes | None = None
    places: tuple[Place, ...] = ()

    @property
    def changed(self) -> Place | None:
        """The file that would be used, had it not been changed since it was trusted."""
        for place in self.places:
            if place.standing is Standing.USED:
                return None
            if place.standing is Standing.CHANGED:
                return place
        return None

    def demand(self) -> None:
        """Refuse to continue with another file than the one that the user counts on.

        Raises:
            ConfigError: a file that was trusted has changed, or others can write it or the user's
                own.
        """
        for place in self.places:
            if place.relied and place.passed_over:
                raise ConfigError(
                    f"is not used: {place.detail}", file=str(place.path), hint=place.hint
                )


def choose(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> Choice:
    """Find the configuration file.

    Args:
        explicit: what `--config` said.
        environ: `OUTPOST_CONFIG`, `GT_TOWN_ROOT`, `GT_ROOT`, `XDG_CONFIG_HOME` and `HOME` count.
        cwd: towns are looked for from here upward.

    Raises:
        ConfigError: a file that was named does not exist.
    """
    chosen: tuple[Path, str] | None = None
    data: bytes | None = None
    places: list[Place] = []
    named = environ.get("OUTPOST_CONFIG")
    for path, why in ((explicit, "--config"), (Path(named) if named else None, "$OUTPOST_CONFIG")):
        if path is None:
            continue
        found = cwd / _expanded(path)
        if chosen is None and not _exists(found):
            raise ConfigError(
                f"there is no such file, which {why} names",
                file=str(found),
                hint="name another, or let outpost add write it",
            )
        places.append(
            Place(path=found, why=why, standing=Standing.NEXT if chosen else Standing.USED)
        )
        chosen = chosen or (found, why)
    for path, why in _usual_places(environ, cwd):
        if not _exists(path):
            places.append(Place(path=path, why=why, standing=Standing.MISSING))
        elif chosen is not None:
            places.append(Place(path=path, why=why, standing=Standing.NEXT))
        else:
            place, read = _look(path, why, environ)
            places.append(place)
            if place.standing is Standing.USED:
                chosen, data = (path, why), read
    path, why = chosen or (None, BUILT_IN)
    return Choice(path=path, why=why, data=data, places=tuple(places))


def find_config(
    explicit: Path | None, environ: Mapping[str, str], cwd: Path
) -> tuple[Path | None, str]:
    """Return path and reason of what `choose` chooses; the path is None when there is no file.

    Raises:
        ConfigError: a file that was named does not exist, one that was trusted has changed, or
            others can write the user's own.
    """
    choice = choose(explicit, environ, cwd)
    choice.demand()
    return choice.path, choice.why


def new_config(environ: Mapping[str, str], cwd: Path) -> Path:
    """Return where a configuration belongs while there is none: the nearest town, else the user's.

    A town whose file is there, and is not used, gets none; nor does one that others can write, or
    where a link leads somewhere else.
    """
    usual = [*_usual_places(environ, cwd)]
    for path, why in usual:
        if why == USER or _is_free(path):
            return path
    return usual[-1][0]


def is_of_town(path: Path) -> bool:
    """Whether a file is where the configuration of a town is."""
    return path.name == FILE_NAME and path.parent.name == "config" and is_town(path.parent.parent)


def is_town(folder: Path) -> bool:
    """Whether a folder is the root of a Gas Town."""
    return folder in towns({}, folder)


def _look(path: Path, why: str, environ: Mapping[str, str]) -> tuple[Place, bytes | None]:
    """Read a file that is there and say whether it may be used."""
    from outpost_manager.config import trusted

    def place(standing: Standing, detail: str = "", hint: str = "") -> Place:
        relied = why == USER or trusted.recorded(path, environ) is not None
        return Place(path=path, why=why, standing=standing, detail=detail, hint=hint, relied=relied)

    try:
        found = trusted.read_found(path)
    except access.NotPrivateError as error:
        where = "" if error.path == str(path) else f"{error.path}: "
        return place(Standing.UNSAFE, f"{where}{error.why}", error.hint), None
    except OSError as error:
        if why == USER:  # whoever reads it for use says better what is wrong
            return place(Standing.USED), None
        detail = f"it cannot be read: {error.strerror or error}"
        return place(Standing.UNREADABLE, detail), None
    verdict = trusted.Trust.TRUSTED if why == USER else trusted.verdict(found, environ)
    hint = f"outpost trust {quote(str(path))}"
    if verdict is trusted.Trust.UNTRUSTED:
        detail = "it was found here, and you have not trusted it"
        return place(Standing.UNTRUSTED, detail, hint), None
    if verdict is trusted.Trust.CHANGED:
        return place(Standing.CHANGED, "it has changed since you trusted it", hint), None
    return place(Standing.USED), found.data


def _is_free(path: Path) -> bool:
    """Whether a town's file can be made where it belongs."""
    town = path.parent.parent
    try:
        real = private.check(str(town))
        leads_to = private.walk(str(path.parent))[0]
        return not os.path.lexists(path) and leads_to in (real, f"{real}/{path.parent.name}")
    except OSError:
        return False


def _exists(path: Path) -> bool:
    """Whether something is there, even when it cannot be looked at: reading then says why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    return True


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # ~nobody/outposts.yaml
        return path


def _usual_places(environ: Mapping[str, str], cwd: Path) -> Iterator[tuple[Path, str]]:
    for town in towns(environ, cwd):
        yield town / "config" / FILE_NAME, TOWN
    if (user := config_dir(environ)) is not None:
        yield user / FILE_NAME, USER
