"""What a Cloud Run outpost can at most do: for the entry point, which imports nothing heavy."""

from __future__ import annotations

from typing import Final

CAPABILITIES: Final = frozenset(
    (
        *("clean", "price", "facts", "doctor", "bootstrap", "changes", "scale"),
        *("checkpoint", "rig", "secrets"),
    )
)
