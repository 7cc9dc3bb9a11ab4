"""What happened: `events`, once or for as long as the user looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from outpost_manager import jsonviews
from outpost_manager.cli import complete, output, render
from outpost_manager.cli.session import Session, command, print_json

if TYPE_CHECKING:
    from outpost_core.types import Event
    from outpost_manager.managing import Managing


@command("events", anywhere=True)
@click.argument("worker", required=False, shell_complete=complete.workers)
@click.option("-f", "--follow", "follow_", is_flag=True, help="Show what happens from now on, too.")
@click.option("--after", type=click.IntRange(min=0), metavar="ID",
              help="What happened behind that event, oldest first.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, metavar="N",
              help="So many events at most, before those that are followed.")  # fmt: skip
def events(
    session: Session, worker: str | None, follow_: bool, after: int | None, limit: int
) -> None:
    """Show what happened to workers and outposts.

    The newest events of the log, oldest first, also of what other programs on this machine do.
    WORKER is its id, or an issue's id for its newest attempt; without it, of all. With -f and
    --json, each line is one event.

    \b
    Examples:
      outpost events
      outpost events -f --json --after 1042
    """

    async def work(manager: Managing) -> tuple[list[Event], int]:
        of = (await manager.find(worker)).id if worker is not None else None
        if after is None:
            found, last = await manager.newest_events(of, limit)
        else:
            found, last = await manager.events_after(after, of, limit)
        if not follow_:
            return found, last
        for event in found:
            _print(session, event)
        async for event in manager.events(last):
            if of in (None, event.worker):
                _print(session, event)
        raise AssertionError("the log has no end")

    found, last = session.anywhere(work)
    session.answer(
        lambda: {"events": [*map(jsonviews.event, found)], "last": last},
        lambda: (render.event_line(event, of_many=True) for event in found),
    )


def _print(session: Session, event: Event) -> None:
    import sys

    if session.json:
        print_json(jsonviews.event(event), one_line=True)
    else:
        output.echo(render.event_line(event, of_many=True))
    sys.stdout.flush()
