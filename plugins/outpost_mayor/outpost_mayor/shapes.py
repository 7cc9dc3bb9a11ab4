"""What the commands of this package answer with `--json`, and the API: key to meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from outpost_manager.jsonqueue import ENTRY

_TOKEN: Final = {
    "name": "whose it is",
    "role": "view, work or admin",
    "last4": "its last characters",
    "created_at": "when it was made",
}
#: Command → its answer.
SHAPES: Final[Mapping[str, Any]] = {
    "queue add": {"queued": [ENTRY], "there": ["issues that were in the queue before"]},
    "queue list": {
        "entries": [ENTRY], "counts": {"waiting": "how many"},
        "switch": "paused, draining, or empty while the queue runs",
    },
    "queue show": {"entry": ENTRY, "needs": ["issues that have to be done first"]},
    "queue remove": {"removed": [ENTRY]},
    "queue move": {"entry": ENTRY},
    "queue pause": {"held": ["issues"], "switch": "paused where the whole queue is"},
    "queue resume": {"held": ["issues that are paused still"], "switch": "as before"},
    "queue drain": {"waiting": [ENTRY]},
    "queue run": {"ended": [ENTRY], "waiting": [ENTRY]},
    "batch": {
        "batch": "its name",
        "entries": [ENTRY],
        "counts": {"done": "how many, by state or outcome"},
        "cost": "USD that its attempts cost so far; null where nobody knows",
        "stopped": ["workers that were told to stop"],
        "again": ["issues that are queued again"],
    },
    "token add": {"name": "whose it is", "role": "what it may do", "token": "shown this once"},
    "token list": {"tokens": [_TOKEN]},
    "token remove": {"removed": _TOKEN},
}  # fmt: skip
