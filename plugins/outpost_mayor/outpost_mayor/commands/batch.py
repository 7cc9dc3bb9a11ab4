"""`outpost batch`: orders that belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import click

from outpost_core.errors import OutpostError, UnreachableError
from outpost_manager.cli import output, render
from outpost_manager.cli.queued import table
from outpost_manager.cli.session import Session, command
from outpost_manager.remote import parse
from outpost_manager.remote.client import segment
from outpost_manager.remote.fields import Fields
from outpost_mayor import batches
from outpost_shared.backoff import every, reaching_again

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outpost_manager.ledger import Entry
    from outpost_manager.manager import Manager
    from outpost_manager.remote.manager import RemoteManager

#: Entries, USD, workers that were told to stop, issues that are queued again.
_Found: TypeAlias = "tuple[list[Entry], float | None, list[str], list[str]]"
#: Seconds between two looks at a batch of a server.
_LOOK: Final = 2.0


@command("batch", anywhere=True)
@click.argument("name")
@click.option("--wait", is_flag=True, help="Return when all of it has ended.")
@click.option("--stop", is_flag=True, help="Take out what waits, and stop what runs.")
@click.option("--retry", is_flag=True, help="Queue again what failed, was stopped or lost.")
def batch(session: Session, name: str, wait: bool, stop: bool, retry: bool) -> None:
    """Sum up a batch, wait for it, stop it, or try again what failed of it.

    `outpost queue batches` lists them. Exit code 1 when something of it has failed.

    \b
    Examples:
      outpost batch night
      outpost batch night --wait
      outpost batch night --retry
    """
    if stop and (retry or wait):
        raise click.UsageError("--stop goes alone")

    async def work(manager: Manager) -> _Found:
        refused = dict[str, OutpostError]()
        entries = await batches.entries(manager, name)
        stopped, again = list[str](), list[str]()
        if stop:
            stopped, refused = await batches.stop(manager, entries)
        if retry:
            again, refused = await batches.retry(manager, entries)
        if wait:
            from outpost_mayor.commands.following import follow

            session.going_on = "Interrupted; workers keep running, and what waits stays queued"
            await follow(session, manager, wanted=lambda one: one.batch == name)
        for one, error in refused.items():
            session.note(output.error(f"{one}: {error}"))
        entries = await batches.entries(manager, name)
        return entries, await batches.cost(manager, entries), stopped, again

    if session.far:
        verb = "stop" if stop else "retry" if retry else ""
        session.going_on = "Interrupted; the server goes on with it"
        found = session.at_server(lambda manager: _there(manager, name, verb, wait=wait))
    else:
        found = session.run(work)
    entries, cost, stopped, again = found
    counts = batches.counts(entries)

    def lines() -> Iterator[str]:
        yield from table(entries)
        said = " · ".join(f"{number} {render.tint(word)}" for word, number in counts.items())
        yield f"{said}{'' if cost is None else f' · {cost:.2f} USD'}"
        for issue in again:
            yield f"{render.clean(issue)} waits in the queue again"
        for worker in stopped:
            yield f"{render.clean(worker)} was told to stop"

    session.answer(
        lambda: batches.shape(name, entries, cost, stopped, again),
        lines,
    )  # fmt: skip
    click.get_current_context().exit(int(any(one.outcome in ("failed", "lost") for one in entries)))


async def _there(manager: RemoteManager, name: str, verb: str, *, wait: bool) -> _Found:
    """Have a server sum up a batch, after it stopped it or tried it again."""
    path, client = f"/v1/batches/{segment(name)}", manager.client
    said = await (client.post(f"{path}/{verb}") if verb else client.get(path))
    answer = manager.read(Fields.of_answer, said)
    stopped, again = manager.read(lambda one: (one.words("stopped"), one.words("again")), answer)
    entries = manager.each(parse.entry, said, "entries")
    looks, away = every(_LOOK), reaching_again()
    while wait and any(one.state != "ended" for one in entries):
        await looks.wait()
        try:
            said = await client.get(path)
            away.reset()
        except UnreachableError:  # it goes on without us, and may be back soon
            await away.wait()
        entries = manager.each(parse.entry, said, "entries")
    cost = manager.read(lambda one: Fields.of_answer(one).real_or("cost"), said)
    return entries, cost, [*stopped], [*again]
