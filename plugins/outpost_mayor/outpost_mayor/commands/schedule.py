"""`outpost schedule`: when what fires next, and one more firing by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import click

from outpost_core.errors import NotFoundError, OutpostError
from outpost_core.nearest import suggest
from outpost_manager.cli.session import Group, Session, command
from outpost_manager.jsonviews import moment

if TYPE_CHECKING:
    from outpost_manager.config.schedules import ScheduleConfig
    from outpost_manager.manager import Manager

#: What `--json` answers, by command.
SHAPES: Final[dict[str, Any]] = {
    "schedule list": {
        "schedules": [
            {
                "name": "its name", "cron": "when", "timezone": "in which time zone",
                "enabled": True, "catch_up": "none, last or all", "last": "moment or null",
                "next": ["moments"], "error": "why it cannot fire, or null",
            }
        ]
    },
    "schedule run": {"issue": "the issue that is in the queue"},
}  # fmt: skip

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

    async def work(manager: Manager) -> list[dict[str, Any]]:
        last = await manager.ledger.firings.last()
        return [await _shown(manager, one, last, count) for one in manager.config.schedules]

    found = session.run(work)
    session.answer(lambda: {"schedules": [_shape(one) for one in found]}, lambda: _lines(found))


async def _shown(
    manager: Manager, one: ScheduleConfig, last: dict[str, float], count: int
) -> dict[str, Any]:
    from outpost_mayor.schedules.scheduler import order_of
    from outpost_mayor.schedules.times import issue_of, next_times

    now, error, times = time.time(), None, list[float]()
    try:
        times = next_times(one, now, count)
        await order_of(manager, one, issue_of(one, now))
    except OutpostError as wrong:
        error = wrong.message
    return {"schedule": one, "last": last.get(one.key), "next": times, "error": error}


def _shape(found: dict[str, Any]) -> dict[str, Any]:
    one = found["schedule"]
    return {
        "name": one.name, "cron": one.cron, "timezone": one.timezone, "enabled": one.enabled,
        "catch_up": one.catch_up.value, "last": moment(found["last"]),
        "next": [moment(at) for at in found["next"]], "error": found["error"],
    }  # fmt: skip


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
