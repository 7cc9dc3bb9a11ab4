"""Budgets and forecasts as lines for people."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from outpost_manager.cli import render
from outpost_manager.cli.outposts import clock
from outpost_manager.ledger.budgets import WARN_AT
from outpost_manager.ledger.money import dollars

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outpost_manager.ledger import Budget
    from outpost_manager.ledger.budgets import Use
    from outpost_manager.placing.forecast import Forecast, Sum

#: Cells of a bar.
_BAR: Final = 20


def budget_lines(budgets: Sequence[tuple[Budget, Use]]) -> Iterator[str]:
    """Yield the table of budgets: what each has used and left, as a bar in a terminal."""
    if not budgets:
        return
    yield ""
    drawn = render.terminal_width() is not None
    yield from render.table(
        ("budget", "window", "used", "reserved", "left", "of", *(["", ""] if drawn else ["share"])),
        [
            (
                one.name,
                one.window,
                render.money(dollars(use.used)),
                render.money(dollars(use.reserved)),
                render.money(dollars(use.left)),
                render.money(one.usd),
                *([bar(use.used / use.cap)] if drawn else []),
                f"{use.used / use.cap:.0%}",
            )
            for one, use in budgets
        ],
        keep=("budget", "left"),
    )
    for one, use in budgets:
        if use.standing:
            yield (
                f"  · {render.clean(one.name)}: {render.money(dollars(use.standing))} of it for"
                " outposts that cost something without a worker, and for machines"
            )
        if use.used >= WARN_AT * use.cap:
            yield f"  → {render.clean(one.name)}: {_left(use)}"


def bar(share: float) -> str:
    """Return a bar for a share from 0 to 1; more is a full one."""
    full = min(_BAR, max(0, round(share * _BAR)))
    return "█" * full + "░" * (_BAR - full)


def _left(use: Use) -> str:
    if not use.left:
        return "it is used up: what counts in it waits until its window has moved"
    return f"{render.money(dollars(use.left))} are left: what may cost more waits"


def forecast_lines(found: Forecast) -> Iterator[str]:
    """Yield what the waiting orders will cost, and what becomes of each budget."""
    whole = found.sum
    usually = f", {render.money(dollars(whole.usual))} as such work has usually cost"
    yield ""
    if not whole.waiting:
        yield "nothing waits in the queue"
        return
    yield (
        f"{render.count(whole.waiting, 'order')} {'waits' if whole.waiting == 1 else 'wait'}:"
        f" {render.money(dollars(whole.worst))} at worst" + (usually if _known(whole) else "")
    )
    if whole.unlimited:
        yield f"  {whole.unlimited:,} of them have no limit: set one with --max-agent-cost"
    if whole.unknown:
        yield f"  {whole.unknown:,} of them are like nothing that has ended in the last 30 days"
    if not found.outlooks:
        return
    yield from render.table(
        ("budget", "waiting", "at worst", "usually", "left", "fit at worst", "fit", "used up"),
        [
            (
                one.budget.name,
                f"{one.sum.waiting:,}",
                render.money(dollars(one.sum.worst)),
                render.money(dollars(one.sum.usual)) if _known(one.sum) else "?",
                render.money(dollars(one.use.left)),
                f"{one.fit_at_worst:,}",
                f"{one.fit_usually:,}" if _known(one.sum) else "?",
                _when(one.used_up_at),
            )
            for one in found.outlooks
        ],
        keep=("budget", "used up"),
    )


def _known(found: Sum) -> bool:
    """Whether anything is known of what such work has cost; of no work it is."""
    return not found.waiting or found.unknown < found.waiting


def _when(moment: float | None) -> str:
    if moment is None:
        return "-"
    return "now" if moment <= time.time() else clock(moment)
