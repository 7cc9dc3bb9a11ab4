"""`outpost queue`: what waits for a place."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from outpost_manager.cli import complete, output, render
from outpost_manager.cli.orderflags import order_options, requests_of
from outpost_manager.cli.queued import entry_lines, queue_requests, table
from outpost_manager.cli.session import Group, Session, command
from outpost_manager.cli.spawn import OrderCommand, after_dashes
from outpost_manager.cli.values import priority
from outpost_manager.jsonqueue import as_json
from outpost_manager.ledger.entries import ENDED, LIVE, waits
from outpost_manager.ledger.turns import SWITCH
from outpost_manager.orders.words import moment
from outpost_mayor import batches
from outpost_mayor.waiting import queue_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from outpost_manager.ledger import Entry
    from outpost_manager.manager import Manager
    from outpost_manager.managing import Managing
    from outpost_manager.remote.manager import RemoteManager
    from outpost_mayor.waiting import Listed

queue = Group(
    "queue",
    short_help="Have orders wait for a place.",
    help="Have orders wait for a place, and look at what waits.\n\n"
    "Orders wait durably. `outpost serve` places them as slots become free; without it,"
    " `outpost queue run` does so once.\n\n"
    "\b\nExamples:\n  outpost queue add --from-file issues.jsonl\n  outpost queue list\n"
    "  outpost queue run",
)


@command("add", cls=OrderCommand, anywhere=True)
@order_options
@click.option("--on", metavar="OUTPOST", shell_complete=complete.outposts,
              help="At this outpost and no other.")  # fmt: skip
@click.option("--after", multiple=True, metavar="ISSUE", shell_complete=complete.issues,
              help="Start when this one is done; repeat it for several.")  # fmt: skip
@click.option("--not-before", metavar="TIME",
              help="Start then or later: 2026-01-31T08:00, 22:00, or in so long: 2h.")  # fmt: skip
@click.option("--batch", metavar="NAME", help="What they belong to, for outpost batch.")
@click.option("--retry", "retries", type=click.IntRange(0, 1000), default=0, metavar="N",
              help="Repeat up to N times what its agent says itself that it failed.")  # fmt: skip
def add(
    session: Session,
    on: str | None,
    after: tuple[str, ...],
    not_before: str | None,
    batch: str | None,
    retries: int,
    **said: Any,
) -> None:
    """Put orders into the queue; takes what spawn takes.

    The same command again finds the same entries. Values of secrets are never kept: they are taken
    from the environment of whoever works on the queue.

    \b
    Examples:
      outpost queue add fix-login --title "Login fails with an empty password"
      outpost queue add --from-file issues.jsonl --batch night --not-before 22:00
      outpost queue add login-docs --title "Say how to log in" --after fix-login
    """
    queue_requests(
        session,
        requests_of(said, after_dashes()),
        on=on,
        batch=batch or "",
        after=after,
        not_before=moment(not_before, "--not-before"),
        retries=retries,
    )


@command("list", anywhere=True)
@click.option("--all", "all_", is_flag=True, help="Those that have ended too.")
@click.option("--batch", metavar="NAME", default="", help="Only this batch.")
@click.option("--limit", type=click.IntRange(min=0), default=100, show_default=True, metavar="N",
              help="At most so many; 0 for all.")  # fmt: skip
def list_(session: Session, all_: bool, batch: str, limit: int) -> None:
    """Show what waits and runs, the next first.

    \b
    Examples:
      outpost queue list --batch night
      outpost queue list --limit 0 --json
    """

    async def work(manager: Managing) -> Listed:
        waiting = queue_of(manager)
        found = await waiting.listed(LIVE, batch, limit or -1)
        if not all_:
            return found
        left = limit - len(found.entries) if limit else -1
        ended = await waiting.listed((ENDED,), batch, left or 1)
        shown = ended.entries if left else ()
        more = found.more + ended.more + len(ended.entries) - len(shown)
        return replace(ended, entries=[*found.entries, *shown], more=more)

    found = session.anywhere(work)
    entries, counts, more, switch = found.entries, found.counts, found.more, found.switch
    nobody = not switch and counts.get("waiting") and not session.far and _no_mayor(session)

    def lines() -> Iterator[str]:
        if switch:
            yield output.style(f"the queue is {switch}", fg="yellow") + ": outpost queue resume"
        yield from table(entries)
        if more:
            yield f"and {more:,} more: --limit 0 shows all"
        if entries:
            yield " · ".join(
                f"{counts[state]} {state}" for state in ("waiting", "running") if counts.get(state)
            )
        if nobody:
            yield "no mayor runs, which would place them: outpost serve, or outpost queue run once"

    session.answer(
        lambda: {
            "entries": [*map(as_json, entries)], "counts": counts, "more": more, "switch": switch,
        },
        lines,
    )  # fmt: skip


def _no_mayor(session: Session) -> bool:
    from outpost_mayor.serving import lease
    from outpost_shared.paths import state_dir

    try:
        return lease.holder(session.state or state_dir(os.environ)) is None
    except OSError:
        return False


@command("show", anywhere=True)
@click.argument("issue", shell_complete=complete.issues)
def show(session: Session, issue: str) -> None:
    """Show one entry, and why it waits.

    \b
    Example:
      outpost queue show gt-1
    """

    entry, needs = session.anywhere(lambda manager: queue_of(manager).entry(issue))
    session.answer(
        lambda: {"entry": as_json(entry), "needs": needs}, lambda: entry_lines(entry, needs)
    )


@command("batches", anywhere=True)
def batches_(session: Session) -> None:
    """List the batches, the newest first, and what became of them.

    \b
    Example:
      outpost queue batches
    """
    found = session.anywhere(lambda manager: queue_of(manager).batches())

    def lines() -> Iterator[str]:
        if not found:
            yield "no batches: outpost queue add --batch NAME makes one"
            return
        now = time.time()
        yield from render.table(
            ("batch", "added", "what became of it"),
            [
                (
                    one.name,
                    render.ago(one.added_at, now),
                    " · ".join(f"{number} {word}" for word, number in one.counts.items()),
                )
                for one in found
            ],
            keep=("batch",),
        )

    session.answer(lambda: {"batches": [batches.brief(*one) for one in found]}, lines)


@command("remove", anywhere=True)
@click.argument("issues", nargs=-1, required=True, shell_complete=complete.issues)
def remove(session: Session, issues: tuple[str, ...]) -> None:
    """Take waiting orders out of the queue; all or none.

    \b
    Example:
      outpost queue remove gt-1
    """
    removed = session.anywhere(lambda manager: queue_of(manager).remove(issues))
    session.answer(
        lambda: {"removed": [*map(as_json, removed)]},
        lambda: (f"{render.clean(one.issue)} is out of the queue" for one in removed),
    )


@command("move", anywhere=True)
@click.argument("issue", shell_complete=complete.issues)
@click.argument("priority", metavar="P0..P4", shell_complete=complete.priorities)
def move(session: Session, issue: str, **said: str) -> None:
    """Give a waiting order another priority.

    \b
    Example:
      outpost queue move gt-1 P0
    """
    wanted = priority(said["priority"])
    assert wanted is not None

    entry = session.anywhere(lambda manager: queue_of(manager).move(issue, wanted))
    session.answer(
        lambda: {"entry": as_json(entry)},
        lambda: [f"{render.clean(entry.issue)} has priority P{entry.priority}"],
    )


@command("pause", anywhere=True)
@click.argument("issues", nargs=-1, shell_complete=complete.issues)
def pause(session: Session, issues: tuple[str, ...]) -> None:
    """Place nothing, or not these issues, until outpost queue resume; what runs goes on.

    \b
    Examples:
      outpost queue pause
      outpost queue pause gt-1
    """
    _switch(session, issues, "paused")


@command("resume", anywhere=True)
@click.argument("issues", nargs=-1, shell_complete=complete.issues)
def resume(session: Session, issues: tuple[str, ...]) -> None:
    """Place what waits again.

    \b
    Example:
      outpost queue resume
    """
    _switch(session, issues, "")


def _switch(session: Session, issues: tuple[str, ...], word: str) -> None:
    def work(manager: Managing) -> Awaitable[tuple[list[str], str]]:
        queue = queue_of(manager)
        return queue.hold(issues, bool(word)) if issues else queue.switch(word)

    held, switch = session.anywhere(work)

    def lines() -> Iterator[str]:
        for issue in issues:
            yield f"{render.clean(issue)} {'is paused' if word else 'waits for its turn'}"
        if not issues:
            yield "nothing is placed until outpost queue resume" if word else "the queue goes on"

    session.answer(lambda: {"held": held, "switch": switch}, lines)


@command("drain", anywhere=True)
def drain(session: Session) -> None:
    """Place nothing more, and wait until what runs has ended.

    \b
    Example:
      outpost queue drain
    """
    from outpost_mayor.commands.following import follow, follow_there

    async def here(manager: Manager) -> list[Entry]:
        await manager.ledger.queue.set_switch(SWITCH, "draining")
        return await follow(session, manager, place=False)

    async def there(manager: RemoteManager) -> list[Entry]:
        await queue_of(manager).switch("draining")
        _, waiting = await follow_there(session, manager, placed=False)
        return waiting

    waiting = session.at_server(there) if session.far else session.run(here)
    session.answer(
        lambda: {"waiting": [*map(as_json, waiting)]},
        lambda: [f"nothing of the queue runs; {len(waiting)} wait for outpost queue resume"],
    )


@command("run", anywhere=True)
def run(session: Session) -> None:
    """Work on the queue until nothing is left that can go, without a mayor.

    With --server, whose mayor works on it already, wait for that and show what happens. Exit code 3
    when something still waits, 1 when an order failed.

    \b
    Example:
      outpost queue run
    """
    from outpost_mayor.commands.following import follow, follow_there

    session.going_on = "Interrupted; workers keep running, and what waits stays in the queue"

    switch = ""

    async def here(manager: Manager) -> tuple[list[Entry], list[Entry]]:
        nonlocal switch
        began = time.time()
        waiting = await follow(session, manager)
        ended = await manager.ledger.queue.entries(states=("ended",))
        switch = await manager.ledger.queue.switch(SWITCH)
        return [one for one in ended if one.moved_at >= began], waiting

    if session.far:
        ended, waiting = session.at_server(lambda manager: follow_there(session, manager))
    else:
        ended, waiting = session.run(here)

    def lines() -> Iterator[str]:
        if not ended and not waiting:
            yield "nothing waits in the queue"
        for one in ended:
            yield f"{render.clean(one.worker)} {render.tint(one.outcome)}"
        if switch:
            yield output.style(f"the queue is {switch}", fg="yellow") + ": outpost queue resume"
        for one in waiting:
            why = render.clean(waits(one, time.time()) or "for its turn")
            yield f"{render.clean(one.issue)} waits: {why}"

    session.answer(
        lambda: {"ended": [*map(as_json, ended)], "waiting": [*map(as_json, waiting)]}, lines
    )
    bad = any(one.outcome != "done" for one in ended)
    click.get_current_context().exit(3 if waiting else 1 if bad else 0)


for each in (add, list_, show, batches_, remove, move, pause, resume, drain, run):
    queue.add_command(each)
