"""What a pod's program left as its termination message; `far.termination` writes it.

Whoever controls the container could write there too: nothing of it is believed that cannot be.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from outpost_core import wire
from outpost_core.errors import UsageError
from outpost_core.types import Result, State
from outpost_k8s.near import seen
from outpost_k8s.near.seen import Object
from outpost_shared import border, plausible

#: Bytes that the kubelet keeps of one container's message.
_MOST: Final = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A termination message.

    Args:
        result: how the worker ended; None where another pod has it.
        elsewhere: which pod has it; "" for none.
        log_bytes: of the whole log; None where nobody said.
        printed: how many of them the container printed, from the first on.
        newline: a line end is printed behind them that is none of the log's.
        collected: its work was only in the pod, and was fetched by whoever ordered it.
    """

    result: Result | None = None
    elsewhere: str = ""
    log_bytes: int | None = None
    printed: int | None = None
    newline: bool = False
    collected: bool = False


def said_by(pod: Object | None) -> Said | None:
    """Return what a pod that has ended left as its last word; None where that is none of ours."""
    message = seen.text(seen.terminated(pod), "message")
    if not message.startswith("{") or len(message) > _MOST:
        return None
    try:
        told: Any = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or told.get("v") != 1:
        return None
    if other := seen.words(told, "elsewhere"):
        return Said(elsewhere=other)
    try:
        result = wire.from_json(Result, told.get("result"))
    except (UsageError, RecursionError):
        return None
    if not result.state.terminal or (odd := plausible.odd_result(result)):
        why = "state" if not result.state.terminal else odd
        message = f"its last word says what cannot be: {why}"
        return Said(result=Result(state=State.LOST, reason=border.BROKEN, message=message))
    size = _size(told, "bytes")
    copied = _size(told, "copied")
    return Said(
        result=result,
        log_bytes=size,
        printed=size if copied is None else copied,
        newline=seen.part(told, "log").get("newline") is True,
        collected=told.get("collected") is True,
    )


def _size(told: Object, name: str) -> int | None:
    size = seen.number(told, "log", name)
    return size if size is not None and 0 <= size <= plausible.MOST else None
