"""Money in the ledger: whole nano-dollars, so that sums are exact and a cap is a cap."""

from __future__ import annotations

import math
from typing import Final

from outpost_core.errors import UsageError

#: The window of `cost_cap_hourly`, in seconds.
HOUR: Final = 3600.0
_NANO: Final = 1_000_000_000


def nano(usd: float, what: str) -> int:
    """Turn dollars into whole nano-dollars.

    Raises:
        UsageError: not a finite amount from 0 to a billion; the message begins with `what`.
    """
    if not (math.isfinite(usd) and 0 <= usd <= _NANO):
        raise UsageError(f"{what} is {usd!r} USD, which is not an amount of money")
    return round(usd * _NANO)


def dollars(amount: int) -> float:
    """Turn nano-dollars into dollars."""
    return amount / _NANO
