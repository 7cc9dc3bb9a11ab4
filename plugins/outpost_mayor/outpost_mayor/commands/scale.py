"""`outpost scale`: what is up, why, what it costs and what comes next; and by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from outpost_core.errors import OutpostError, UsageError
from outpost_manager.cli import complete
from outpost_manager.cli.session import Session, command
from outpost_manager.jsonviews import moment

if TYPE_CHECKING:
    from outpost_manager.manager import Manager
    from outpost_mayor.scaling.decide import Decision, Place


@command("scale", instead="outpost list says from here what is up; say the rest there")
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
        _show(session, dry_run=dry_run)
        return
    if to is None:
        raise UsageError("say how many are to be up", hint=f"outpost scale {name} --to N")
    plan, place = session.run(lambda manager: _bring(manager, name, to, no_wait, dry_run))
    session.answer(
        lambda: {
            "outposts": [_shape(place)],
            "decisions": [_decision(plan)] if plan else [],
            "errors": {},
        },
        lambda: _told(place, to, plan, dry_run),
    )


async def _bring(
    manager: Manager, name: str, to: int, no_wait: bool, dry_run: bool
) -> tuple[Decision | None, Place]:
    from outpost_mayor.scaling.hand import Hand

    hand = Hand(manager, name)
    plan = await hand.plan(to)
    if plan is not None and not dry_run:
        await hand.begin(plan)
        if not no_wait:
            await hand.finish()
    return plan, await hand.place()


def _told(place: Place, to: int, plan: Decision | None, dry_run: bool) -> Iterator[str]:
    from outpost_manager.cli import render

    if plan is None:
        yield f"{render.clean(place.name)}: {to} up, as it was"
    elif dry_run:
        yield f"would bring {_line(plan)}"
    else:
        yield f"{render.clean(place.name)} is {place.row.phase.value}{_cost(plan.price)}"


def _show(session: Session, *, dry_run: bool) -> None:
    async def work(
        manager: Manager,
    ) -> tuple[list[Place], Sequence[Decision], dict[str, OutpostError]]:
        from outpost_mayor.scaling.scaler import Scaler

        scaler = Scaler(manager)
        rows = await manager.ledger.scaling.all()
        configured = [one.name for one in manager.config.outposts if one.scaling]
        known = [one.name for one in manager.config.outposts if one.name in rows]
        errors = await scaler.learn([*dict.fromkeys([*configured, *known])])
        decisions = (await scaler.decisions()).decisions if dry_run else ()
        return await scaler.places(), decisions, errors

    found, decisions, errors = session.run(work)
    session.answer(
        lambda: {
            "outposts": [_shape(one) for one in found],
            "decisions": [_decision(one) for one in decisions],
            "errors": {name: error.message for name, error in errors.items()},
        },
        lambda: _lines(found, decisions, errors, dry_run=dry_run),
    )


def _shape(place: Place) -> dict[str, Any]:
    from outpost_mayor.scaling.decide import outlook

    row = place.row
    return {
        "outpost": row.outpost, "phase": row.phase.value, "running": row.running,
        "desired": row.desired, "active": place.active, "since": moment(row.since),
        "decision": row.decision, "reason": row.reason, "error": row.error,
        "price": place.cost(row.running), "retry_at": moment(row.retry_at or None),
        "next": outlook(place, time.time()),
    }  # fmt: skip


def _decision(one: Decision) -> dict[str, Any]:
    return {"outpost": one.outpost, "to": one.to, "more": one.more, "why": one.why,
            "price": one.price}  # fmt: skip


def _lines(
    found: Sequence[Place],
    decisions: Sequence[Decision],
    errors: dict[str, OutpostError],
    *,
    dry_run: bool,
) -> Iterator[str]:
    from outpost_manager.cli import render
    from outpost_mayor.scaling.decide import outlook

    if not found and not errors:
        yield "nothing is brought up and down; write `scaling` at an outpost in outposts.yaml"
        return
    now = time.time()
    yield from render.table(
        ("outpost", "phase", "up", "workers", "an hour", "why", "next"),
        [
            (
                one.name,
                one.row.phase.value,
                f"{one.row.running}/{one.most}",
                str(one.active),
                "?" if one.price is None else render.money(one.price * one.row.running),
                one.row.error or one.row.reason or "it was found so",
                outlook(one, now),
            )
            for one in found
        ],
        keep=("outpost", "phase"),
    )
    for name, error in errors.items():
        yield render.clean(f"  · {name}: {error.message}")
        if error.hint:
            yield render.clean(f"    → {error.hint}")
    if dry_run:
        yield from (f"would bring {_line(one)}" for one in decisions)
        if not decisions:
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
