"""Money in the ledger: whole nano-dollars, so that sums are exact and a cap is a cap."""

from __future__ import annotations

import math
from typing import Final

from outpost_core.errors import UsageError

#: The window of `cost_cap_hourly`, in seconds.
HOUR: Final = 3600.0
#: USD of one worker beyond which nobody is believed.
MOST: Final = 1_000_000.0
_NANO: Final = 1_000_000_000


def nano(usd: float, what: str) -> int:
    """Turn dollars into whole nano-dollars.

    Raises:
        UsageError: not a finite amount from 0 to a billion; the message begins with `what`.
    """
    if not (math.isfinite(usd) and 0 <= usd <= _NANO):
        raise UsageError(f"{what} is {usd!r} USD, which is not an amount of money")
    return round(usd * _NANO)


def counted(usd: float | None) -> int | None:
    """Turn dollars that somebody else counted into nano-dollars; None when they are no amount.

    More than `MOST` counts as that: the sum of all workers has to stay a number.
    """
    if usd is None or not (math.isfinite(usd) and usd >= 0):
        return None
    return round(min(usd, MOST) * _NANO)


def show(amount: int) -> str:
    """Return nano-dollars for people: two digits, or as many as less than a cent needs."""
    usd = dollars(amount)
    return (f"{usd:.6f}".rstrip("0") if 0 < usd < 0.01 else f"{usd:.2f}") + " USD"


def dollars(amount: int) -> float:
    """Turn nano-dollars into dollars."""
    return amount / _NANO
