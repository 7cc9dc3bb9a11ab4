"""Taking the values of an order's secrets out of texts that others wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from outpost_core.names import RIG_CREDENTIAL

#: Values below this length are words that occur by chance; the far side's log agrees.
SHORTEST_SECRET: Final = 4


def masked(text: str, secrets: Mapping[str, str]) -> str:
    """Return a text without the values of an order's secrets."""
    hidden = {*secrets.values()}
    if rig := secrets.get(RIG_CREDENTIAL):  # https://user:password@host
        hidden.add(rig.partition("://")[2].rpartition("@")[0].partition(":")[2])
    for value in sorted(hidden, key=len, reverse=True):  # one may hold another
        if len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    return text
