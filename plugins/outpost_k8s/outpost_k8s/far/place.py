"""Where the record and the log of this pod's worker are kept, and what its git logs in with."""

from __future__ import annotations

import sys
from pathlib import Path

from outpost_core.names import RIG_CREDENTIAL, split_rig
from outpost_core.types import Order
from outpost_k8s.far.settings import Settings
from outpost_worker.container import ask, reference
from outpost_worker.container.claims import Claims
from outpost_worker.folder import files
from outpost_worker.record import places
from outpost_worker.record.kinds import Claim, Record
from outpost_worker.record.segments import KeptLog, LogKeeper
from outpost_worker.repository import credentials
from outpost_worker.repository.mirror import mirror_path


def record_of(settings: Settings, order: Order, login: str) -> Record | None:
    """Return where the worker is claimed: on the volume, else on its rig.

    Args:
        settings: of this program.
        order: the order.
        login: what git logs in with, as `Git` has it.

    Returns:
        None where there is neither: the rig travels, or there is none.

    Raises:
        UsageError: the rig cannot be one.
    """
    if settings.volume:
        return places.on_volume(settings.volume, order.owner)
    goal = "" if settings.hosted else places.pushed_to(order)
    return places.on_rig(goal, str(settings.root), order.owner, login) if goal else None


def asked_by(settings: Settings, claim: Claim) -> list[str]:
    """Return the command that says whether a claim stands; empty where git says it itself."""
    return ask.command(settings.volume, claim) if settings.volume else []


def log_keeper(settings: Settings, order: Order) -> LogKeeper | None:
    """Return what keeps the worker's log on the volume; None without one."""
    if not settings.volume:
        return None
    kept = KeptLog(places.volume_logs(settings.volume), order.worker, order.owner)
    path = settings.root / files.WORKERS / order.worker / files.LOG
    return LogKeeper(kept, 1, 0, str(path))


def login_of(settings: Settings, order: Order, git_credentials: str) -> str:
    """Keep what git logs in with; return it as `Git` has it, "" for nothing.

    Raises:
        UsageError: it is no login.
    """
    root = str(settings.root)
    rigs = [rig for rig in (order.rig, places.pushed_to(order)) if rig]
    if git_credentials and rigs and not settings.hosted:
        return credentials.store(root, order.worker, git_credentials, dict.fromkeys(rigs))
    if of_rig := order.secrets.get(RIG_CREDENTIAL, ""):
        return Claims(settings.root).keep_login(order.worker, of_rig)
    return ""


def mirror_of(reference: str, rig: str) -> str:
    """Return the mirror of a rig: the reference itself, or what it has in it for the rig.

    Args:
        reference: a bare repository, a bundle, or a folder of bare repositories, each called as
            in the address of its rig: `HOST/PATH.git`, `NAME.git`, or as Outpost's own mirrors.
        rig: the rig's address.

    Returns:
        "" where it has none.
    """
    place = Path(reference)
    if not place.is_dir() or (place / "objects").is_dir():
        return reference if place.exists() else ""
    url = split_rig(rig)[0]
    path = url.partition("://")[2].rpartition("@")[2] or url.rpartition("@")[2].replace(":", "/", 1)
    path = path.strip("/").removesuffix(".git")
    host, _, inside = path.partition("/")
    own = Path(mirror_path("/", rig)).name
    names = (f"{host.partition(':')[0]}/{inside}", path, inside, path.rpartition("/")[2])
    for name in [own, *(f"{name}{end}" for name in names for end in (".git", ""))]:
        if not name or ".." in name.split("/"):
            continue
        found = place / name
        if (found / "objects").is_dir():
            return str(found)
    return ""


def begin_mirror(settings: Settings, rig: str) -> None:
    """Let the worker find what the cluster has of its rig already; else it clones."""
    found, why = mirror_of(settings.rig_reference, rig), "it has no mirror of the rig"
    if found:
        why = reference.begin(str(settings.root), rig, found, lambda _: None)
    if why:
        sys.stderr.write(f"{settings.rig_reference} is not used: {why}\n")
