"""What workers cost at a Cloud Run outpost, at worst before and settled after. Pure functions.

How Google counts (https://cloud.google.com/run/pricing, and its page about billing settings):

- a service with request-based billing: a container is paid for while at least one request is in
  flight, its start and end included, rounded up to 100 ms; several requests share it; a minimum
  instance costs less while it has nothing to do;
- a service with instance-based billing, a job, an instance: a container is paid for while it
  exists, a minute at least. One of a service lives on for some minutes when nothing is left to do.

What cannot be known here, such as when Google takes an idle container away, counts at its worst.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from outpost_cloudrun.addresses import is_loopback
from outpost_cloudrun.prices import CHECKED, ROUNDED_TO, SHORTEST_LIFE, Rates, rates, tier
from outpost_core.errors import SpawnRefusedError
from outpost_core.units import format_duration

if TYPE_CHECKING:
    from outpost_cloudrun.settings import Settings
    from outpost_core.types import Order

_GIB: Final = 1 << 30
#: Seconds of a worker besides its agent, at most: container and clone before it, pushes after it.
AROUND: Final = 300.0
#: Seconds that an idle container of a service is left, at most ("up to 15 minutes").
IDLE: Final = 900.0
#: The longest that a worker may take, by Google's limits: a job's task, and what a service is
#: asked to hold where its requests are renewed. An instance has no limit.
JOB_MOST: Final = 168 * 3600.0
SERVICE_MOST: Final = 24 * 3600.0
#: Requests besides those that hold a worker: stops, looks, repeats.
_REQUESTS_ASIDE: Final = 20


@dataclass(frozen=True, kw_only=True)
class Hour:
    """The price of an hour, in USD.

    Args:
        busy: a container that works.
        standing: what is paid with nothing to do.
        warm: what is paid once after the last worker, to keep a container warm.
        tier: the price tier of the region.
    """

    busy: float
    standing: float
    warm: float
    tier: int

    @property
    def is_free(self) -> bool:
        """Whether nothing is charged at all."""
        return not (self.busy or self.standing or self.warm)

    def __str__(self) -> str:
        if self.is_free:
            return "containers cost nothing there"
        text = f"a container that works costs {self.busy:.3f} USD an hour (tier {self.tier},"
        text += f" prices of {CHECKED}), and without work "
        text += "nothing" if not self.standing else f"{self.standing:.3f} USD an hour"
        text += f" ({self.standing * 24:.2f} USD a day)" if self.standing else ""
        return text + (f"; {self.warm:.3f} USD after each burst to stay warm" if self.warm else "")


def hour(options: Settings) -> Hour:
    """Return what an hour costs there."""
    own = _rates(options)
    return Hour(
        busy=_busy(options, own) * 3600,
        standing=standing(options),
        warm=_warm_window(options, own),
        tier=tier(options.region),
    )


def standing(options: Settings) -> float:
    """Return the USD an hour that the outpost costs with nothing to do."""
    return _idle(options, _rates(options)) * 3600


def most(options: Settings) -> float | None:
    """Return the longest timeout in seconds that an order may have there; None for no limit."""
    if options.mode == "instance":
        return None
    if options.mode == "job":
        return JOB_MOST
    return SERVICE_MOST if _goes_on(options) else options.request_timeout


def longest(options: Settings, order: Order) -> float:
    """Return for how many seconds a worker may be paid for; then its container is let go.

    An order without a timeout may take as long as the mode can hold it.

    Raises:
        SpawnRefusedError: the order may take longer than that, or nobody knows how long.
    """
    limit, wanted = most(options), order.limits.timeout
    if wanted is None and limit is None:
        raise SpawnRefusedError(
            "an instance has no time limit and the order has none, so nobody knows what it costs",
            hint="give it one with --timeout, or timeout in defaults",
        )
    if wanted is not None and limit is not None and wanted > limit:
        raise SpawnRefusedError(
            f"the order may take {format_duration(wanted)}, and {_holder(options)} holds a worker"
            f" for {format_duration(limit)}",
            hint=_longer(options),
        )
    taken = wanted if wanted is not None else limit
    assert taken is not None
    whole = taken + order.limits.grace + AROUND
    return min(whole, JOB_MOST) if options.mode == "job" else whole


def _goes_on(options: Settings) -> bool:
    """Whether a worker of a service goes on between two requests, or elsewhere."""
    return options.billing == "instance" or options.resume or is_free(options)


def _holder(options: Settings) -> str:
    if options.mode == "job":
        return "a job"
    return "a service" if _goes_on(options) else "a service that is paid for by requests"


def _longer(options: Settings) -> str:
    if options.mode == "job":
        return "mode: instance has no limit"
    if most(options) == SERVICE_MOST:
        return "mode: job holds one for 168h, and mode: instance without a limit"
    return "billing: instance or resume: true hold one for 24h there, and mode: job for 168h"


def worst_case(options: Settings, order: Order) -> float:
    """Return the most that an order can cost there, in USD, its container all for itself.

    Raises:
        SpawnRefusedError: the mode cannot hold it; see `longest`.
    """
    own, seconds = _rates(options), longest(options, order)
    if not by_requests(options):
        left = IDLE if options.mode == "service" else 0.0
        seconds = max(seconds + left, SHORTEST_LIFE)
    holding = math.ceil(seconds / options.request_timeout) + _REQUESTS_ASIDE
    return (
        _busy(options, own) * _rounded(seconds)
        + holding * own.million_requests / 1e6
        + _warm_window(options, own)
    )


# --- what really ran ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Run:
    """A worker in a container, or a part of its time there.

    Args:
        worker: its id.
        container: which one; others with the same word share its time. "" for one of its own.
        begun: when its first request was sent, or the job's or instance's own beginning.
        ended: when the last one had ended; None: it is still there.
        requests: how many there were.
    """

    worker: str
    container: str = ""
    begun: float
    ended: float | None = None
    requests: int = 1


def bill(
    options: Settings,
    runs: Iterable[Run],
    *,
    now: float,
    lives: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, float]:
    """Return what each worker cost, in USD. Workers of one container share its time.

    A share is final when its worker has ended: what is paid for after it counts at its worst then,
    and those who come within that time do not pay for it again.

    Args:
        options: of the outpost.
        runs: all that were there in the time of who is asked for, and for `IDLE` seconds or
            `warm_for` before it.
        now: until when runs that have not ended are counted.
        lives: beginning and end of containers that are paid for while they exist, where known.
    """
    own = _rates(options)
    found = [run if run.ended is not None else _until(run, now) for run in runs]
    cost = dict.fromkeys((run.worker for run in found), 0.0)
    containers: dict[str, list[Run]] = {}
    for run in found:
        cost[run.worker] += run.requests * own.million_requests / 1e6
        containers.setdefault(run.container or f"\0{run.worker}", []).append(run)
    busy, last = _busy(options, own), max(found, key=_end, default=None)
    for name, there in containers.items():
        if by_requests(options):
            _share(there, busy, cost, options.concurrency)
            _round_up(there, busy, cost)
        elif lives is not None and name in lives:
            _charge_life(there, busy, lives[name], cost)
        else:
            # what is left of a minimum instance is paid for by the outpost
            kept = options.keep_warm == "min-instances" and last in there
            left = 0.0 if options.mode != "service" or kept else IDLE
            _charge_tails(there, busy, left, cost, options.concurrency)
    if options.keep_warm == "min-instances":
        _share(found, -_idle(options, own), cost)
    elif options.keep_warm == "stream":
        _charge_windows(found, busy, options.warm_for, _warm_window(options, own), cost)
    return {worker: max(0.0, usd) for worker, usd in cost.items()}


def _until(run: Run, now: float) -> Run:
    # it ends later than who has ended now, who therefore was not the last
    ended = math.nextafter(max(now, run.begun), math.inf)
    return Run(worker=run.worker, container=run.container, begun=run.begun,
               ended=ended, requests=run.requests)  # fmt: skip


def _share(
    runs: Sequence[Run], rate: float, cost: dict[str, float], most: float = math.inf
) -> None:
    """Charge the time in which there is at least one run, each moment to all that are there.

    Which container it was is what containers say, so no more than `most` can have shared one.
    """
    changes = sorted([(run.begun, 1) for run in runs] + [(_end(run), -1) for run in runs])
    paid, there, before = 0.0, 0, 0.0
    paid_until: dict[float, float] = {}  # by one that would have been there from the beginning
    for moment, change in changes:
        if there:
            paid += rate * (moment - before) / min(there, most)
        there, before, paid_until[moment] = there + change, moment, paid
    for run in runs:
        cost[run.worker] += paid_until[_end(run)] - paid_until[run.begun]


def _spans(runs: Sequence[Run]) -> list[tuple[float, float, Run]]:
    """Return when a container was busy without a pause, each time with the run that ended it."""
    spans: list[tuple[float, float, Run]] = []
    for run in sorted(runs, key=lambda run: run.begun):
        if spans and run.begun <= spans[-1][1]:
            begin, end, last = spans[-1]
            spans[-1] = (begin, max(end, _end(run)), run if _end(run) >= end else last)
        else:
            spans.append((run.begun, _end(run), run))
    return spans


def _round_up(runs: Sequence[Run], rate: float, cost: dict[str, float]) -> None:
    for begin, end, last in _spans(runs):
        cost[last.worker] += rate * (_rounded(end - begin) - (end - begin))


def _charge_life(
    runs: Sequence[Run], rate: float, life: tuple[float, float], cost: dict[str, float]
) -> None:
    """Charge all of a container's life; what no worker was there for, to who was there before."""
    _share(runs, rate, cost)
    spans = _spans(runs)
    begun, ended = min(life[0], spans[0][0]), max(life[1], spans[-1][1])
    cost[spans[0][2].worker] += rate * (spans[0][0] - begun)
    for (_, end, last), following in zip(spans, [*spans[1:], None], strict=True):
        cost[last.worker] += rate * ((following[0] if following else ended) - end)
    cost[spans[-1][2].worker] += rate * max(0.0, SHORTEST_LIFE - (ended - begun))


