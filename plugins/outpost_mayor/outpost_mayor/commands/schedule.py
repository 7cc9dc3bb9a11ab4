"""`outpost schedule`: when what fires next, and one more firing by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

from outpost_core.errors import NotFoundError
from outpost_core.nearest import suggest
from outpost_manager.cli.session import Group, Session, command
from outpost_mayor.schedules.view import shape, view

if TYPE_CHECKING:
    from outpost_manager.manager import Manager

schedule = Group(
    "schedule",
    short_help="Show what fires when, and have it fire.",
    help="Show what fires when, and have it fire.\n\nSchedules stand in `schedules` of"
    " outposts.yaml; `outpost serve` fires them.\n\n\b\nExamples:\n  outpost schedule list\n"
    "  outpost schedule run nightly",
)


@command("list")
@click.option("--count", type=click.IntRange(1, 100), default=3, show_default=True, metavar="N",
              help="So many next times of each.")  # fmt: skip
def list_(session: Session, count: int) -> None:
    """List the schedules, with the next times at which they fire.

    \b
    Examples:
      outpost schedule list
      outpost schedule list --count 10 --json
    """

    found = session.run(lambda manager: view(manager, count))
    session.answer(lambda: {"schedules": [*map(shape, found)]}, lambda: _lines(found))


def _lines(found: list[dict[str, Any]]) -> Iterator[str]:
    from outpost_manager.cli import render

    if not found:
        yield "no schedules; write some under `schedules` in outposts.yaml"
        return
    rows = []
    for each in found:
        one = each["schedule"]
        zone = ZoneInfo(one.timezone)
        times = [f"{datetime.fromtimestamp(at, zone):%a %Y-%m-%d %H:%M}" for at in each["next"]]
        state = "fires" if one.enabled else "off"
        rows.append((one.name, one.cron, one.timezone, state, ", ".join(times) or "never"))
    yield from render.table(
        ("schedule", "cron", "time zone", "state", "next"), rows, keep=("schedule",)
    )
    for each in found:
        if each["error"]:
            yield render.clean(f"{each['schedule'].name}: {each['error']}")


@command("run")
@click.argument("name")
def run(session: Session, name: str) -> None:
    """Put what a schedule orders into the queue now, besides its own firings.

    \b
    Examples:
      outpost schedule run nightly
    """

    async def work(manager: Manager) -> str:
        from outpost_mayor.schedules.scheduler import items_of
        from outpost_mayor.schedules.times import issue_of

        for one in manager.config.schedules:
            if one.name == name:
                issue = issue_of(one, time.time())
                await manager.ledger.queue.add(await items_of(manager, one, issue))
                return issue
        known = [one.name for one in manager.config.schedules]
        raise NotFoundError(f"there is no schedule {name[:80]!a}", hint=suggest(name, known))

    issue = session.run(work)
    session.answer(lambda: {"issue": issue}, lambda: [f"{issue} is in the queue"])


schedule.add_command(list_)
schedule.add_command(run)
