"""`outpost schedule`: when what fires next, and one more firing by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import click

from outpost_manager.cli.session import Group, Session, command
from outpost_mayor.schedules.view import Shown, fire, read, shape, view

if TYPE_CHECKING:
    from outpost_manager.remote.manager import RemoteManager

schedule = Group(
    "schedule",
    short_help="Show what fires when, and have it fire.",
    help="Show what fires when, and have it fire.\n\nSchedules stand in `schedules` of"
    " outposts.yaml; `outpost serve` fires them.\n\n\b\nExamples:\n  outpost schedule list\n"
    "  outpost schedule run nightly",
)


@command("list", anywhere=True)
@click.option("--count", type=click.IntRange(1, 100), default=3, show_default=True, metavar="N",
              help="So many next times of each.")  # fmt: skip
def list_(session: Session, count: int) -> None:
    """List the schedules, with the next times at which they fire.

    \b
    Examples:
      outpost schedule list
      outpost schedule list --count 10 --json
    """

    if session.far:
        found = session.at_server(lambda manager: _there(manager, count))
    else:
        found = session.run(lambda manager: view(manager, count))
    session.answer(lambda: {"schedules": [*map(shape, found)]}, lambda: _lines(found))


async def _there(manager: RemoteManager, count: int) -> list[Shown]:
    from outpost_manager.remote.fields import Fields

    said = await manager.client.get("/v1/schedules", {"count": count})
    return manager.each(lambda data: read(Fields("a schedule", data)), said, "schedules")


def _lines(found: list[Shown]) -> Iterator[str]:
    from outpost_manager.cli import render

    if not found:
        yield "no schedules; write some under `schedules` in outposts.yaml"
        return
    rows = []
    for one in found:
        zone = _zone(one.timezone)
        times = [f"{datetime.fromtimestamp(at, zone):%a %Y-%m-%d %H:%M}" for at in one.next]
        state = "fires" if one.enabled else "off"
        rows.append((one.name, one.cron, one.timezone, state, ", ".join(times) or "never"))
    yield from render.table(
        ("schedule", "cron", "time zone", "state", "next"), rows, keep=("schedule",)
    )
    for one in found:
        if one.error:
            yield render.clean(f"{one.name}: {one.error}")


def _zone(name: str) -> tzinfo:
    """Return a zone; UTC where this machine does not know one of the server's."""
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError):
        return UTC


@command("run", anywhere=True)
@click.argument("name")
def run(session: Session, name: str) -> None:
    """Put what a schedule orders into the queue now, besides its own firings.

    \b
    Examples:
      outpost schedule run nightly
    """

    if session.far:
        issue = session.at_server(lambda manager: _fire_there(manager, name))
    else:
        issue = session.run(lambda manager: fire(manager, name))
    session.answer(lambda: {"issue": issue}, lambda: [f"{issue} is in the queue"])


async def _fire_there(manager: RemoteManager, name: str) -> str:
    from outpost_manager.remote.client import segment
    from outpost_manager.remote.fields import Fields

    said = await manager.client.post(f"/v1/schedules/{segment(name)}/run")
    return manager.read(lambda data: Fields.of_answer(data).text("issue"), said)


schedule.add_command(list_)
schedule.add_command(run)
