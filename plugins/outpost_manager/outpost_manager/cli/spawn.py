"""Starting work: `spawn` and `explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from outpost_core.errors import ConflictError, OutpostError
from outpost_manager import jsonviews
from outpost_manager.cli import complete, output, render
from outpost_manager.cli.bringing import Failures, bringing_up
from outpost_manager.cli.existing import where_it_is
from outpost_manager.cli.orderflags import order_options, requests_of
from outpost_manager.cli.placed import Placed, finish
from outpost_manager.cli.progress import Progress
from outpost_manager.cli.session import Command, Session, command
from outpost_manager.cli.workers import explanation_lines
from outpost_manager.placing.pending import NotPlacedError
from outpost_manager.placing.room import FIRST, MOST, is_crowded, until_room
from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Collection,
        Iterator,
        Sequence,
    )

    from outpost_core.types import Order
    from outpost_manager.manager import Manager
    from outpost_manager.orders.making import OrderRequest
    from outpost_manager.placing.pending import Spawned
    from outpost_manager.remote.manager import RemoteManager, Started


class OrderCommand(Command):
    """A command that takes another command's words after `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set the words after the first `--` aside; click would take them for issues."""
        if "--" in args:
            at = args.index("--")
            ctx.meta[complete.AFTER_DASHES] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)


def after_dashes() -> tuple[str, ...] | None:
    """Return the words after the first `--`; None when there is none."""
    found: tuple[str, ...] | None = click.get_current_context().meta.get(complete.AFTER_DASHES)
    return found


@command("spawn", cls=OrderCommand, anywhere=True)
@order_options
@click.option("--on", metavar="OUTPOST", shell_complete=complete.outposts,
              help="At this outpost and no other.")  # fmt: skip
@click.option("--follow", "follow_", is_flag=True, help="Print the output until the worker ends.")
@click.option("--wait", is_flag=True, help="Return when the workers have ended.")
@click.option("--queue", "queued", is_flag=True,
              help="Put them into the queue, as outpost queue add does.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only show where it would go, as explain does.")
def spawn(
    session: Session,
    on: str | None,
    follow_: bool,
    wait: bool,
    queued: bool,
    dry_run: bool,
    **said: Any,
) -> None:
    """Start workers on issues, at the best outpost.

    The same command again finds the same worker; --again starts the next attempt. Ctrl-C ends
    only the looking: workers keep running. A command after -- takes the agent's place; in it
    {issue}, {prompt} and {prompt_file} are replaced.

    With --from-file, each line is an issue's id, or a JSON object with the fields of a request
    that win over the flags: issue (the only one that is needed), title, text or body, priority,
    labels, kind, estimate, prompt, prompt_file, rig, no_rig, base, branch, agent, command, env,
    secrets, context, timeout, pr, again and the other long flags; docs/reference/from-file.md says
    what each takes.

    \b
    Examples:
      outpost spawn fix-login --title "Login fails with an empty password" --follow
      outpost spawn --from-file issues.jsonl --agent codex --wait
      outpost spawn gt-1 gt-2 gt-3              (where issues are kept in beads)
      outpost spawn fix-1 --rig . -- make fix
    """
    requests = requests_of(said, after_dashes())
    if dry_run:
        explain_requests(session, requests, on)
        return
    if follow_ and len(requests) > 1:
        raise click.UsageError("--follow follows one worker; use --wait for several")
    if queued:
        if follow_ or wait:
            raise click.UsageError("--queue returns at once; outpost queue run waits")
        from outpost_manager.cli.queued import queue_requests

        queue_requests(session, requests, on=on)
        return
    if session.far:

        async def there(manager: RemoteManager) -> int:
            async def ask(only: Collection[str] | None, seconds: float) -> Started:
                some = [one for one in requests if only is None or one.issue in only]
                return await manager.spawn_requests(some, on, seconds)

            return await start_far(session, manager, ask, follow_=follow_, wait=wait)

        click.get_current_context().exit(session.at_server(there))
    progress = Progress.of(session)

    async def work(manager: Manager) -> int:
        await manager.look_at([request.issue for request in requests])
        orders = await _orders(manager, requests, progress)
        await _say_what_stays(session, manager, requests, orders)
        for order, request in zip(orders, requests, strict=True):
            if request.again and not request.from_base:
                await say_passed_over(session, manager, order)
        return await start(session, manager, orders, progress, on=on, follow_=follow_, wait=wait)

    click.get_current_context().exit(session.run(work))


