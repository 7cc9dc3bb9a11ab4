"""What a Kubernetes outpost can do: for the entry point, which imports nothing heavy."""

from __future__ import annotations

from typing import Final

CAPABILITIES: Final = frozenset(
    (
        *("clean", "attach", "nudge", "peek", "price", "doctor", "bootstrap"),
        "changes",
        *("interactive", "checkpoint", "rig", "local_rig", "secrets"),
    )
)
