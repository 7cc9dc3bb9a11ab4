"""`outpost simulate`: what a policy would cost, and how long work would wait."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from outpost_core.errors import NotFoundError, UsageError
from outpost_manager.cli import output, render
from outpost_manager.cli.session import Session, command
from outpost_manager.cli.values import duration

if TYPE_CHECKING:
    from outpost_manager.config.model import Config
    from outpost_manager.manager import Manager
    from outpost_mayor.simulate.figures import Figures
    from outpost_mayor.simulate.outposts import Simulated
    from outpost_mayor.simulate.past import Past
    from outpost_mayor.simulate.reading import WorkloadFile

#: What `--json` answers.
SHAPE: Final[dict[str, Any]] = {
    "simulations": [
        {
            "config": "the file whose policy it is, or null",
            "orders": "how many came",
            "outcomes": {"done": "how many ended so; waiting: how many nothing lets go"},
            "attempts": "how many workers there were",
            "retries": "how many of them were tries again",
            "makespan": "seconds from the first order to the last end",
            "machine_cost": "USD that outposts charged",
            "agent_cost": "USD that agents spent",
            "cost": "USD of both",
            "waits": [{"priority": "0 to 4", "orders": "how many began", "median": "seconds",
                       "p95": "seconds", "longest": "seconds"}],
            "outposts": [{"outpost": "its name", "workers": "how many it had",
                          "most": "how many at once", "slots": "its slots, or null",
                          "busy": "the part of its slots that worked, or null",
                          "cost": "USD that it charged"}],
            "refused": {"budget": "how many orders were refused for this, at least once"},
            "overtaken": {"seconds": "the longest time by which an order was overtaken",
                          "bound": "what it may be at most, or null"},
            "stuck": {"why an order waits for ever": "how many"},
            "broken": ["what may never be, and was"],
        }
    ]
}  # fmt: skip
#: So many outposts are shown to people.
_SHOWN: Final = 20


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A policy that is tried.

    Args:
        file: where it is written; None when it is built in.
        config: the configuration.
        outposts: as a simulation has them.
    """

    file: Path | None
    config: Config
    outposts: Sequence[Simulated]


@command("simulate")
@click.argument("workload", required=False, metavar="WORKLOAD", type=click.Path(path_type=Path))
@click.option("--past", metavar="DURATION", help="Simulate the work of so long ago until now.")
@click.option(
    "--compare",
    metavar="FILE",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Also with this outposts.yaml, side by side; repeat it for several.",
)
@click.option("--seed", type=int, default=None, metavar="N",
              help="Draw what is random anew; the same number draws the same.")  # fmt: skip
def simulate(
    session: Session,
    workload: Path | None,
    past: str | None,
    compare: tuple[Path, ...],
    seed: int | None,
) -> None:
    """Show what a policy would cost, and how long work would wait.

    WORKLOAD is a file that says what work comes. The clock leaps; policy, queue, budgets, retries
    and breakers are those of outposts.yaml, and nothing is started. Exit code 1 when something was
    found that may never be, 4 when there was no work in the past that is asked for.

    \b
    Examples:
      outpost simulate night.yaml
      outpost simulate --past 30d --compare other.yaml
    """
    from outpost_mayor.simulate.reading import read_workload

    if (workload is None) == (past is None):
        raise UsageError(
            "say what work comes: a WORKLOAD file, or --past 30d for that of this ledger",
            hint="outpost simulate --help",
        )
    since = 0.0 if past is None else time.time() - (duration(past, "--past") or 0.0)
    said = read_workload(workload) if workload is not None else None

    async def work(manager: Manager) -> tuple[Setup, Past | None]:
        from outpost_mayor.simulate.past import read_past

        setup = await _setup(manager, said)
        return setup, None if said is not None else await read_past(manager, since)

    first, before = session.run(work)
    if before is not None and not before.orders:
        raise NotFoundError(
            f"nothing that was ordered in the last {past} has ended: there is no past to simulate",
            hint="say a longer time, such as --past 90d, or describe work in a WORKLOAD file;"
            " outpost workers --all shows what there was",
        )
    setups = [first, *(_other(session, file, said) for file in compare)]
    found = [_run(setup, said, before, seed) for setup in setups]
    names = [setup.file for setup in setups]
    session.answer(
        lambda: {
            "simulations": [
                _shape(name, figures) for name, figures in zip(names, found, strict=True)
            ]
        },
        lambda: _lines(names, found),
    )
    click.get_current_context().exit(1 if any(one.broken for one in found) else 0)


async def _setup(manager: Manager, said: WorkloadFile | None) -> Setup:
    from outpost_mayor.simulate.outposts import configured

    own = said.outposts if said is not None else ()
    outposts = own or await configured(manager, time.time())
    return Setup(file=manager.config.path, config=manager.config, outposts=outposts)


def _other(session: Session, file: Path, said: WorkloadFile | None) -> Setup:
    import asyncio

    from outpost_manager.manager import Manager
    from outpost_manager.scratch import scratch

    async def work() -> Setup:
        with scratch("outpost-simulation-") as state:
            async with Manager.open(config=file, state=state, plugins=session.plugins()) as manager:
                return await _setup(manager, said)

    return asyncio.run(work())


