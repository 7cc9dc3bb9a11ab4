"""What is to be brought up or down now: pure functions of what is known.

`decide` starts what waiting orders need and no outpost that is up, or on its way, has room for: in
the order in which the policy would place them. It ends what has had nothing to do for long enough,
and what may not be up at this time. Each decision says why, and what it costs an hour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from outpost_core.units import format_duration
from outpost_manager.ledger.scaling import Phase, Scaled

if TYPE_CHECKING:
    from outpost_manager.config.scaling import ScalingConfig

#: Slots of an outpost without a limit, where they are counted.
_MANY: Final = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """An outpost that can be scaled.

    Args:
        row: how it stands, as the ledger knows it.
        rule: what is configured.
        active: workers there that have not ended.
        slots: workers that it takes at once; None for no limit.
        limit: units that it can have at most, by its own word.
        always: it takes work at 0 units too.
        price: USD an hour of one unit; None when nobody knows.
    """

    row: Scaled
    rule: ScalingConfig
    active: int = 0
    slots: int | None = None
    limit: int = 1
    always: bool = False
    price: float | None = None

    @property
    def name(self) -> str:
        """Of the outpost."""
        return self.row.outpost

    @property
    def most(self) -> int:
        """Units that may be up."""
        return max(0, min(self.rule.max, self.limit))

    @property
    def per_unit(self) -> int:
        """Workers that one unit takes."""
        return _MANY if self.slots is None else max(1, self.slots // max(1, self.most))

    def least(self, now: float) -> int:
        """Return the units that are up whatever there is to do."""
        if not self.rule.must(now):
            return 0
        return min(self.most, max(self.rule.min, 1))

    def cost(self, units: int) -> float | None:
        """Return the USD an hour of so many units; None when nobody knows."""
        return None if self.price is None else self.price * units

    def cools(self, now: float) -> float:
        """Return the seconds for which nothing is changed after the last change."""
        if not self.row.decision:
            return 0.0
        gone = now - self.row.since
        return max(0.0, self.rule.cooldown - gone) if gone >= 0 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """Orders that wait and are placed alike.

    Args:
        count: how many.
        ranked: the outposts that would take them, if they were up and had room; the best first.
    """

    count: int
    ranked: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What is to be done with one outpost.

    Args:
        outpost: its name.
        to: units that are to be up.
        more: more than now, else less.
        why: in one line.
        price: USD an hour of that many; None when nobody knows.
    """

    outpost: str
    to: int
    more: bool
    why: str
    price: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What `decide` came to.

    Args:
        decisions: what is to be done.
        busy: outposts that have something to do, or to come.
    """

    decisions: tuple[Decision, ...]
    busy: frozenset[str]


def decide(
    now: float,
    places: Iterable[Place],
    demands: Sequence[Demand],
    free: Mapping[str, int | None],
) -> Found:
    """Say what is to be brought up and down.

    Args:
        now: seconds since the epoch.
        places: outposts that can be scaled.
        demands: what waits, in the order of its turn.
        free: slots that are free at outposts that are up; None for no limit.
    """
    scaled = {place.name: place for place in places}
    room = {name: _MANY if slots is None else slots for name, slots in free.items()}
    for name, place in scaled.items():
        if place.row.phase is Phase.STARTING:  # what is to come counts, or it would be started
            room[name] = _room(place)  # again elsewhere
        elif place.row.phase is not Phase.UP:
            room[name] = 0
    wanted: dict[str, int] = {}
    starts: dict[str, int] = {}
    for demand in demands:
        left = demand.count
        for name in demand.ranked:
            taken = min(left, room.get(name, 0))
            room[name] = room.get(name, 0) - taken
            left -= taken
            if taken:
                wanted[name] = wanted.get(name, 0) + taken
        for name in demand.ranked:
            down = scaled.get(name)
            if left <= 0 or down is None or not _can_start(down, now) or room.get(name):
                continue
            taken = min(left, _room(down))
            left -= taken
            room[name] = _room(down) - taken
            wanted[name] = wanted.get(name, 0) + taken
            starts[name] = starts.get(name, 0) + demand.count
    decisions = [
        found
        for place in scaled.values()
        if (found := _one(place, now, wanted.get(place.name, 0), starts.get(place.name, 0)))
    ]
    busy = {name for name, place in scaled.items() if place.active or wanted.get(name)}
    return Found(decisions=tuple(decisions), busy=frozenset(busy))


def _room(place: Place) -> int:
    return _MANY if place.slots is None else place.slots


def _can_start(place: Place, now: float) -> bool:
    """Whether an outpost that is not up may be brought up for what waits."""
    if place.row.phase not in (Phase.DOWN, Phase.DRAINING) or not place.most:
        return False
    if not place.rule.may(now) or place.row.waits(now):
        return False
    return place.row.phase is Phase.DRAINING or not place.cools(now)


def _one(place: Place, now: float, wanted: int, starts: int) -> Decision | None:
    row, least = place.row, place.least(now)
    if row.phase in (Phase.STARTING, Phase.STOPPING):
        return None
    needed = min(place.most, math.ceil((place.active + wanted) / place.per_unit))
    if row.phase in (Phase.DOWN, Phase.DRAINING):
        if starts:
            many = "an order waits that finds" if starts == 1 else f"{starts} orders wait that find"
            return _up(place, max(1, needed, least), f"{many} no room elsewhere")
        if row.phase is Phase.DOWN and least and not row.waits(now):
            return _up(place, least, "it is to be up at this time")
        return None
    return _while_up(place, now, wanted, needed, least)


def _while_up(place: Place, now: float, wanted: int, needed: int, least: int) -> Decision | None:
    row = place.row
    units = max(row.running, row.desired) if place.always else row.running
    if row.waits(now):
        return None
    if not place.rule.may(now):
        return _down(place, 0, "it may not be up at this time") if units else None
    if max(needed, least) > units:
        if place.always and not least and place.cools(now):
            return None
        why = f"{place.active + wanted} workers are there or to come"
        if needed <= units:
            why = "it is to be up at this time"
        return _up(place, max(needed, least), why)
    if units <= least or place.cools(now):
        return None
    if place.active or wanted:
        return None
    idle = now - row.busy_at
    if idle < place.rule.idle:
        return None
    return _down(place, least, f"it has had nothing to do for {_long(idle)}")


def _up(place: Place, to: int, why: str) -> Decision:
    return Decision(outpost=place.name, to=to, more=True, why=why, price=place.cost(to))


def _down(place: Place, to: int, why: str) -> Decision:
    return Decision(outpost=place.name, to=to, more=False, why=why, price=place.cost(to))


def _long(seconds: float) -> str:
    """Return seconds as a person says them: whole minutes, where there are some."""
    return format_duration(float(int(seconds) if seconds < 120 else int(seconds // 60) * 60))


def outlook(place: Place, now: float) -> str:
    """Say what comes next at an outpost, as far as anybody knows, in one line."""
    row, rule = place.row, place.rule
    match row.phase:
        case Phase.STARTING:
            return f"up within {_long(rule.patience)}, or it has failed"
        case Phase.DRAINING if place.active:
            return f"down once its {place.active} workers have ended"
        case Phase.DRAINING | Phase.STOPPING:
            return "down at once"
        case _ if row.waits(now):
            return f"tried again in {_long(row.retry_at - now)}"
        case Phase.DOWN if not rule.may(now):
            return "stays down: it may not be up at this time"
        case Phase.DOWN if cools := place.cools(now):
            return f"starts when needed, not within {_long(cools)}"
        case Phase.DOWN:
            return "starts when needed"
    if not rule.may(now):
        return "down: it may not be up at this time"
    if row.running <= place.least(now):
        return "stays as it is: so much is to be up at this time"
    if place.active:
        return f"down {_long(rule.idle)} after the last of {place.active} workers"
    left = max(rule.idle - max(0.0, now - row.busy_at), place.cools(now))
    return f"down in {_long(left)} if nothing comes"