def _charge_tails(
    runs: Sequence[Run], rate: float, left: float, cost: dict[str, float], most: float
) -> None:
    """Charge a container of which nobody knows when it ended.

    Whoever was there last has paid for `left` seconds more. Who comes within these pays for none
    of them again, so that each is charged once, and a share is final when its worker has ended.
    """
    paid_until = -math.inf
    for begin, end, last in _spans(runs):
        there = [run for run in runs if begin <= run.begun and _end(run) <= end]
        unpaid = [_from(run, paid_until) for run in there if _end(run) > paid_until]
        _share(unpaid, rate, cost, most)
        shortest = SHORTEST_LIFE if paid_until < begin else 0.0
        until = max(end + left, begin + shortest, paid_until)
        cost[last.worker] += rate * (until - max(end, paid_until))
        paid_until = until


def _charge_windows(
    runs: Sequence[Run], rate: float, lasts: float, usd: float, cost: dict[str, float]
) -> None:
    """Charge the window in which a stream is held, to the last worker of each burst.

    The first worker of the next burst ends it, and has back what was paid for in vain.
    """
    before = -math.inf
    for begin, end, last in _spans(runs):
        first = min((run for run in runs if run.begun == begin), key=_end)
        cost[first.worker] -= rate * min(lasts, max(0.0, before + lasts - begin))
        cost[last.worker] += usd
        before = end


