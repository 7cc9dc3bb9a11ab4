"""Outposts of a simulation: as many slots, as dear and as often away as the real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from outpost_core.backend import option
from outpost_core.errors import OutpostError
from outpost_core.hookspecs import TRAITS
from outpost_core.types import Agent, Candidate, Issue, Limits, Order
from outpost_manager.config import spending
from outpost_mayor.simulate.workload import HOUR, Outage

if TYPE_CHECKING:
    from outpost_manager.manager import Manager

#: Kinds of worst cases whose fact sheets are kept.
_MOST_SHEETS: Final = 64
#: Seconds for which an outpost is passed over that did not answer, as in `fleet.overview`.
_AVOIDED: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """An outpost of a simulation."""

    name: str = option("how it is called")
    type: str = option("its type, for what the policy says of types", default="simulated")
    count: int = option(
        "so many of the same kind, NAME-1 to NAME-n, where it is more than one", default=1,
        min=1, max=100_000,
    )  # fmt: skip
    max_workers: int | None = option("its slots; no limit if none", default=None, min=0)
    price: float = option("USD that a worker costs in an hour there", default=0.0, min=0)
    standing: float = option("USD that it costs in an hour without a worker", default=0.0, min=0)
    cost_cap_hourly: float | None = option("USD that it may cost in an hour", default=None, min=0)
    start: float = option(
        "how long it takes until a worker there begins", default=0.0, unit="duration", min=0
    )
    capabilities: tuple[str, ...] = option("what it can do", default=tuple(TRAITS))


async def configured(manager: Manager, now: float) -> list[Simulated]:
    """Return the outposts of a configuration, as a simulation has them; none is asked anything.

    What one charges by the hour is what it charges at worst for an order of an hour.

    Args:
        manager: an open one.
        now: seconds since the epoch.
    """
    sample = Order(
        issue=Issue(id="simulated"), agent=Agent(argv=("true",)), limits=Limits(timeout=HOUR)
    )
    (sheets,) = await manager.overview.sheets([sample], now)
    found = []
    for sheet in sheets:
        price = standing = 0.0
        try:
            price = manager.overview.price(sheet.name, sample)
            standing = manager.overview.standing(sheet.name)
        except OutpostError:  # it is not installed here, or takes no such order; others do
            pass
        found.append(
            Simulated(
                name=sheet.name,
                type=sheet.type,
                max_workers=sheet.max_workers,
                price=price,
                standing=standing,
                cost_cap_hourly=sheet.cost_cap_hourly,
                capabilities=tuple(sorted(sheet.capabilities)) or tuple(TRAITS),
            )
        )
    return found


def expanded(outposts: Sequence[Simulated]) -> list[Simulated]:
    """Return each outpost by itself, where several were said at once."""
    return [
        one if one.count == 1 else replace(one, name=f"{one.name}-{number}", count=1)
        for one in outposts
        for number in range(1, one.count + 1)
    ]


@dataclass(eq=False)
class Fleet:
    """What the outposts of a simulation are doing.

    Args:
        outposts: each by itself.
        outages: when they do not answer.
        begins: the moment from which outages count.
    """

    outposts: Sequence[Simulated]
    outages: Sequence[Outage] = ()
    begins: float = 0.0
    active: dict[str, int] = field(init=False)
    by_name: dict[str, Simulated] = field(init=False)

    def __post_init__(self) -> None:
        self.by_name = {one.name: one for one in self.outposts}
        self.active = dict.fromkeys(self.by_name, 0)
        self._at = {one.name: at for at, one in enumerate(self.outposts)}
        self._sheets: dict[tuple[float | None, float, str], list[Candidate]] = {}
        self._avoided: dict[str, float] = {}
        self._spent: Mapping[str, float] = {}

    @property
    def capped(self) -> bool:
        """Whether any of them has a cap."""
        return any(one.cost_cap_hourly is not None for one in self.outposts)

    @property
    def room(self) -> int | None:
        """How many workers find a slot; None where one has no limit."""
        free = 0
        for one in self.outposts:
            if one.max_workers is None:
                return None
            if one.name not in self._avoided:
                free += max(0, one.max_workers - self.active[one.name])
        return free

    def down(self, name: str, now: float) -> float | None:
        """Return until when an outpost does not answer; None when it does."""
        return max(
            (
                self.begins + one.end
                for one in self.outages
                if one.outpost == name and self.begins + one.start <= now < self.begins + one.end
            ),
            default=None,
        )

    def look(self, now: float, spent: Mapping[str, float]) -> None:
        """Take note of what time it is, and of what was spent in the last hour."""
        for name in [name for name, until in self._avoided.items() if until <= now]:
            del self._avoided[name]
            self._refresh(name)
        for name in {*spent, *self._spent}:
            if spent.get(name) != self._spent.get(name):
                self._refresh(name, spent.get(name, 0.0))
        self._spent = spent

    def next_moment(self) -> float | None:
        """Return when the next one that did not answer is tried again."""
        return min(self._avoided.values(), default=None)

    def avoid(self, name: str, now: float) -> None:
        """Pass an outpost over for a while, which did not answer."""
        self._avoided[name] = now + _AVOIDED
        self._refresh(name)

    def took(self, name: str, workers: int) -> None:
        """Count workers that an outpost has more, or fewer."""
        self.active[name] += workers
        self._refresh(name)

    def worst(self, name: str, order: Order) -> float:
        """Return the USD that an outpost charges for an order at worst."""
        return self.by_name[name].price * (order.limits.timeout or 24 * HOUR) / HOUR

    def sheets(self, order: Order) -> tuple[Candidate, ...]:
        """Return the policy's fact sheets for an order."""
        agent, uncounted = spending.worst_case(order), spending.uncounted(order)
        key = (agent, order.limits.timeout or 0.0, uncounted)
        found = self._sheets.get(key)
        if found is None:
            if len(self._sheets) >= _MOST_SHEETS:
                self._sheets.clear()
            found = self._sheets[key] = [
                Candidate(
                    name=one.name,
                    type=one.type,
                    position=position,
                    available=one.name not in self._avoided,
                    unavailable_reason="it did not answer" if one.name in self._avoided else "",
                    capabilities=frozenset(one.capabilities),
                    active=self.active[one.name],
                    max_workers=one.max_workers,
                    cost=self.worst(one.name, order) + (agent or 0.0),
                    agent_cost=agent or 0.0,
                    uncounted=uncounted,
                    spent=self._spent.get(one.name, 0.0) + one.standing,
                    cost_cap_hourly=one.cost_cap_hourly,
                )
                for position, one in enumerate(self.outposts)
            ]
        return tuple(found)

    def _refresh(self, name: str, spent: float | None = None) -> None:
        at, one = self._at[name], self.by_name[name]
        away = name in self._avoided
        for sheets in self._sheets.values():
            sheet = sheets[at]
            sheets[at] = replace(
                sheet,
                active=self.active[name],
                available=not away,
                unavailable_reason="it did not answer" if away else "",
                spent=sheet.spent if spent is None else spent + one.standing,
            )
