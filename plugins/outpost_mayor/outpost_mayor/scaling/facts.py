"""What `decide` goes by: how outposts stand, and what waits that could go there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from outpost_core.errors import LedgerError, OutpostError
from outpost_manager.fleet.overview import slots_of
from outpost_manager.placing.ifup import ranked_if_up, sheets_if_up, to_start
from outpost_mayor.scaling.actor import rule_of
from outpost_mayor.scaling.decide import Demand, Place

if TYPE_CHECKING:
    from outpost_core.types import Order, Scale
    from outpost_manager.ledger import Entry
    from outpost_manager.ledger.scaling import Scaled
    from outpost_manager.manager import Manager

#: Waiting orders that are looked at, and kinds of them.
_MOST, _KINDS = 256, 16


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
    found: list[Demand] = []
    free: dict[str, int | None] = {}
    machines = to_start(rows, prices)
    for order, place, avoid, count in await _waiting(manager):
        sheets = await sheets_if_up(manager.placement, order, rows, avoid=avoid, prices=prices)
        for sheet in sheets:
            if sheet.available:
                slots = sheet.max_workers
                free[sheet.name] = None if slots is None else max(0, slots - sheet.active)
        try:
            ranked = await ranked_if_up(manager.placement, order, sheets, place, machines)
        except LedgerError:
            raise
        except OutpostError:  # the dispatcher says so
            continue
        if ranked:
            found.append(Demand(count=count, ranked=ranked))
    return found, free


async def _waiting(manager: Manager) -> list[tuple[Order, str | None, str, int]]:
    """Return one order of each kind that waits, where it may go and may not, and how many wait.

    Those of the queue, and those that somebody waits with in this program.
    """
    found: list[tuple[Order, str | None, str, int]] = []
    queue = manager.ledger.queue
    if await queue.switch("queue") not in ("paused", "draining"):
        kinds: dict[tuple[str, str | None, str], list[Entry]] = {}
        while len(kinds) < _KINDS:
            # one kind, however much of it waits and cannot go, hides none that waits behind it
            seen = [kind for kind, _, _ in kinds]
            rules = manager.config.queue.rules()
            entries = await queue.next(rules, time.time(), _MOST, skip=seen)
            for entry in entries:
                kinds.setdefault((entry.kind, entry.place, entry.avoid), []).append(entry)
            if len(entries) < _MOST:
                break
        for (_, place, avoid), some in [*kinds.items()][:_KINDS]:
            if (order := await _order(manager, some[0])) is not None:
                found.append((order, place, avoid, len(some)))
    asked: dict[tuple[str | None, str, str | None], list[Order]] = {}
    for wanted in [*manager.wanting.values()]:
        for order, place in wanted:
            asked.setdefault((place, order.agent.name, order.rig), []).append(order)
    for (place, *_), orders in [*asked.items()][:_KINDS]:
        found.append((orders[0], place, "", len(orders)))
    return found


async def _order(manager: Manager, entry: Entry) -> Order | None:
    try:
        order = await manager.ledger.queue.order(entry.issue)
        return None if order is None else manager.with_secrets(order)
    except OutpostError:
        return None
