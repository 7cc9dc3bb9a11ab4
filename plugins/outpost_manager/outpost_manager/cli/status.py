"""`outpost status`: the outposts, what works there, and what ended since yesterday."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from outpost_manager.cli import complete, output, render
from outpost_manager.cli.outposts import outpost_lines, view_shapes
from outpost_manager.cli.session import Session, command, print_json
from outpost_manager.cli.table import counts, worker_lines

if TYPE_CHECKING:
    import asyncio

    from outpost_core.types import Worker
    from outpost_manager.fleet.overview import OutpostView
    from outpost_manager.managing import Managing

#: Seconds for which an ended worker is shown.
_SINCE: Final = 86400.0
#: At most so many ended workers are shown where the height is not that of a window.
_MOST_ENDED: Final = 20
#: Lines of a table that is cut: its head, a row, and how many more there are.
_LEAST: Final = 3


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What was seen at one moment."""

    views: Sequence[OutpostView]
    workers: Sequence[Worker]
    ended: Sequence[Worker]

    def shape(self) -> dict[str, object]:
        from outpost_manager import jsonviews

        return {
            "outposts": view_shapes(self.views),
            "workers": [*map(jsonviews.worker, self.workers)],
            "ended": [*map(jsonviews.worker, self.ended)],
        }


@command("status", anywhere=True)
@click.argument("name", required=False, shell_complete=complete.outposts)
@click.option(
    "--watch", is_flag=True, help="Continue, and draw anew when something may have changed."
)
@click.option("--interval", default=2.0, type=click.FloatRange(min=0.1), show_default=True,
              metavar="SECONDS", help="How often, with --watch.")  # fmt: skip
def status(session: Session, name: str | None, watch: bool, interval: float) -> None:
    """Ask the outposts and show their active workers, and what ended since yesterday.

    With NAME: that outpost alone. With --watch until Ctrl-C, on a screen of its own that fits the
    window; with --json too, one line each time.

    \b
    Example:
      outpost status --watch
    """

    async def work(manager: Managing) -> None:
        import asyncio

        if watch and not session.json and sys.stdout.isatty():
            await _watch_screen(manager, name, interval)
            return
        seen: set[str] = set()
        while True:
            look = await _look(manager, name, seen)
            if session.json:
                print_json(look.shape(), one_line=watch)
            else:
                output.echo("\n".join(_lines(look, rows=None)))
            if not watch:
                return
            await asyncio.sleep(interval)

    session.anywhere(work)


async def _watch_screen(manager: Managing, name: str | None, interval: float) -> None:
    import asyncio

    from outpost_manager.cli.screen import Screen

    changed = asyncio.Event()
    look = None
    with Screen(changed) as screen:
        screen.show(["asking the outposts …"])
        asked = asyncio.ensure_future(_look(manager, name, set()))
        try:
            while True:
                await _first(asked, changed)
                if asked.done():
                    look = asked.result()
                    asked = asyncio.ensure_future(_later(manager, name, interval))
                if look is not None:
                    screen.show(_lines(look, rows=screen.size()[1]))
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)


async def _first(asked: asyncio.Future[_Look], changed: asyncio.Event) -> None:
    """Wait for an answer or another size of the window; forgets that the size changed."""
    import asyncio

    # a signal's handler sets the event, and does not wake the loop by itself
    while not asked.done() and not changed.is_set():
        await asyncio.wait({asked}, timeout=0.1)
    changed.clear()


async def _later(manager: Managing, name: str | None, interval: float) -> _Look:
    import asyncio

    await asyncio.sleep(interval)
    return await _look(manager, name, set())


async def _look(manager: Managing, name: str | None, seen: set[str]) -> _Look:
    """Ask the outposts.

    Args:
        manager: an open one.
        name: this outpost alone, or None for all.
        seen: workers that were active before: they stay among them when they have ended.
    """
    views = await manager.refresh(None if name is None else [name])
    workers = await manager.workers(refresh=False)
    ended = await manager.ended_since(time.time() - _SINCE)
    ended.sort(key=lambda worker: worker.finished_at or 0.0, reverse=True)
    if name is not None:
        views = [view for view in views if view.name == name]
        workers = [worker for worker in workers if worker.outpost == name]
        ended = [worker for worker in ended if worker.outpost == name]
    active = {worker.id for worker in workers}
    if gone := seen - active:
        workers += await manager.those(sorted(gone))
    seen |= active
    return _Look(views=views, workers=workers, ended=ended)


def _lines(look: _Look, rows: int | None) -> list[str]:
    """Return what is shown.

    Args:
        look: what was seen.
        rows: lines that there is room for; None where there is no end.
    """
    head = [f"now: {counts(look.workers) or 'no workers'}"]
    if look.ended:
        head.append(f"ended since yesterday: {counts(look.ended)}")
    top = [*head, "", *outpost_lines(look.views), ""]
    if rows is None:
        parts = [[*worker_lines(look.workers)]] if look.workers else []
        if look.ended:
            parts.append(_table("ended since yesterday", look.ended, _MOST_ENDED + 3))
        return [*top[:-1], *(line for part in parts for line in ("", *part))]
    rows -= 1  # the last line says how to leave
    room = max(rows - len(top), _LEAST)
    workers, ended = [*worker_lines(look.workers)], len(look.ended) + 2 if look.ended else 0
    least = min(ended + 1, _LEAST + 2) if ended else 0
    lines = [*top, *_cut(workers, max(room - least, _LEAST))]
    if look.ended and (left := rows - len(lines) - 1) >= _LEAST:
        lines += ["", *_table("ended since yesterday", look.ended, left)]
    lines = lines[:rows]
    lines += [""] * (rows - len(lines))
    at = time.strftime("%H:%M:%S")
    return [*lines, output.style(f"{at} · Ctrl-C ends the watch; workers keep running", dim=True)]


def _table(title: str, workers: Sequence[Worker], rows: int) -> list[str]:
    return [output.style(title, bold=True), *_cut([*worker_lines(workers)], rows - 1)]


def _cut(lines: list[str], rows: int) -> list[str]:
    """Return the first lines of a table, and how many more there are, in so many rows."""
    if len(lines) <= rows:
        return lines
    kept = lines[: max(rows - 1, 1)]
    more = len(lines) - len(kept)
    return [*kept, render.clean(f"… {more} more: outpost workers --all --since 24h")]
