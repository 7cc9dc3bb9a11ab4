"""The fence around agents of this machine: what it is to be, and which one holds here."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any, Final

from outpost_core.errors import SpawnRefusedError
from outpost_core.types import Finding
from outpost_local.options import Fence, LocalOptions
from outpost_shared import programs
from outpost_worker.folder import publish

CHECK: Final = "fence"
#: Seconds for making a fence and trying it.
_TIMEOUT: Final = 20.0
_LEFT: Final = (
    "what a killed supervisor leaves is ended by whoever looks next, unless it sets out to hide"
)
_LANDLOCK: Final = f"; it does not stop connections to sockets that have a path, and {_LEFT}"


def probe() -> dict[str, Any]:
    """Have a process of its own make a fence and try it, see `fence.probe.look`."""
    argv = [*publish.interpreter(), "fence"]
    try:
        done = subprocess.run(
            argv, env=programs.base_env(os.environ), capture_output=True, text=True,
            timeout=_TIMEOUT, check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        said: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return {"fence": "", "missing": {"trying": f"{type(error).__name__}: {error}"}, "hint": ""}
    return said


def require(said: dict[str, Any], worker: str, outpost: str) -> None:
    """Refuse a worker whose agent would have no fence.

    Args:
        said: what `probe` returned.
        worker: its id.
        outpost: the outpost's name.

    Raises:
        SpawnRefusedError: none can be made here.
    """
    if not said["fence"]:
        raise SpawnRefusedError(
            f"{worker} would have no fence, and `fence: required` asks for one: {why_not(said)}",
            hint=said["hint"] or f"outpost doctor {outpost}",
        )


def why_not(said: dict[str, Any]) -> str:
    """Return why no better fence can be made, in one line."""
    return "; ".join(f"{way}: {reason}" for way, reason in said["missing"].items())


def examine(options: LocalOptions) -> Finding:
    """Return what `outpost doctor` says of the fence."""
    if options.fence is Fence.OFF:
        return Finding(check=CHECK, ok=None, detail=f"off: agents may do all that you may; {_LEFT}")
    said = probe()
    if said["fence"] == "namespace":
        return Finding(
            check=CHECK, ok=True, detail="namespace: agents have mounts and processes of their own"
        )
    if said["fence"]:
        limits = _LANDLOCK if said["fence"].startswith("landlock") else ""
        return Finding(
            check=CHECK,
            ok=None,
            detail=f"{said['fence']} ({why_not(said)}){limits}",
            hint=said["hint"],
        )
    return Finding(
        check=CHECK,
        ok=False if options.fence is Fence.REQUIRED else None,
        detail=f"none: agents may do all that you may ({why_not(said)}); {_LEFT}",
        hint=said["hint"],
    )
