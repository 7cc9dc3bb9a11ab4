"""What workers cost at a Kubernetes outpost, at worst before and settled after. Pure functions.

Clusters have no published price: an outpost costs what its options say, `price_per_hour` for a
worker or `prices` for what it asks for, and nothing without them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from outpost_core.errors import UsageError
from outpost_core.nearest import suggest

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_k8s.settings import Settings

_GIB: Final = 1 << 30
_HOUR: Final = 3600.0
#: Seconds of a worker besides its agent, at most: the clone before it, pushes after it.
AROUND: Final = 300.0
#: Seconds that a pod has for its last checkpoint, beside the grace of its agent.
LAST_CHECKPOINT: Final = 60
#: Seconds that a worker without a timeout may take.
UNLIMITED: Final = 7 * 86400.0
#: Seconds that a pod waits for its work to be fetched, where the options do not say: without a
#: price, and with one, since each worker reserves them.
LINGER: Final = 86400.0
LINGER_PRICED: Final = 3600.0
#: The words of the option `prices`.
WORDS: Final = ("cpu_hour", "gib_hour", "storage_gib_hour")
#: USD an hour above which a price is a mistake.
_MOST: Final = 10_000.0


def size(options: Settings, order: Order | None) -> tuple[float, int]:
    """Return cores and bytes of memory that a worker gets: what its order wants goes first."""
    limits = order.limits if order is not None else None
    cpu = limits.cpu if limits is not None and limits.cpu else options.cpu
    memory = limits.memory if limits is not None and limits.memory else options.memory
    return cpu, memory


def hourly(options: Settings, order: Order | None = None) -> float:
    """Return the USD that an hour of a worker costs; 0 where nobody said.

    Args:
        options: of the outpost.
        order: whose worker; without one, one of the outpost's usual size.

    Raises:
        UsageError: a word or an amount under `prices` is mistaken.
    """
    if options.price_per_hour is not None:
        return options.price_per_hour
    cpu, memory = size(options, order)
    storage = options.ephemeral_storage
    counts = {"cpu_hour": cpu, "gib_hour": memory / _GIB, "storage_gib_hour": storage / _GIB}
    return sum(_usd(word, text) * counts[word] for word, text in options.prices.items())


def is_priced(options: Settings) -> bool:
    """Whether somebody has said what a worker costs."""
    return options.price_per_hour is not None or bool(options.prices)


def linger(options: Settings) -> float:
    """Return for how many seconds a pod waits for work that no remote took to be fetched.

    None of them where there is a volume that takes it.
    """
    if options.volume:
        return 0.0
    if options.linger is not None:
        return options.linger
    return LINGER_PRICED if is_priced(options) else LINGER


def longest(options: Settings, order: Order) -> float:
    """Return for how many seconds a worker's Job may be there; then the cluster ends it.

    From its start, or for one that waits in a queue from its admission: waiting for a node, the
    agent's own time, what is around it, the grace, and waiting for its work to be fetched.
    """
    limits = order.limits
    timeout = limits.timeout if limits.timeout is not None else UNLIMITED
    waiting = options.patience or UNLIMITED
    return math.ceil(waiting + timeout + AROUND + limits.grace + linger(options))


def worst_case(options: Settings, order: Order) -> float:
    """Return the most that an order can cost there, in USD.

    A pod that the cluster ends at its Job's deadline still has its grace (`objects.job`).
    """
    seconds = longest(options, order) + math.ceil(order.limits.grace) + LAST_CHECKPOINT
    return hourly(options, order) * seconds / _HOUR


def cost(options: Settings, seconds: float, order: Order | None = None) -> float:
    """Return what a worker cost that was there for so many seconds, in USD."""
    return hourly(options, order) * max(seconds, 0.0) / _HOUR


def _usd(word: str, text: str) -> float:
    if word not in WORDS:
        raise UsageError(
            f"prices: {word[:80]!a} is not one of {', '.join(WORDS)}", hint=suggest(word, WORDS)
        )
    try:
        usd = float(text)
    except ValueError:
        usd = math.nan
    if not 0 <= usd <= _MOST:
        raise UsageError(
            f"prices: {word} is {text[:80]!a}, which is no price in USD",
            hint="write what a core or a GiB costs for an hour, such as cpu_hour: 0.0315",
        )
    return usd
