"""Whether a machine may be started for all that may be spent, asked inside a write transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from outpost_core.errors import PlacementError
from outpost_manager.ledger import budgets, machines, money, rows, values

if TYPE_CHECKING:
    import sqlite3

    from outpost_manager.ledger.budgets import Budget


def within_cap(
    db: sqlite3.Connection, outpost: str, cost: int, cap: float | None, now: float
) -> None:
    """See to it that a machine fits into the cap beside what workers hold and have spent.

    Args:
        db: the connection.
        outpost: whose machine.
        cost: nano-dollars that it costs an hour.
        cap: USD that the outpost may cost in any hour; None for any.
        now: seconds since the epoch.

    Raises:
        PlacementError: it does not.
    """
    if cap is None:
        return
    most = money.nano(cap, f"cost_cap_hourly of {outpost}")
    ((used,),) = db.execute(
        f"SELECT coalesce((SELECT cost FROM held WHERE outpost = ?), 0) + {rows.SETTLED_AT}",  # noqa: S608
        (outpost, outpost, now - money.HOUR),
    ).fetchall()
    if used + cost > most:
        raise PlacementError(
            f"{outpost} would cost {money.show(cost)} an hour; {money.show(used)} of the"
            f" {money.show(most)} of its cost_cap_hourly are reserved or spent",
            hint="raise cost_cap_hourly, or wait until its workers have ended",
        )


def within_budgets(
    db: sqlite3.Connection, outpost: str, cost: int, some: Sequence[Budget], now: float
) -> None:
    """See to it that an hour of a machine fits into the budgets that it counts in.

    Args:
        db: the connection.
        outpost: whose machine.
        cost: nano-dollars that it costs an hour.
        some: all budgets that are configured.
        now: seconds since the epoch.

    Raises:
        PlacementError: it does not.
    """
    before = machines.hourly(db, outpost)
    for budget in some:
        if not budget.counts_places(outpost):
            continue
        meter = budgets.meter(budget)
        more = cost - max(before, budgets.standing_of(budget, outpost))
        used = meter.use(values.asking(db), now).used
        if more > 0 and used + more > meter.cap:
            raise PlacementError(
                f"{outpost} would cost {money.show(cost)} an hour; budget {budget.name}:"
                f" {money.show(used)} of {money.show(meter.cap)} are reserved or spent in the last"
                f" {budgets.SAID[budget.window]}",
                hint="raise the budget, or wait until its window has moved",
            )
