"""What Cloud Run costs, as Google publishes it: one table, dated, with its source.

Prices are USD before taxes, discounts and the free tier (180,000 vCPU-seconds, 360,000
GiB-seconds and 2 million requests a month), which is never counted: others may have used it up.
The option `prices` of an outpost replaces any of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Final

from outpost_core.errors import UsageError
from outpost_core.nearest import suggest

#: Where the prices are published, and the day on which this table was last compared with that.
SOURCE: Final = "https://cloud.google.com/run/pricing"
CHECKED: Final = "2026-11-28"
#: Where the regions' tiers are published.
TIERS_SOURCE: Final = "https://cloud.google.com/run/docs/locations"

#: Regions of price tier 1. Every other one, also one that is newer than this table, counts as
#: tier 2, which is dearer: a cap is not passed because a region was not known.
TIER_1: Final = frozenset(
    (
        *("asia-east1", "asia-northeast1", "asia-northeast2"),
        *("europe-north1", "europe-southwest1", "europe-west1", "europe-west4"),
        *("europe-west8", "europe-west9", "me-west1"),
        *("us-central1", "us-east1", "us-east4", "us-east5", "us-south1", "us-west1"),
    )
)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What is paid for a container of one kind, in USD.

    Args:
        vcpu_second: a vCPU for a second, while the container is paid for.
        gib_second: a GiB of memory for a second, likewise.
        idle_vcpu_second: the vCPU of a minimum instance that has nothing to do.
        idle_gib_second: its memory.
        million_requests: a million requests.
        disk_gib_second: a GiB of ephemeral disk for a second. No price of it was found published.
    """

    vcpu_second: float
    gib_second: float
    idle_vcpu_second: float
    idle_gib_second: float
    million_requests: float
    disk_gib_second: float = 0.0


#: Services whose containers are paid for while they have requests.
_REQUEST_BASED: Final = Rates(
    vcpu_second=0.000024,
    gib_second=0.0000025,
    idle_vcpu_second=0.0000025,
    idle_gib_second=0.0000025,
    million_requests=0.40,
)
#: Services whose containers are paid for while they exist, jobs, and instances. What instances
#: cost was not published when this table was made; they are counted like jobs.
_INSTANCE_BASED: Final = Rates(
    vcpu_second=0.000018,
    gib_second=0.000002,
    idle_vcpu_second=0.000018,
    idle_gib_second=0.000002,
    million_requests=0.0,
)
#: What regions of tier 2 cost more; requests cost the same everywhere.
_TIER_2: Final = 1.4

#: Seconds that are paid for at least: what time is rounded up to in request-based billing, and the
#: shortest life of a container that is paid for while it exists.
ROUNDED_TO: Final = 0.1
SHORTEST_LIFE: Final = 60.0

#: The words of the option `prices`.
WORDS: Final = tuple(field.name for field in fields(Rates))
#: USD above which a price is a mistake, such as one for a million seconds.
_MOST: Final = 1000.0


def tier(region: str) -> int:
    """Return the price tier of a region: 1, or 2 for those that cost more and those not known."""
    return 1 if region in TIER_1 else 2


def rates(region: str, *, request_based: bool, overrides: Mapping[str, str]) -> Rates:
    """Return what a container costs in a region.

    Args:
        region: such as `us-central1`.
        request_based: it is paid for while it has requests, not while it exists.
        overrides: the option `prices`.

    Raises:
        UsageError: a word of `overrides` is no price, or its value no amount of money.
    """
    found = _REQUEST_BASED if request_based else _INSTANCE_BASED
    if tier(region) == 2:
        dearer = {name: usd * _TIER_2 for name, usd in asdict(found).items()}
        found = Rates(**(dearer | {"million_requests": found.million_requests}))
    return replace(found, **{name: _usd(name, text) for name, text in overrides.items()})


def _usd(name: str, text: str) -> float:
    if name not in WORDS:
        raise UsageError(
            f"prices: {name[:80]!a} is not one of {', '.join(WORDS)}", hint=suggest(name, WORDS)
        )
    try:
        usd = float(text)
    except ValueError:
        usd = math.nan
    if not 0 <= usd <= _MOST:
        raise UsageError(
            f"prices: {name} is {text[:80]!a}, which is no price in USD",
            hint=f"write a number such as {asdict(_REQUEST_BASED)[name]:f}; {SOURCE} has Google's",
        )
    return usd