def _from(run: Run, begun: float) -> Run:
    return Run(worker=run.worker, container=run.container, begun=max(begun, run.begun),
               ended=run.ended, requests=run.requests)  # fmt: skip


# --- rates -------------------------------------------------------------------------------------


def by_requests(options: Settings) -> bool:
    """Whether containers are paid for while they have requests, not while they exist."""
    return options.mode == "service" and options.billing == "request"


def is_free(options: Settings) -> bool:
    """Whether the container is one of this machine, for which nobody sends a bill."""
    return bool(options.url) and not options.project and is_loopback(options.url)


def _rates(options: Settings) -> Rates:
    nothing = dict.fromkeys(Rates.__dataclass_fields__, "0") if is_free(options) else {}
    overrides = nothing | options.prices
    return rates(options.region, request_based=by_requests(options), overrides=overrides)


def _busy(options: Settings, own: Rates) -> float:
    """Return what a second of a container costs that works."""
    return (
        options.cpu * own.vcpu_second
        + options.memory / _GIB * own.gib_second
        + (options.disk or 0) / _GIB * own.disk_gib_second
    )


def _idle(options: Settings, own: Rates) -> float:
    """Return what a second of nothing to do costs: the minimum instance."""
    if options.keep_warm != "min-instances":
        return 0.0
    return (
        options.cpu * own.idle_vcpu_second
        + options.memory / _GIB * own.idle_gib_second
        + (options.disk or 0) / _GIB * own.disk_gib_second
    )


def _warm_window(options: Settings, own: Rates) -> float:
    """Return what it costs to hold a stream for `warm_for` after the last worker."""
    if options.keep_warm != "stream" or not options.warm_for:
        return 0.0
    requests = math.ceil(options.warm_for / options.request_timeout)
    return _busy(options, own) * _rounded(options.warm_for) + requests * own.million_requests / 1e6


def _rounded(seconds: float) -> float:
    # what is a whole number of 100 ms but for the rounding of binary fractions stays that
    return math.ceil(seconds / ROUNDED_TO - 1e-6) * ROUNDED_TO


def _end(run: Run) -> float:
    assert run.ended is not None
    return run.ended
