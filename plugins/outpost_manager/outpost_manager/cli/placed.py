"""What became of orders: said, waited for, followed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from outpost_core.errors import OutpostError
from outpost_manager import jsonviews
from outpost_manager.cli import output, render
from outpost_manager.cli.existing import found_lines, renewed_lines
from outpost_manager.cli.follow import follow, writer
from outpost_manager.cli.workers import end_line, exit_code, keeps_running
from outpost_manager.placing import references

if TYPE_CHECKING:
    from outpost_core.types import Worker
    from outpost_manager.cli.progress import Progress
    from outpost_manager.cli.session import Session
    from outpost_manager.managing import Managing
    from outpost_manager.placing.pending import Spawned


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What became of some orders.

    Args:
        spawned: those whose worker is there.
        refused: issues of those that were not taken, and why.
        output: `Agent.output` of the first.
        interactive: whether its agent runs on a terminal.
    """

    spawned: Sequence[Spawned]
    refused: Sequence[tuple[str, OutpostError]]
    output: str
    interactive: bool


async def finish(
    session: Session,
    manager: Managing,
    placed: Placed,
    progress: Progress,
    *,
    follow_: bool,
    wait: bool,
) -> int:
    """Print what became of orders, after waiting for them where that is asked; the exit code.

    Args:
        session: of this command.
        manager: an open one.
        placed: what became of them; why some were refused has been said.
        progress: is told each step.
        follow_: print the output of the first until it has ended.
        wait: return when all have ended.
    """
    workers = [one.worker for one in placed.spawned]
    session.going_on = keeps_running([w.id for w in workers]) if workers else ""
    for line in renewed_lines(placed.spawned):
        session.note(line)
    fresh = [one for one in placed.spawned if not one.adopted]
    for note in dict.fromkeys(note for one in fresh for note in one.explanation.notes):
        session.note(f"note: {render.clean(note)}")
    if not (follow_ or wait):
        return _answer(session, placed, {})
    waiting = asyncio.ensure_future(
        manager.wait([references.exact(w.id) for w in workers], on_change=progress.worker)
    )
    try:
        if follow_ and workers:
            write = writer(kind=placed.output, to_stderr=session.json, following=True)
            await follow(manager, workers[0].id, write, progress)
        ended = await waiting
    finally:
        waiting.cancel()
    progress.close()
    return _answer(session, placed, {w.id: w for w in ended}, followed=follow_)


def _answer(
    session: Session, placed: Placed, ended: dict[str, Worker], *, followed: bool = False
) -> int:
    """Print what became of each order and return the exit code."""
    spawned, errors = placed.spawned, placed.refused

    def data() -> object:
        return {
            "spawned": [
                jsonviews.spawned(s)
                | {"worker": jsonviews.worker(ended.get(s.worker.id, s.worker))}
                for s in spawned
            ],
            "refused": [jsonviews.refused(issue, error) for issue, error in errors],
            "hints": session.hints,
        }

    def lines() -> Iterator[str]:
        for one in spawned:
            worker = ended.get(one.worker.id, one.worker)
            if one.adopted and (not ended or one.worker.state.terminal):
                yield from found_lines(worker)
            else:
                yield end_line(worker, None if followed else session.presets())

    if followed and not session.json:  # standard output is the worker's own
        for line in lines():
            output.echo(line, err=True)
    else:
        session.answer(data, lines)
    if spawned and not ended and sys.stderr.isatty():
        verb = "attach" if placed.interactive else "logs -f"
        session.note(f"  → outpost {verb} {spawned[0].worker.id}")
    if errors:
        return errors[0][1].exit_code
    there = [one.worker for one in spawned if one.adopted and one.worker.state.terminal]
    return exit_code([*ended.values(), *there])
