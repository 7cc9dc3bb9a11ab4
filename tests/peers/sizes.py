"""How many workers a leg of the conformance kit has at once: all where they are cheap.

The local outpost runs the kit with its own numbers. Elsewhere more of the same worker would show
no more, and each is a program or several.
"""

import os
from typing import TypedDict


class Sizes(TypedDict, total=False):
    """What `outpost_testing.Target` is told; its own numbers for what is left out."""

    spawns: int
    listed: int
    log_bytes: int


def few() -> Sizes:
    """Return small numbers, or the kit's own where `OUTPOST_TEST_SIZES` is `full`."""
    if os.environ.get("OUTPOST_TEST_SIZES") == "full":
        return {}
    return {"spawns": 10, "listed": 25, "log_bytes": 5_000_000}
