"""The termination message: how the worker ended, in the few bytes that a cluster keeps of a pod.

It stays with the pod, and is told by one list of pods, also when nothing of the pod answers any
more (kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure).
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Final

from outpost_core import wire
from outpost_core.types import Json, Result, Usage
from outpost_shared import faults
from outpost_shared.protocol import text

#: Bytes that the kubelet keeps of one container's message.
MOST: Final = 4096
_VERSION: Final = 1
#: Characters of a message that are tried, from the whole to none.
_LENGTHS: Final = (8000, 2000, 1000, 500, 250, 100, 0)
#: What is left out next where the rest alone is too long, in this order.
_DISPENSABLE: Final = ("session", "fence", "pr_url", "checkpoint", "branch")


def ended(
    result: Result, log: int, copied: int, *, newline: bool, claim: str, collected: bool = False
) -> bytes:
    """Return the message of a worker that ended here; valid JSON of at most `MOST` bytes.

    Args:
        result: how it ended.
        log: bytes of its log.
        copied: how many of them were printed, from the first on.
        newline: a line end was printed behind them that is none of the log's.
        claim: id of the claim that it ran by; "" for none.
        collected: its work was only here, and was fetched by whoever ordered it.
    """
    about: dict[str, Json] = {"bytes": log, "newline": newline}
    if copied != log:
        about["copied"] = copied
    more: dict[str, Json] = {"log": about, "claim": claim, "tree": None}
    if collected:
        more["collected"] = True
    for length in _LENGTHS:
        said = _said(dataclasses.replace(result, message=_short(result.message, length)), more)
        if len(said) <= MOST:
            return said
    left = dataclasses.replace(result, message="", usage=Usage())
    for name in _DISPENSABLE:
        if len(said := _said(left, more)) <= MOST:
            return said
        without: dict[str, Any] = {name: "" if name == "fence" else None}
        left = dataclasses.replace(left, **without)
    return _said(left, more)


def elsewhere(instance: str) -> bytes:
    """Return the message of a pod whose worker another one has.

    Args:
        instance: of that one's claim.
    """
    return text({"v": _VERSION, "elsewhere": instance})


def write(path: Path, said: bytes) -> None:
    """Leave the message; where there is no such file, nobody will ask for it."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        os.write(fd, said)
    except OSError:
        return
    finally:
        os.close(fd)
    faults.point("pod.told")


def _said(result: Result, more: dict[str, Json]) -> bytes:
    value: Any = wire.to_json(result)
    return text({"v": _VERSION, "result": _lean(value), **more})


def _lean(value: Json) -> Json:
    """Return a value without what is null in it."""
    if not isinstance(value, dict):
        return value
    return {key: _lean(item) for key, item in value.items() if item is not None}


def _short(message: str, most: int) -> str:
    if len(message) <= most:
        return message
    return f"{message[: most - 1]}…" if most else ""
