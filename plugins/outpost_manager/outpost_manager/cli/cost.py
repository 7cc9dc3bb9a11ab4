"""What was spent: `cost`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from outpost_manager.cli import render
from outpost_manager.cli.money import budget_lines, forecast_lines
from outpost_manager.cli.outposts import standing_lines
from outpost_manager.cli.session import Session, command
from outpost_manager.ledger.spend import BY, summed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outpost_manager.ledger.spend import Total


@command("cost", anywhere=True)
@click.option("--by", type=click.Choice(BY), default="day", show_default=True,
              help="What the totals are of.")  # fmt: skip
@click.option("--since", metavar="DURATION", default="30d", show_default=True,
              help="Of workers that ended so long ago or later: 1h, 7d; 0 for all.")  # fmt: skip
@click.option("--forecast", is_flag=True,
              help="Also what the queue will cost, and when budgets are used up.")  # fmt: skip
def cost(session: Session, by: str, since: str, forecast: bool) -> None:
    """Show what workers cost, by day, outpost, agent or rig, and the budgets.

    What outposts charged and agents spent, and the agents' tokens. Counts workers whose files were
    cleaned, too, and what running ones have spent so far. Asks no outpost: what is shown is what
    the last command learnt. ~ marks an amount that was estimated from tokens, counted of an agent
    that was ended early, or is the worst case of one that said nothing. What an outpost costs
    without a worker stands below, and in no total: since when it does nobody here knows.

    \b
    Example:
      outpost cost --by agent --since 7d
      outpost cost --forecast
    """
    from outpost_manager import jsonviews
    from outpost_manager.cli.values import duration

    seconds = duration(since, "--since") or 0.0
    found = session.anywhere(lambda manager: manager.spending(by, seconds, forecast), at_once=True)
    session.answer(
        lambda: jsonviews.cost(
            by, found.begin, found.totals, found.standing, found.budgets, found.outlook
        ),
        lambda: [
            *_lines(by, since if seconds else "", found.totals),
            *standing_lines(found.standing),
            *budget_lines(found.budgets),
            *(forecast_lines(found.outlook) if found.outlook is not None else ()),
        ],
    )


def _lines(by: str, since: str, totals: Sequence[Total]) -> Iterator[str]:
    if not totals:
        yield "no workers" + (f" in the last {since}" if since else "")
        return
    whole = summed(totals)
    yield from render.table(
        (by, "workers", "total", "machine", "agent", "tokens in", "cached", "tokens out"),
        [
            (
                one.key or "-",
                str(one.workers),
                approximate(one.total, one.estimated),
                render.money(one.machine),
                approximate(one.agent, one.estimated),
                f"{one.input_tokens:,}",
                f"{one.cached_tokens:,}",
                f"{one.output_tokens:,}",
            )
            for one in ([*totals, whole] if len(totals) > 1 else totals)
        ],
        keep=(by, "total"),
        drop=("cached", "machine", "tokens out", "tokens in", "workers", "agent"),
    )
    if whole.unknown:
        who = render.count(whole.unknown, "worker")
        yield f"  what the agents of {who} spent is not known, and not in it"


def approximate(usd: float | None, estimated: bool) -> str:
    """Return an amount in USD, with ~ before one that is not exact; "" when there is none."""
    return ("~" if estimated and usd else "") + render.money(usd)
