"""Where an order would go if every outpost were up that can be brought up."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from outpost_manager.ledger.scaling import Phase

if TYPE_CHECKING:
    from outpost_core.types import Candidate, Order
    from outpost_manager.ledger.scaling import Scaled
    from outpost_manager.placing.placement import Placement

#: Phases in which an outpost would take work once it is up.
TO_COME: Final = (Phase.DOWN, Phase.DRAINING, Phase.STARTING)
#: Seconds after which what was known of an outpost before it came up is no longer told of it.
_FRESH: Final = 30.0
_NONE: Final[Mapping[str, float | None]] = MappingProxyType({})


def to_start(rows: Mapping[str, Scaled], prices: Mapping[str, float | None]) -> dict[str, float]:
    """Return what machines that are down will cost an hour: a worker has to fit in beside its own.

    Args:
        rows: what the ledger knows of outposts that are scaled.
        prices: USD an hour of one unit of each, where that is known.
    """
    down = {name for name, row in rows.items() if row.phase is Phase.DOWN}
    return {name: price for name, price in prices.items() if price and name in down}


async def sheets_if_up(
    placement: Placement,
    order: Order,
    rows: Mapping[str, Scaled],
    *,
    avoid: str = "",
    prices: Mapping[str, float | None] = _NONE,
) -> Sequence[Candidate]:
    """Return the fact sheets as they would be if all outposts were up that can be.

    Args:
        placement: of an open manager.
        order: what is to be done.
        rows: what the ledger knows of outposts that are scaled.
        avoid: the outpost that it is not to go to; "" for none.
        prices: USD an hour of one unit of each, where that is known.
    """
    machines = to_start(rows, prices)
    (sheets,) = await placement.overview.sheets([order], time.time())
    found = []
    for sheet in sheets:
        row = rows.get(sheet.name)
        if sheet.name == avoid:
            continue
        if row is not None and row.phase in TO_COME:
            spent = sheet.spent + machines.get(sheet.name, 0.0)
            found.append(replace(sheet, available=True, unavailable_reason="", spent=spent))
        else:
            found.append(sheet)
    return found


async def ranked_if_up(
    placement: Placement,
    order: Order,
    sheets: Sequence[Candidate],
    place: str | None,
    machines: Mapping[str, float],
) -> tuple[str, ...]:
    """Return the outposts that would take an order if nothing ran there, the best first.

    Args:
        placement: of an open manager.
        order: what is to be done.
        sheets: see `sheets_if_up`.
        place: the one outpost for it, or None.
        machines: see `to_start`.

    Raises:
        OutpostError: nobody can say.
    """
    roomy = [replace(sheet, active=0) for sheet in sheets]
    said = placement.assign(order, roomy, place).explain()
    said = await placement.foreseen(order, said, sheets, if_up=True, machines=machines)
    return tuple(one.outpost for one in said.verdicts if one.eligible)


async def comes_up(placement: Placement, order: Order, place: str | None, *, unknown: bool) -> bool:
    """Whether an outpost that is down would be brought up for an order that waits.

    Args:
        placement: of an open manager.
        order: what waits.
        place: the one outpost for it, or None.
        unknown: whether one counts as down of which nobody knows yet how much of it is up.
    """
    rules = {one.name: one.scaling for one in placement.fleet.config.outposts if one.scaling}
    if place is not None:
        rules = {name: rule for name, rule in rules.items() if name == place}
    if not rules:
        return False
    rows, now = await placement.ledger.scaling.all(), time.time()
    if unknown and any(name not in rows for name in rules):
        return True
    down = {
        name
        for name, rule in rules.items()
        if name in rows and (_just_up(rows[name], now) or (rows[name].phase in TO_COME
                                                           and rule.may(now)))
    }  # fmt: skip
    if not down:
        return False
    prices = {name: rule.price for name, rule in rules.items()}
    sheets = await sheets_if_up(placement, order, rows, prices=prices)
    # one that is up since a moment may be known as silent still
    sheets = [
        replace(sheet, available=True, unavailable_reason="")
        if sheet.name in down and not sheet.available
        else sheet
        for sheet in sheets
    ]
    machines = to_start(rows, prices)
    return not down.isdisjoint(await ranked_if_up(placement, order, sheets, place, machines))


def _just_up(row: Scaled, now: float) -> bool:
    return row.phase is Phase.UP and row.running > 0 and abs(now - row.since) < _FRESH