async def start(
    session: Session,
    manager: Manager,
    orders: Sequence[Order],
    progress: Progress,
    *,
    on: str | Sequence[str | None] | None = None,
    follow_: bool = False,
    wait: bool = False,
    refused: Sequence[tuple[str, OutpostError]] = (),
) -> int:
    """Place orders, print what became of each, and return the exit code.

    Args:
        session: of this command.
        manager: an open one.
        orders: what is to be done.
        progress: is told each step.
        on: the outpost to use, for all or for each; None lets the policy choose.
        follow_: print the output of the first until it has ended.
        wait: return when all have ended.
        refused: issues for which no order could be made, and why.
    """
    session.going_on = _spawning(orders)
    answers = await _place(manager, orders, on, progress)
    if wait or follow_:
        where = [on] * len(orders) if on is None or isinstance(on, str) else [*on]

        async def again(some: Sequence[int]) -> Sequence[Spawned | OutpostError]:
            mine = [orders[number] for number in some]
            return await _place(manager, mine, [where[number] for number in some], progress)

        waits = any(isinstance(one, NotPlacedError) for one in answers)
        async with bringing_up(session, manager, waits=waits):
            await until_room(
                manager.placement, manager.wanting, [*zip(orders, where, strict=True)], answers,
                again,
                waits=lambda some: _say_full(session, [orders[number].worker for number in some]),
            )  # fmt: skip
    progress.close()
    pairs = [*zip(orders, answers, strict=True)]
    for issue, error in refused:
        session.note(_refusal(f"{issue}: {error}"))
    for line in [line async for line in _refusals(manager, pairs)]:
        session.note(line)
    first = orders[0].agent if orders else None
    placed = Placed(
        spawned=[answer for answer in answers if not isinstance(answer, OutpostError)],
        refused=[*refused, *((o.issue.id, a) for o, a in pairs if isinstance(a, OutpostError))],
        output=first.output if first else "",
        interactive=first is not None and first.interactive,
    )
    return await finish(session, manager, placed, progress, follow_=follow_, wait=wait)


async def start_far(
    session: Session,
    manager: RemoteManager,
    ask: Callable[[Collection[str] | None, float], Awaitable[Started]],
    *,
    follow_: bool,
    wait: bool,
) -> int:
    """Have a server start workers, print what became of each, and return the exit code.

    Args:
        session: of this command.
        manager: of the server.
        ask: asks for them, or only for those issues; the server tries again for so many seconds
            what finds everything full.
        follow_: print the output of the first until it has ended.
        wait: return when all have ended.
    """
    progress = Progress.of(session)
    session.going_on = "Interrupted while starting; what has begun goes on.\n  → outpost workers"
    spawned, refused, hints = await ask(None, 0.0)
    told, failures = False, Failures(session)
    pauses = Backoff(FIRST, MOST)  # should the server not wait as it was asked
    while (wait or follow_) and (full := [issue for issue, why in refused if is_crowded(why)]):
        if not told:
            told = True
            _say_full(session, full)
        await failures.look_there(manager)
        await pauses.wait()
        more, still, _ = await ask({*full}, _AT_SERVER)
        spawned = [*spawned, *more]
        refused = [*((i, why) for i, why in refused if not is_crowded(why)), *still]
    progress.close()
    for hint in hints:
        session.hints.append(hint)
        session.note(render.clean(hint))
    for issue, error in refused:
        session.note(_refusal(str(error) if issue in error.message else f"{issue}: {error}"))
    order = await manager.order_of(spawned[0].worker.id) if spawned and follow_ else None
    placed = Placed(
        spawned=spawned,
        refused=refused,
        output=order.agent.output if order else "",
        interactive=order is not None and order.agent.interactive,
    )
    return await finish(session, manager, placed, progress, follow_=follow_, wait=wait)


async def _place(
    manager: Manager,
    orders: Sequence[Order],
    on: str | Sequence[str | None] | None,
    progress: Progress,
) -> list[Spawned | OutpostError]:
    """Place orders, those for the same outpost at once; the answers are in their order."""
    if on is None or isinstance(on, str):
        return await manager.spawn_many(orders, on=on, progress=progress.event)
    answers: dict[int, Spawned | OutpostError] = {}
    for name in dict.fromkeys(on):
        mine = [number for number, where in enumerate(on) if where == name]
        found = await manager.spawn_many(
            [orders[number] for number in mine], on=name, progress=progress.event
        )
        answers |= dict(zip(mine, found, strict=True))
    return [answers[number] for number in range(len(orders))]


def _say_full(session: Session, ids: Sequence[str]) -> None:
    names = " ".join(ids[:3])
    more = " …" if len(ids) > 3 else ""
    session.note(f"everything is full: {render.clean(names)}{more} waits for a slot")


async def _orders(
    manager: Manager, requests: Sequence[OrderRequest], progress: Progress
) -> list[Order]:
    orders = []
    for request in requests:
        progress.stage(request.issue, "placing")
        orders.append(await manager.order(request))
    return orders


