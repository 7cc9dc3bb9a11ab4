"""The accounts of agents: `accounts`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from outpost_manager.cli import render
from outpost_manager.cli.outposts import breaker_line, clock
from outpost_manager.cli.session import Session, command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outpost_manager.managing import Managing
    from outpost_manager.placing.accountviews import AccountView, Allowance


@command("accounts", anywhere=True)
@click.option("--reset", metavar="NAME", multiple=True,
              help="Close the breaker of an account first: it is used again at once.")  # fmt: skip
@click.option("--unpark", metavar="NAME", multiple=True,
              help="End the parking of an account first, whatever its provider said.")  # fmt: skip
def accounts(session: Session, reset: tuple[str, ...], unpark: tuple[str, ...]) -> None:
    """List the accounts of agents: what each has taken, and what keeps it.

    Those of `accounts` in outposts.yaml, and those of other agents of which something is known: an
    agent without accounts is its own. Nobody is asked.

    \b
    Example:
      outpost accounts
      outpost accounts --reset team-a
      outpost accounts --unpark claude
    """

    async def work(manager: Managing) -> list[AccountView]:
        for name in reset:
            await manager.reset_breaker("account", name)
        for name in unpark:
            await manager.unpark(name)
        return await manager.accounts()

    views = session.anywhere(work, at_once=True)

    def data() -> object:
        from outpost_manager import jsonviews

        return {"accounts": [*map(jsonviews.account, views)]}

    session.answer(data, lambda: _lines(views))


def _lines(views: Sequence[AccountView]) -> Iterator[str]:
    if not views:
        yield "no accounts: outposts.yaml names none, and no agent works now"
        return
    yield from render.table(
        ("account", "agent", "running", "used", "state"),
        [
            (
                view.name,
                view.agent,
                f"{view.running}/{'∞' if view.max_workers is None else view.max_workers}",
                ", ".join(map(_allowance, view.allowances)) or "-",
                _state(view),
            )
            for view in views
        ],
        keep=("account", "running"),
        colour=("state",),
    )
    for view in views:
        for one in view.parked:
            what = f" for {one.model}" if one.model else ""
            yield render.clean(
                f"  · {view.name} is parked{what} until {clock(one.until)}: {one.reason}"
            )
        if view.parked:
            yield f"    → outpost accounts --unpark {render.clean(view.name)} uses it again at once"
        if view.breaker is not None and view.breaker.state != "closed":
            yield f"  · {render.clean(breaker_line(view.breaker))}"
            yield f"    → outpost accounts --reset {render.clean(view.name)} uses it again at once"


def _state(view: AccountView) -> str:
    if view.parked and any(not one.model for one in view.parked):
        return "parked"
    if view.breaker is not None and view.breaker.state != "closed":
        return view.breaker.state
    return "ready"


def _allowance(one: Allowance) -> str:
    if one.unit == "usd":
        return f"{render.money(one.used)} of {render.money(one.most)} a {one.window}"
    return f"{one.used:,.0f} of {one.most:,.0f} tokens a {one.window}"
