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
_DECISION: Final = {
    "outpost": "its name", "to": "units (machines, warm containers) that are to be up",
    "more": True, "why": "in one line", "price": "USD an hour of them; null where nobody knows",
}  # fmt: skip
#: The batches in short.
BATCHES: Final[Mapping[str, Any]] = {
    "batches": [
        {
            "batch": "its name",
            "counts": {"done": "how many, by state or outcome"},
            "added_at": "when the last of it was added",
        }
    ]
}
#: Command → its answer.
SHAPES: Final[Mapping[str, Any]] = {
    "queue add": {"queued": [ENTRY], "there": ["issues that were in the queue before"]},
    "queue list": {
        "entries": [ENTRY], "counts": {"waiting": "how many"},
        "more": "how many are behind those, left out by the limit",
        "switch": "paused, draining, or empty while the queue runs",
    },
    "queue show": {"entry": ENTRY, "needs": ["issues that have to be done first"]},
    "queue remove": {"removed": [ENTRY]},
    "queue move": {"entry": ENTRY},
    "queue pause": {"held": ["issues"], "switch": "paused where the whole queue is"},
    "queue resume": {"held": ["issues that are paused still"], "switch": "as before"},
    "queue drain": {"waiting": [ENTRY]},
    "queue run": {"ended": [ENTRY], "waiting": [ENTRY]},
    "queue batches": BATCHES,
    "batch": {
        "batch": "its name",
        "entries": [ENTRY],
        "counts": {"done": "how many, by state or outcome"},
        "cost": "USD that its attempts cost so far; null where nobody knows",
        "stopped": ["workers that were told to stop"],
        "again": ["issues that are queued again"],
    },
    "schedule list": {
        "schedules": [
            {
                "name": "its name", "cron": "when", "timezone": "in which time zone",
                "enabled": True, "catch_up": "none, last or all", "last": "moment or null",
                "next": ["moments"], "error": "why it cannot fire, or null",
            }
        ]
    },
    "schedule run": {"issue": "the issue that is in the queue"},
    "serve": {
        "running": "whether a mayor runs",
        "pid": "its process, or null",
        "host": "its machine, or null",
        "since": "when it began, or null",
        "services": [
            {
                "name": "of what it does",
                "plugin": "who brought that",
                "state": "running, waiting (it failed, and is called again) or ended",
                "failures": "how often it failed",
                "error": "the last failure, or an empty text",
                "since": "when it came into that state",
            }
        ],
    },
    "scale": {
        "outposts": [
            {
                "outpost": "its name", "phase": "down, starting, up, draining or stopping",
                "running": "units that are up", "desired": "units that are wanted",
                "most": "units that may be up",
                "active": "workers there that have not ended", "since": "moment of the phase",
                "decision": "who decided: mayor or hand; empty where nobody has",
                "reason": "why", "error": "what failed last; empty for nothing",
                "price": "USD an hour of what is up; null where nobody knows",
                "retry_at": "moment before which nothing is tried again, or null",
                "next": "what comes next",
            }
        ],
        "decisions": [_DECISION],
        "errors": {"an outpost": "why it does not say how much of it is up"},
    },
    "token add": {"name": "whose it is", "role": "what it may do", "token": "shown this once"},
    "token list": {"tokens": [_TOKEN]},
    "token remove": {"removed": _TOKEN},
}  # fmt: skip

#: What the API answers that no command does.
API: Final[Mapping[str, Any]] = {
    "batches": BATCHES,
}