async def say_passed_over(session: Session, manager: Manager, order: Order) -> None:
    """Say of a further attempt which kept work it does not continue from."""
    from outpost_manager.orders.requests import passed_over

    if order.rig and (told := await manager.ledger.read(passed_over, order)):
        session.hints.append(told)
        session.note(render.clean(told))


async def _say_what_stays(
    session: Session, manager: Manager, requests: Sequence[OrderRequest], orders: Sequence[Order]
) -> None:
    """Say what of the repository around no worker will have: it may be what they are to use."""
    around = [order for order, r in zip(orders, requests, strict=True) if not (r.rig or r.no_rig)]
    if not around:
        return
    import asyncio

    from outpost_manager.orders.unpushed import left

    if stays := await asyncio.to_thread(left, manager.local, around[0].base, around[0].rig):
        session.hints.append(str(stays))
        session.note(render.clean(str(stays)))


def _spawning(orders: Sequence[Order]) -> str:
    ids = " ".join(order.worker for order in orders[:3])
    return (
        f"Interrupted while starting {ids}{' …' if len(orders) > 3 else ''}; what has begun goes"
        " on.\n  → the same command again finds it, outpost workers shows it"
    )


#: Seconds for which a server is asked at once to try what found everything full.
_AT_SERVER = 20.0
#: fields of an order that are named by their own fields.
_COMPOUND = ("issue", "agent", "delivery", "limits")
_Pairs = list[tuple["Order", "Spawned | OutpostError"]]


async def _refusals(manager: Manager, pairs: _Pairs) -> AsyncIterator[str]:
    for order, answer in pairs:
        if not isinstance(answer, OutpostError):
            continue
        text = str(answer)
        there = None
        if isinstance(answer, ConflictError):
            there = await manager.ledger.order(order.worker)
        if there is not None:
            differing = ", ".join(_differences(there, order))
            worker = await manager.ledger.worker(order.worker)
            now = f"; it {click.unstyle(where_it_is(worker))}" if worker is not None else ""
            same = f" (not the same: {differing}){now}\n"
            text = text.replace("\n", same, 1) if differing else text
        if not text.startswith(order.worker):
            text = f"{order.worker}: {text}"
        yield _refusal(text)


def _refusal(text: str) -> str:
    return output.error(text)


def _differences(one: Order, other: Order) -> Iterator[str]:
    """Yield the names of what two orders do not have in common; values may be long."""
    from outpost_core.wire import identity

    def flat(order: Order) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in identity(order).items():
            inner = value if isinstance(value, dict) and name in _COMPOUND else {"": value}
            found |= {f"{name} {key}".strip(): each for key, each in inner.items()}
        return found

    before, now = flat(one), flat(other)
    for name in dict.fromkeys((*before, *now)):
        if before.get(name) != now.get(name):
            yield name.removeprefix("issue ").removeprefix("limits ")


@command("explain", cls=OrderCommand, anywhere=True)
@order_options
@click.option("--on", metavar="OUTPOST", shell_complete=complete.outposts,
              help="As if it had to go there.")  # fmt: skip
def explain(session: Session, on: str | None, **said: Any) -> None:
    """Show where an order would go, and why; starts nothing.

    Takes what spawn takes; of an issue alone that waits in the queue, its order there is meant.
    Exit code 3 when no outpost would take it.

    \b
    Example:
      outpost explain gt-abc123 --priority P3 --estimate 45m
    """
    explain_requests(session, requests_of(said, after_dashes()), on)


def explain_requests(session: Session, requests: Sequence[OrderRequest], on: str | None) -> None:
    """Print where orders would go; exit with 3 when one would go nowhere."""

    found = session.anywhere(lambda manager: manager.explain_requests(requests, on))

    def data() -> object:
        return {
            "explanations": [
                {"issue": issue, "worker": worker, **jsonviews.explanation(e)}
                for issue, worker, e in found
            ]
        }

    def lines() -> Iterator[str]:
        for _, worker, explanation in found:
            first = next((v.outpost for v in explanation.verdicts if v.eligible), None)
            where = render.clean(first) if first else output.style("nowhere", fg="red")
            yield f"{output.style(render.clean(worker), bold=True)} → {where}"
            yield from explanation_lines(explanation)
        if nowhere := [e for *_, e in found if not any(v.eligible for v in e.verdicts)]:
            reasons = " ".join(verdict.reason for e in nowhere for verdict in e.verdicts)
            wait = "" if "not installed" in reasons else "outpost queue add has it wait; "
            yield f"  → {wait}outpost doctor looks at all that workers need, and says what to do"

    session.answer(data, lines)
    placed = all(any(verdict.eligible for verdict in e.verdicts) for *_, e in found)
    click.get_current_context().exit(0 if placed else 3)
