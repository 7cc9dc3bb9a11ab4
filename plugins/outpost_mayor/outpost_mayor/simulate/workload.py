"""What work comes, how long it takes and how it ends: the facts that a simulation starts from.

Everything that is random is drawn by the seed, the issue and the attempt alone. So two policies are
compared on the very same work, whatever they make of it.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from outpost_core.backend import option
from outpost_core.types import State

#: The moment at which a described workload begins: 2026-01-01, UTC.
EPOCH: Final = 1_767_225_600.0
HOUR: Final = 3600.0
#: No attempt is shorter than that, in seconds.
_LEAST: Final = 1.0
#: Reason → how its worker ended; all others failed.
_STATES: Final[Mapping[str, State]] = {
    "ok": State.DONE,
    "nothing_to_commit": State.DONE,
    "lost_process": State.LOST,
    "stopped": State.STOPPED,
}


def state_of(reason: str) -> State:
    """Return the state of a worker that ended for a reason."""
    return _STATES.get(reason, State.FAILED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """An amount that varies: lognormal around its median.

    Args:
        median: half of the draws are below it.
        sigma: how far they spread; 0: all are the same.
        most: no draw is above it; None for no limit.
    """

    median: float
    sigma: float = 0.0
    most: float | None = None

    def draw(self, chance: random.Random) -> float:
        """Return one amount."""
        amount = self.median
        if self.sigma:
            amount *= math.exp(chance.gauss(0.0, self.sigma))
        return amount if self.most is None else min(amount, self.most)


@dataclass(frozen=True, kw_only=True, slots=True)
class Try:
    """What an attempt would do, wherever it runs.

    Args:
        seconds: how long it works.
        reason: why it ends then.
        cost: USD that its agent spends.
        retry_after: seconds after its end at which its provider takes requests again, where it
            ends by a usage limit; None: it names no moment.
    """

    seconds: float
    reason: str = "ok"
    cost: float = 0.0
    retry_after: float | None = None


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One kind of orders of a workload, and when they come."""

    name: str = option("how its issues are called: NAME-1, NAME-2 …")
    count: int | None = option(
        "how many come: all at once at `start`, or at most so many by `every` or `rate`",
        default=None,
        min=1,
        max=1_000_000,
    )
    every: float | None = option("one comes each so long", default=None, unit="duration", min=0.001)
    rate: float | None = option(
        "so many come in an hour on average, at random (Poisson)", default=None, min=1e-6, max=1e7
    )
    start: float = option("when the first may come", default=0.0, unit="duration", min=0)
    end: float | None = option("when no more come", default=None, unit="duration", min=0)
    rig: str | None = option("the repository that they are for", default=None)
    agent: str = option("the agent that works on them", default="claude")
    labels: tuple[str, ...] = option("labels of their issues", default=())
    kind: str = option("what kind their issues are, such as bug", default="task")
    estimate: float | None = option(
        "how long they are said to take, for conditions of the policy", default=None,
        unit="duration", min=0,
    )  # fmt: skip
    timeout: float = option(
        "their wall-clock limit; the worst case that an outpost charges is reserved for it",
        default=4 * HOUR,
        unit="duration",
        min=1,
    )
    max_cost: float | None = option(
        "USD that their agent may spend; where none is given, as `defaults` of the configuration"
        " says",
        default=None,
        min=0,
        max=1_000_000,
    )
    retries: int = option(
        "how often an attempt is repeated whose agent judged itself that it failed", default=0,
        min=0, max=1000,
    )  # fmt: skip
    limit: float | None = option(
        "how long a usage limit lasts where an attempt ends by one; no moment is named if none",
        default=HOUR,
        unit="duration",
        min=1,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """How the orders of a stream differ.

    Args:
        priority: priority → its weight.
        outcomes: reason of an end → its weight, of each attempt anew.
        seconds: how long an attempt takes.
        cost: USD that its agent spends.
    """

    priority: Mapping[int, float] = field(default_factory=lambda: {2: 1.0})
    outcomes: Mapping[str, float] = field(default_factory=lambda: {"ok": 1.0})
    seconds: Spread = Spread(median=1200.0)
    cost: Spread = Spread(median=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One order of a workload.

    Args:
        at: seconds since the workload's beginning at which it comes.
        issue: its id.
        priority: 0 to 4.
        stream: what it has in common with others.
    """

    at: float
    issue: str
    priority: int
    stream: Stream


class Workload(Protocol):
    """Work that comes."""

    @property
    def begins(self) -> float:
        """The moment of its beginning, in seconds since the epoch."""

    def jobs(self) -> Iterator[Job]:
        """Yield every order, by the moment at which it comes."""

    def attempt(self, job: Job, number: int) -> Try:
        """Return what the attempt of that number does; always the same."""


@dataclass(frozen=True, kw_only=True)
class Outage:
    """A time in which an outpost does not answer."""

    outpost: str = option("its name")
    start: float = option("since when", unit="duration", min=0)
    end: float = option("until when", unit="duration", min=0)
    kills: bool = option(
        "whether what works there is lost, as when a host is rebooted; else it goes on, and is"
        " heard of afterwards",
        default=False,
    )


@dataclass(frozen=True, kw_only=True)
class Described:
    """A workload that a file describes.

    Args:
        streams: its kinds of orders, each with how they differ.
        seed: whatever is random follows from it.
    """

    streams: Sequence[tuple[Stream, Mix]]
    seed: int = 0

    @property
    def begins(self) -> float:
        """The moment of its beginning, in seconds since the epoch."""
        return EPOCH

    def jobs(self) -> Iterator[Job]:
        """Yield every order, by the moment at which it comes."""
        return heapq.merge(*(self._stream(*one) for one in self.streams), key=lambda job: job.at)

    def _stream(self, stream: Stream, mix: Mix) -> Iterator[Job]:
        chance = random.Random(f"{self.seed}/{stream.name}")  # noqa: S311 - no secret
        levels, weights = [*mix.priority], [*mix.priority.values()]
        for number, at in enumerate(_moments(stream, chance), 1):
            (priority,) = chance.choices(levels, weights)
            yield Job(at=at, issue=f"{stream.name}-{number}", priority=priority, stream=stream)

    def attempt(self, job: Job, number: int) -> Try:
        """Return what the attempt of that number does; always the same."""
        mix = next(mix for stream, mix in self.streams if stream is job.stream)
        chance = random.Random(f"{self.seed}/{job.issue}/{number}")  # noqa: S311
        (reason,) = chance.choices([*mix.outcomes], [*mix.outcomes.values()])
        limited = reason in ("rate_limited", "overloaded")
        return Try(
            seconds=max(_LEAST, mix.seconds.draw(chance)),
            reason=reason,
            cost=mix.cost.draw(chance),
            retry_after=job.stream.limit if limited else None,
        )


def _moments(stream: Stream, chance: random.Random) -> Iterator[float]:
    """Yield when the orders of a stream come."""
    if stream.every is None and stream.rate is None:
        yield from [stream.start] * (stream.count or 1)
        return
    at, number = stream.start, 0
    while stream.count is None or number < stream.count:
        if stream.rate is not None:
            at += chance.expovariate(stream.rate / HOUR)
        if stream.end is not None and at >= stream.end:
            return
        yield at
        number += 1
        at += stream.every or 0.0
