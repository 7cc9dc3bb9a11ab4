"""`outpost batch`: orders that belong together."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import click

from outpost_core.errors import NotFoundError, OutpostError
from outpost_manager.cli import output, render
from outpost_manager.cli.queued import table
from outpost_manager.cli.session import Session, command
from outpost_manager.jsonqueue import as_json
from outpost_manager.placing import references

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outpost_manager.ledger import Entry
    from outpost_manager.manager import Manager

_ALL: Final = ("waiting", "running", "settling", "ended")


@command("batch")
@click.argument("name")
@click.option("--wait", is_flag=True, help="Return when all of it has ended.")
@click.option("--stop", is_flag=True, help="Take out what waits, and stop what runs.")
@click.option("--retry", is_flag=True, help="Queue again what failed, was stopped or lost.")
def batch(session: Session, name: str, wait: bool, stop: bool, retry: bool) -> None:
    """Sum up a batch, wait for it, stop it, or try again what failed of it.

    Exit code 1 when something of it has failed.

    \b
    Examples:
      outpost batch night
      outpost batch night --wait
      outpost batch night --retry
    """
    if stop and (retry or wait):
        raise click.UsageError("--stop goes alone")

    async def work(manager: Manager) -> tuple[list[Entry], float | None, list[str], list[str]]:
        queue = manager.ledger.queue
        entries = await queue.entries(states=_ALL, batch=name)
        if not entries:
            raise NotFoundError(f"there is no batch {name[:80]!a}", hint="outpost queue list --all")
        stopped = await _stop(session, manager, entries) if stop else []
        again = await _retry(session, manager, entries) if retry else []
        if wait:
            from outpost_mayor.commands.following import follow

            session.going_on = "Interrupted; workers keep running, and what waits stays queued"
            await follow(session, manager, wanted=lambda one: one.batch == name)
        entries = await queue.entries(states=_ALL, batch=name)
        return entries, await _cost(manager, entries), stopped, again

    entries, cost, stopped, again = session.run(work)
    counts = Counter(one.outcome or one.state for one in entries)

    def lines() -> Iterator[str]:
        yield from table(entries)
        said = " · ".join(f"{number} {render.tint(word)}" for word, number in counts.items())
        yield f"{said}{'' if cost is None else f' · {cost:.2f} USD'}"
        for issue in again:
            yield f"{render.clean(issue)} waits in the queue again"
        for worker in stopped:
            yield f"{render.clean(worker)} was told to stop"

    session.answer(
        lambda: {
            "batch": name, "entries": [*map(as_json, entries)], "counts": dict(counts),
            "cost": cost, "stopped": stopped, "again": again,
        },
        lines,
    )  # fmt: skip
    click.get_current_context().exit(int(any(one.outcome in ("failed", "lost") for one in entries)))


async def _stop(session: Session, manager: Manager, entries: list[Entry]) -> list[str]:
    for entry in entries:
        if entry.state == "waiting":
            try:
                await manager.ledger.queue.remove([entry.issue])
            except OutpostError:  # it has just begun
                entry = await manager.ledger.queue.entry(entry.issue) or entry  # noqa: PLW2901
    told = []
    for entry in await manager.ledger.queue.entries(states=("running",), batch=entries[0].batch):
        try:
            await manager.stop(references.exact(entry.worker))
            told.append(entry.worker)
        except OutpostError as error:
            session.note(output.error(f"{entry.worker}: {error}"))
    return told


async def _retry(session: Session, manager: Manager, entries: list[Entry]) -> list[str]:
    again = []
    for entry in entries:
        if entry.outcome not in ("failed", "stopped", "lost"):
            continue
        try:
            found = await manager.further.retry(entry.issue)
            await manager.enqueue([found.order], on=found.on, batch=entry.batch)
            again.append(entry.issue)
        except OutpostError as error:
            session.note(output.error(f"{entry.issue}: {error}"))
    return again


async def _cost(manager: Manager, entries: list[Entry]) -> float | None:
    known = [
        worker.cost
        for entry in entries
        for worker in await manager.ledger.attempts(entry.issue)
        if worker.cost is not None
    ]
    return sum(known) if known else None