def _run(setup: Setup, said: WorkloadFile | None, past: Past | None, seed: int | None) -> Figures:
    from dataclasses import replace

    from outpost_mayor.simulate.world import Simulation

    if said is None:
        assert past is not None
        return Simulation(
            workload=past, outposts=setup.outposts, config=setup.config, seed=seed or 0
        ).run()
    chosen = said.workload.seed if seed is None else seed
    return Simulation(
        workload=replace(said.workload, seed=chosen), outposts=setup.outposts,
        config=setup.config, outages=said.outages, seed=chosen, step=said.step,
    ).run()  # fmt: skip


def _shape(name: Path | None, one: Figures) -> dict[str, Any]:
    return {
        "config": None if name is None else str(name),
        "orders": one.orders,
        "outcomes": one.outcomes,
        "attempts": one.attempts,
        "retries": one.retries,
        "makespan": one.makespan,
        "machine_cost": one.machine,
        "agent_cost": one.agent,
        "cost": one.machine + one.agent,
        "waits": [
            {
                "priority": priority, "orders": each.orders, "median": each.median,
                "p95": each.p95, "longest": each.longest,
            }
            for priority, each in one.waits.items()
        ],
        "outposts": [
            {
                "outpost": name, "workers": use.workers, "most": use.most, "slots": use.slots,
                "busy": _busy(use.seconds, use.slots, one.makespan), "cost": use.usd,
            }
            for name, use in one.outposts.items()
        ],
        "refused": one.refused,
        "overtaken": {"seconds": one.passed[0], "bound": one.passed[1]},
        "stuck": one.stuck,
        "broken": [*one.broken],
    }  # fmt: skip


def _busy(seconds: float, slots: int | None, span: float) -> float | None:
    return None if not slots or not span else seconds / (slots * span)


def _lines(names: Sequence[Path | None], found: Sequence[Figures]) -> Iterator[str]:
    titles = [str(name) if name is not None else "built in" for name in names]
    if len(found) > 1:
        yield from render.table(("", *titles), [*_compared(found)])
        return
    (one,) = found
    yield from render.pairs([(label, render.clean(text)) for label, text in _summary(one)])
    for what in one.broken:
        yield output.style("may never be: ", fg="red") + render.clean(what)
    if one.waits:
        yield ""
        yield from render.table(
            ("priority", "orders", "median wait", "95 of 100", "longest"),
            [
                (f"P{level}", f"{each.orders:,}",
                 *map(render.lasting, (each.median, each.p95, each.longest)))
                for level, each in one.waits.items()
            ],
        )  # fmt: skip
    yield ""
    yield from _outposts(one)


def _outposts(one: Figures) -> Iterator[str]:
    ranked = sorted(one.outposts.items(), key=lambda pair: -pair[1].seconds)
    rows = []
    for name, use in ranked[:_SHOWN]:
        busy = _busy(use.seconds, use.slots, one.makespan)
        slots = "no limit" if use.slots is None else str(use.slots)
        rows.append(
            (name, f"{use.workers:,}", f"{use.most} of {slots}",
             "-" if busy is None else f"{busy:.0%}", render.money(use.usd))
        )  # fmt: skip
    yield from render.table(
        ("outpost", "workers", "most at once", "busy", "cost"), rows, keep=("outpost",)
    )
    if len(ranked) > _SHOWN:
        yield f"and {len(ranked) - _SHOWN:,} more: --json says them all"


def _summary(one: Figures) -> Iterator[tuple[str, str]]:
    ended = ", ".join(f"{number:,} {word}" for word, number in sorted(one.outcomes.items()))
    yield "orders", f"{one.orders:,}: {ended}" if ended else "none"
    yield "attempts", f"{one.attempts:,}, {one.retries:,} of them tries again"
    yield "takes", render.lasting(one.makespan)
    yield (
        "costs",
        (
            f"{render.money(one.machine + one.agent)}: {render.money(one.machine)} of outposts,"
            f" {render.money(one.agent)} of agents"
        ),
    )
    bound = f" (at most {render.lasting(one.passed[1])})" if one.passed[1] else ""
    yield "overtaken", f"by {render.lasting(one.passed[0])} at worst{bound}"
    refused = ", ".join(f"{number:,} by {word}" for word, number in one.refused.items())
    yield "refused", refused
    for why, number in sorted(one.stuck.items(), key=lambda pair: -pair[1])[:5]:
        yield "for ever", f"{number:,} wait: {why}"


def _compared(found: Sequence[Figures]) -> Iterator[tuple[str, ...]]:
    yield "done", *(f"{one.outcomes.get('done', 0):,} of {one.orders:,}" for one in found)
    yield "tries again", *(f"{one.retries:,}" for one in found)
    yield "takes", *(render.lasting(one.makespan) for one in found)
    yield "costs", *(render.money(one.machine + one.agent) for one in found)
    yield "of it outposts", *(render.money(one.machine) for one in found)
    yield "waits for ever", *(f"{sum(one.stuck.values()):,}" for one in found)
    for level in sorted({level for one in found for level in one.waits}):
        for label, pick in _PICKED:
            shown = [
                render.lasting(getattr(one.waits[level], pick)) if level in one.waits else "-"
                for one in found
            ]
            yield f"P{level} waits, {label}", *shown
    yield "overtaken", *(render.lasting(one.passed[0]) for one in found)
    yield "may never be", *(str(len(one.broken)) for one in found)


_PICKED: Final = (("median", "median"), ("95 of 100", "p95"), ("longest", "longest"))
