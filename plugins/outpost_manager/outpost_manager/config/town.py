"""Which rig is meant by somebody who stands in a Gas Town, outside of the rig's own clones.

The town's root and `<town>/<rig>/` are not clones of the rig: the repository around them is the
town's own, with the town's files in it. Which rigs there are says `<town>/mayor/rigs.json`, whose
issues are whose says `<town>/.beads/routes.jsonl` (both as gastown 1.0 writes them).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any, Final

from outpost_core.errors import UsageError
from outpost_core.names import redact
from outpost_shared import private

#: What a configuration file is called.
FILE_NAME: Final = "outposts.yaml"
#: What makes a folder a town.
MARK: Final = Path("mayor", "town.json")
#: The list of rigs, in a town.
RIGS: Final = Path("mayor", "rigs.json")


def towns(environ: Mapping[str, str], folder: Path) -> list[Path]:
    """Return the towns that `folder` is in, the nearest first, then what Gas Town's variables name.

    Nobody has looked whose they are.
    """
    found = [
        up
        for up in (folder, *folder.parents)
        if os.path.isfile(up / MARK)  # noqa: PTH113 - also where it may not look
    ]
    named = environ.get("GT_TOWN_ROOT") or environ.get("GT_ROOT")
    return found if not named or Path(named) in found else [*found, Path(named)]


def town_around(folder: Path) -> Path | None:
    """Return the nearest folder upward that is a town which nobody else could write, or None."""
    return next((town for town in towns({}, folder) if _is_ours(town)), None)


def town_of(environ: Mapping[str, str], folder: Path) -> Path | None:
    """Return the town around a folder, else the one that Gas Town's variables name, or None."""
    named = environ.get("GT_TOWN_ROOT") or environ.get("GT_ROOT")
    return town_around(folder) or (Path(named) if named else None)


def is_trusted(town: Path, environ: Mapping[str, str]) -> bool:
    """Whether the user has trusted a file of a town as it is now.

    What a town says beyond its two files (its remote, its settings for others) counts in this one
    alone: a clone of a stranger's repository may look like a town.
    """
    from outpost_manager.config import trusted

    def counts(file: Path) -> bool:
        try:
            return trusted.verdict(trusted.read_found(file), environ) is trusted.Trust.TRUSTED
        except OSError:
            return False

    return _is_ours(town) and any(counts(town / file) for file in (Path("config", FILE_NAME), RIGS))


def _is_ours(town: Path) -> bool:
    try:
        private.check(str(town / MARK))
    except OSError:
        return False
    return True


def rig_of_town(cwd: Path, issue: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the rig's URL for an issue, where the repository around `cwd` is the town's own.

    A URL leads somewhere, and a clone of a stranger's repository may look like a town: the list of
    rigs counts once the user has trusted it, as it is.

    Args:
        cwd: where the user stands.
        issue: the issue's id; its prefix decides outside of every rig's folder.
        environ: says where it is written down what the user trusts; None for `os.environ`.

    Returns:
        None outside of a town, and inside of a clone of a rig, which tells its rig itself.

    Raises:
        UsageError: it is the town's own repository, and nobody can say which rig is meant, or the
            user has not trusted the list of rigs.
    """
    town = town_around(cwd)
    if town is None:
        return None
    listed, distrust = _listed(town, os.environ if environ is None else environ)
    rigs = _rigs(listed)
    own = {town, *(town / name for name in rigs)}
    around = next((up for up in (cwd, *cwd.parents) if (up / ".git").exists()), town)
    if around not in own and town in around.parents:
        return None
    inside = cwd.relative_to(town).parts
    name = inside[0] if inside and inside[0] in rigs else _by_prefix(town, listed, rigs, issue)
    if name is None:
        known = ", ".join(sorted(rigs)) or "none"
        raise UsageError(
            f"{cwd} is in the town {town}, whose own repository is no rig, and the id {issue}"
            " tells no rig",
            hint=f"stand in a rig's folder, or add --rig URL; rigs of this town: {known}",
        )
    if distrust:
        raise UsageError(
            f"the town {town} says that the rig of {issue} is {redact(rigs[name])}, and {distrust}",
            hint=f"outpost trust {quote(str(town / RIGS))}, or add --rig URL",
        )
    return rigs[name]


def _listed(town: Path, environ: Mapping[str, str]) -> tuple[Any, str]:
    """Return what the town's list of rigs says, and why it does not count; "" when it does."""
    from outpost_manager.config import trusted

    try:
        found = trusted.read_found(town / RIGS)
    except OSError:
        return None, ""
    try:
        listed = json.loads(found.data)
    except (ValueError, RecursionError):
        return None, ""
    standing = trusted.verdict(found, environ)
    if standing is trusted.Trust.TRUSTED:
        return listed, ""
    changed = standing is trusted.Trust.CHANGED
    return listed, f"its {RIGS} " + (
        "has changed since you trusted it" if changed else "was found here: you have not trusted it"
    )


def _rigs(found: Any) -> dict[str, str]:
    """Return the URL of each rig by its name; what cannot be read is no rig."""
    rigs = found.get("rigs") if isinstance(found, dict) else None
    return {
        name: entry["git_url"]
        for name, entry in (rigs.items() if isinstance(rigs, dict) else ())
        if isinstance(entry, dict) and isinstance(entry.get("git_url"), str) and entry["git_url"]
    }


def _by_prefix(town: Path, listed: Any, rigs: dict[str, str], issue: str) -> str | None:
    """Return the rig whose prefix the issue's id has: the longest one that fits."""
    prefixes: dict[str, str] = {}
    for name in rigs:
        beads = listed["rigs"][name].get("beads")
        prefix = beads.get("prefix") if isinstance(beads, dict) else None
        if isinstance(prefix, str) and prefix:
            prefixes[prefix.rstrip("-") + "-"] = name
    for route in _routes(town / ".beads" / "routes.jsonl"):
        name = route["path"].partition("/")[0]
        if name in rigs:
            prefixes[route["prefix"]] = name
    fitting = [prefix for prefix in prefixes if issue.startswith(prefix)]
    return prefixes[max(fitting, key=len)] if fitting else None


def _routes(file: Path) -> list[dict[str, str]]:
    from outpost_manager.config import trusted

    try:  # a link in somebody's repository may lead to a device that never ends
        lines = trusted.read_found(file).data.decode().splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        try:
            route = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(route, dict) and all(
            isinstance(route.get(key), str) and route[key] for key in ("prefix", "path")
        ):
            found.append(route)
    return found
