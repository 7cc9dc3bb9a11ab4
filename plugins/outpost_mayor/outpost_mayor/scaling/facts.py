"""What `decide` goes by: how outposts stand, and what waits that could go there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from outpost_core.errors import LedgerError, OutpostError
from outpost_manager.fleet.overview import slots_of
from outpost_manager.ledger.scaling import Phase
from outpost_mayor.scaling.actor import rule_of
from outpost_mayor.scaling.decide import Demand, Place

if TYPE_CHECKING:
    from outpost_core.types import Candidate, Order, Scale
    from outpost_manager.ledger import Entry
    from outpost_manager.ledger.scaling import Scaled
    from outpost_manager.manager import Manager

#: Waiting orders that are looked at, and kinds of them.
_MOST, _KINDS = 256, 16
#: Phases in which an outpost would take work once it is up.
_TO_COME: Final = (Phase.DOWN, Phase.DRAINING, Phase.STARTING)


def places(
    manager: Manager,
    rows: Mapping[str, Scaled],
    active: Mapping[str, int],
    told: Mapping[str, Scale],
) -> list[Place]:
    """Return the outposts that are scaled, in the order of the file.

    Args:
        manager: an open one.
        rows: what the ledger knows of them.
        active: workers that have not ended, by outpost.
        told: what each said last of how much of it is up.
    """
    found = []
    for entry in manager.config.outposts:
        row = rows.get(entry.name)
        if row is None:
            continue
        rule, said = rule_of(manager, entry.name), told.get(entry.name)
        price = rule.price if rule.price is not None else said.price if said else None
        found.append(
            Place(
                row=row,
                rule=rule,
                active=active.get(entry.name, 0),
                slots=slots_of(entry, manager.config)[0],
                limit=said.limit if said else rule.max,
                always=said.always if said else False,
                price=price,
            )
        )
    return found


async def demands(
    manager: Manager, rows: Mapping[str, Scaled], prices: Mapping[str, float | None]
) -> tuple[list[Demand], dict[str, int | None]]:
    """Return what waits and where it could go, and the free slots at each outpost.

    Orders that no money, no account or a breaker lets go are no demand: a machine would not help.

    Args:
        manager: an open one.
        rows: what the ledger knows of outposts that are scaled.
        prices: USD an hour of one unit of each, where that is known.
    """
    queue, now = manager.ledger.queue, time.time()
    if await queue.switch("queue") in ("paused", "draining"):
        return [], {}
    entries = await queue.next(manager.config.queue.rules(), now, _MOST)
    kinds: dict[tuple[str, str | None, str], list[Entry]] = {}
    for entry in entries:
        kinds.setdefault((entry.kind, entry.place, entry.avoid), []).append(entry)
    found: list[Demand] = []
    free: dict[str, int | None] = {}
    for (_, place, avoid), some in [*kinds.items()][:_KINDS]:
        order = await _order(manager, some[0])
        if order is None:
            continue
        sheets = await _sheets(manager, order, rows, avoid, prices)
        for sheet in sheets:
            if sheet.available:
                slots = sheet.max_workers
                free[sheet.name] = None if slots is None else max(0, slots - sheet.active)
        try:
            said = manager.placement.assign(order, [*map(_roomy, sheets)], place).explain()
            said = await manager.placement.foreseen(order, said, sheets, if_up=True)
        except LedgerError:
            raise
        except OutpostError:  # the dispatcher says so
            continue
        ranked = tuple(one.outpost for one in said.verdicts if one.eligible)
        if ranked:
            found.append(Demand(count=len(some), ranked=ranked))
    return found, free


async def _order(manager: Manager, entry: Entry) -> Order | None:
    try:
        order = await manager.ledger.queue.order(entry.issue)
        return None if order is None else manager.with_secrets(order)
    except OutpostError:
        return None


async def _sheets(
    manager: Manager,
    order: Order,
    rows: Mapping[str, Scaled],
    avoid: str,
    prices: Mapping[str, float | None],
) -> Sequence[Candidate]:
    """Return the fact sheets as they would be if all outposts were up that can be."""
    (sheets,) = await manager.overview.sheets([order], time.time())
    found = []
    for sheet in sheets:
        row = rows.get(sheet.name)
        if sheet.name == avoid:
            continue
        if row is not None and row.phase in _TO_COME:
            # what is down costs nothing yet: a worker has to fit in beside its machine
            more = (prices.get(sheet.name) or 0.0) if row.phase is Phase.DOWN else 0.0
            spent = sheet.spent + more
            found.append(replace(sheet, available=True, unavailable_reason="", spent=spent))
        else:
            found.append(sheet)
    return found


def _roomy(sheet: Candidate) -> Candidate:
    """Return a sheet of a place where nothing runs: whether there is room is looked at later."""
    return replace(sheet, active=0)
