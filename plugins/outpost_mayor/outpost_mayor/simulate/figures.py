"""What a simulation found: what it cost, how long work waited, and what may never be."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from outpost_manager.ledger import Budget, Outcome

#: Rounding of sums of money in this file, in USD.
_EPSILON: Final = 1e-6
#: So many mistakes are kept.
_FIRST: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Waits:
    """How long orders waited for their first attempt, in seconds.

    Args:
        orders: how many of them began.
        median: half of them waited at most so long.
        p95: 95 of 100 did.
        longest: all did.
    """

    orders: int
    median: float
    p95: float
    longest: float

    @classmethod
    def of(cls, waits: Iterable[float]) -> Waits:
        """Return the figures of some waits."""
        ranked = sorted(waits)
        if not ranked:
            return cls(orders=0, median=0.0, p95=0.0, longest=0.0)
        last = len(ranked) - 1
        return cls(
            orders=len(ranked),
            median=ranked[last // 2],
            p95=ranked[-(-last * 95 // 100)],
            longest=ranked[last],
        )


@dataclass(kw_only=True, slots=True)
class Use:
    """What an outpost did.

    Args:
        workers: how many it had.
        most: how many at once.
        seconds: how long they worked, together.
        usd: what it charged, what stands included.
        slots: its slots; None for no limit.
    """

    workers: int = 0
    most: int = 0
    seconds: float = 0.0
    usd: float = 0.0
    slots: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What a simulation found.

    Args:
        orders: how many came.
        outcomes: how they ended → how many; `waiting` for those that nothing lets go.
        attempts: how many workers there were.
        retries: how often something was tried again.
        makespan: seconds from the first order's coming to the last end.
        machine: USD that outposts charged, what stands included.
        agent: USD that agents spent.
        waits: priority → how long its orders waited.
        outposts: name → what it did.
        refused: why orders were refused → how many of them: `budget`, `capped`, `parked` …
        passed: the longest time by which an order was overtaken, in seconds, and by what it may be
            at most; None where nothing ages.
        stuck: why what waits for ever does → how many.
        broken: what may never be and was all the same; empty when all is well.
    """

    orders: int
    outcomes: dict[str, int]
    attempts: int
    retries: int
    makespan: float
    machine: float
    agent: float
    waits: dict[int, Waits]
    outposts: dict[str, Use]
    refused: dict[str, int]
    passed: tuple[float, float | None]
    stuck: dict[str, int]
    broken: tuple[str, ...] = ()


class BudgetWatch:
    """Counts by itself what a window of a budget holds.

    Args:
        budget: which one.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._open: dict[str, float] = {}
        self._ended: deque[tuple[float, float]] = deque()
        self._held = self._spent = 0.0
        self.most = 0.0

    def reserve(self, worker: str, worst: float, now: float) -> str:
        """Count a reservation; return what is wrong with it, or ""."""
        self._open[worker] = worst
        self._held += worst
        while self._ended and self._ended[0][0] <= now - self.budget.seconds:
            self._spent -= self._ended.popleft()[1]
        hourly = sum(usd for _, usd in self.budget.standing)
        standing = hourly * self.budget.seconds / 3600.0
        holds = self._held + self._spent + standing
        self.most = max(self.most, holds)
        if holds <= self.budget.usd + _EPSILON * max(1.0, self.budget.usd):
            return ""
        return f"the budget {self.budget.name} held {holds:.6f} of {self.budget.usd} USD"

    def end(self, worker: str, cost: float, now: float) -> None:
        """Count what a worker cost that has ended."""
        worst = self._open.pop(worker, None)
        if worst is not None:
            self._held -= worst
            self._ended.append((now, cost))
            self._spent += cost


@dataclass(kw_only=True, eq=False)
class Log:
    """Collects what happens.

    Args:
        uses: of each outpost.
        budgets: whose windows are watched.
    """

    uses: dict[str, Use]
    budgets: Sequence[BudgetWatch] = ()
    came: dict[str, tuple[float, int]] = field(default_factory=dict)  # issue → when, priority
    began: dict[str, float] = field(default_factory=dict)
    refused: dict[str, set[str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    agent: float = 0.0
    last_end: float = 0.0
    passed: float = 0.0
    _running: dict[str, tuple[str, float]] = field(default_factory=dict)
    _there: Counter[str] = field(default_factory=Counter)
    _oldest: deque[str] = field(default_factory=deque)

    def comes(self, issue: str, priority: int, now: float) -> None:
        """Count an order that comes."""
        if issue in self.came:
            self.wrong(f"{issue} came twice")
        self.came[issue] = (now, priority)
        self._oldest.append(issue)

    def refuses(self, issue: str, outcome: Outcome) -> None:
        """Count an order that was refused."""
        self.refused.setdefault(outcome.value, set()).add(issue)

    def starts(self, issue: str, worker: str, outpost: str, now: float) -> None:
        """Count a worker that begins."""
        if worker in self._running:
            self.wrong(f"{worker} runs twice at once")
        self._running[worker] = (outpost, now)
        self._there[outpost] += 1
        self.attempts[issue] += 1
        use = self.uses[outpost]
        use.workers += 1
        use.most = max(use.most, self._there[outpost])
        if use.slots is not None and self._there[outpost] > use.slots:
            self.wrong(f"{outpost} had {self._there[outpost]} workers in {use.slots} slots")
        if issue not in self.began:
            self.began[issue] = now
            self._overtakes(issue)

    def ends(self, worker: str, now: float, *, machine: float, agent: float) -> None:
        """Count a worker that has ended, and what it cost in USD."""
        outpost, since = self._running.pop(worker)
        self._there[outpost] -= 1
        use = self.uses[outpost]
        use.seconds += now - since
        use.usd += machine
        self.agent += agent
        self.last_end = max(self.last_end, now)

    def wrong(self, what: str) -> None:
        """Keep what may never be, "" for nothing; the first few are enough."""
        if what and len(self.broken) < _FIRST:
            self.broken.append(what)

    def _overtakes(self, issue: str) -> None:
        """Note by how much the oldest order that waits for a slot alone was overtaken."""
        blocked = [self.refused[why] for why in self.refused if why != "full"]
        while self._oldest:
            oldest = self._oldest[0]
            if oldest in self.began or any(oldest in issues for issues in blocked):
                self._oldest.popleft()
                continue
            self.passed = max(self.passed, self.came[issue][0] - self.came[oldest][0])
            return
