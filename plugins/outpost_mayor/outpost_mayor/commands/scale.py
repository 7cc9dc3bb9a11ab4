"""`outpost scale`: what is up, why, what it costs and what comes next; and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from outpost_core.errors import UsageError
from outpost_manager.cli import complete
from outpost_manager.cli.session import Session, command
from outpost_mayor.scaling import farscaling
from outpost_mayor.scaling.view import by_hand, document, overview

if TYPE_CHECKING:
    from outpost_mayor.scaling.decide import Decision
    from outpost_mayor.scaling.view import Scaling


@command("scale", anywhere=True)
@click.argument("name", required=False, shell_complete=complete.outposts)
@click.option("--to", type=click.IntRange(0, 1000), metavar="N",
              help="Have so many units (machines, warm containers) up: 0: down.")  # fmt: skip
@click.option("--no-wait", is_flag=True, help="Do not wait: a mayor does it.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and what it costs.")
def scale(session: Session, name: str | None, to: int | None, no_wait: bool, dry_run: bool) -> None:
    """Show which outposts are up, why, and what comes next; or bring one up or down.

    By itself, `outpost serve` does that for outposts with `scaling` in outposts.yaml. One that goes
    down gets no more workers, and is stopped once those that it has have ended and their work is
    where it outlives it. Nothing is ever stopped under a worker.

    \b
    Examples:
      outpost scale
      outpost scale --dry-run
      outpost scale gce-worker-1 --to 1
      outpost scale gce-worker-1 --to 0 --dry-run
    """
    if name is None:
        if to is not None or no_wait:
            raise UsageError("--to needs the name of an outpost", hint="outpost scale NAME --to N")
        found = _overview(session, foresee=dry_run)
        session.answer(lambda: document(found), lambda: _lines(found, dry_run=dry_run))
        return
    if to is None:
        raise UsageError("say how many are to be up", hint=f"outpost scale {name} --to N")
    done = _bring(session, name, to, dry_run=dry_run, wait=not no_wait)
    session.answer(lambda: document(done), lambda: _told(done, to, dry_run=dry_run))


def _overview(session: Session, *, foresee: bool) -> Scaling:
    if session.far:
        return session.at_server(lambda manager: farscaling.overview(manager, foresee=foresee))
    return session.run(lambda manager: overview(manager, foresee=foresee))


def _bring(session: Session, name: str, to: int, *, dry_run: bool, wait: bool) -> Scaling:
    if session.far:
        return session.at_server(
            lambda manager: farscaling.by_hand(manager, name, to, dry_run=dry_run, wait=wait)
        )
    return session.run(lambda manager: by_hand(manager, name, to, dry_run=dry_run, wait=wait))


def _told(done: Scaling, to: int, *, dry_run: bool) -> Iterator[str]:
    from outpost_manager.cli import render

    for one in done.decisions if dry_run else ():
        yield f"would bring {_line(one)}"
    for place in () if dry_run and done.decisions else done.outposts:
        name = render.clean(place.outpost)
        if done.decisions:
            yield f"{name} is {render.clean(place.phase)}{_cost(done.decisions[0].price)}"
        else:
            yield f"{name}: {to} up, as it was"


def _lines(found: Scaling, *, dry_run: bool) -> Iterator[str]:
    from outpost_manager.cli import render

    if not found.outposts and not found.errors:
        yield "nothing is brought up and down; write `scaling` at an outpost in outposts.yaml"
        return
    yield from render.table(
        ("outpost", "phase", "up", "workers", "an hour", "why", "next"),
        [
            (
                one.outpost,
                one.phase,
                f"{one.running}/{one.most}",
                str(one.active),
                "?" if one.price is None else render.money(one.price),
                one.error or one.reason or "it was found so",
                one.next,
            )
            for one in found.outposts
        ],
        keep=("outpost", "phase"),
    )
    for name, said in found.errors.items():
        first, *more = render.clean_lines(f"{name}: {said}").split("\n")
        yield f"  · {first}"
        yield from (f"  {line}" for line in more)
    if dry_run:
        yield from (f"would bring {_line(one)}" for one in found.decisions)
        if not found.decisions:
            yield "nothing would be changed now"


def _line(one: Decision) -> str:
    from outpost_manager.cli import render

    way = "up" if one.more else "down"
    return f"{render.clean(one.outpost)} {way} to {one.to}: {render.clean(one.why)}" + _cost(
        one.price
    )


def _cost(price: float | None) -> str:
    from outpost_manager.cli import render

    return "; nobody knows what it costs" if price is None else f"; {render.money(price)} an hour"
