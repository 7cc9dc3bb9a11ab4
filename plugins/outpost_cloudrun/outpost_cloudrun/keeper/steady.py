"""The time of day by a clock that does not jump while this process lives.

A clock is set when a machine has found a time server, or by hand: forward or back, by hours. What
took a minute took a minute all the same, and is paid for as that.
"""

from __future__ import annotations

import time
from typing import Final

#: Counts while the machine is suspended, too: a container is paid for meanwhile (clock_gettime(2)).
#: Where there is none, `CLOCK_MONOTONIC` does that (macOS).
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_OFFSET: Final = time.time() - time.clock_gettime(_CLOCK)


def now() -> float:
    """Return the seconds since the epoch, as the system's clock said when this process began."""
    return time.clock_gettime(_CLOCK) + _OFFSET


def since(moment: float, most: float) -> float:
    """Return the seconds since a moment that was written down, by a process of before perhaps.

    Args:
        moment: as `now` has returned it.
        most: the most that it can be.
    """
    return min(max(now() - moment, 0.0), most)
