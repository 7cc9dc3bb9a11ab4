"""Looking at outposts: `list`, `ping`, `backends`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from outpost_core.errors import NotFoundError, OutpostError
from outpost_manager.cli import complete, render
from outpost_manager.cli.session import Session, command
from outpost_manager.plugins.advice import first_hint, missing_hint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from outpost_core.discovery import Plugins
    from outpost_core.types import Health
    from outpost_manager.fleet.overview import OutpostView
    from outpost_manager.ledger import Breaker
    from outpost_manager.managing import Managing


@command("list", anywhere=True)
@click.option("--reset", metavar="NAME", multiple=True, shell_complete=complete.outposts,
              help="Close the breaker of an outpost first: it is used again at once.")  # fmt: skip
def list_(session: Session, reset: tuple[str, ...]) -> None:
    """List the configured outposts.

    Asks none of them: what is shown is what the last command learnt. Where a worker could not be
    started again and again, the circuit breaker is open, and the outpost is left alone for a while.

    \b
    Example:
      outpost list --json
      outpost list --reset gce-worker-1
    """

    async def work(manager: Managing) -> list[OutpostView]:
        for name in reset:
            await manager.reset_breaker("outpost", name)
        return await manager.outposts()

    views = session.anywhere(work, at_once=True)
    session.answer(lambda: {"outposts": view_shapes(views)}, lambda: outpost_lines(views))


def outpost_lines(views: Sequence[OutpostView]) -> Iterator[str]:
    """Yield the table of outposts, and what to do about those that are not usable."""
    money = any(view.spent or view.cost_cap_hourly is not None for view in views)
    yield from render.table(
        ("name", "type", "active", *(["this hour"] if money else []), "state", "package", "detail"),
        [
            (
                view.name,
                view.type,
                f"{view.active}/{_slots(view)}",
                *([_spent(view)] if money else []),
                view.state,
                f"{view.package} {view.version}".strip() or "-",
                view.detail or ("not asked yet" if view.state == "unknown" else "-"),
            )
            for view in views
        ],
        keep=("name", "active"),
        colour=("state",),
    )
    yield from slot_lines(views)
    yield from standing_lines({view.name: view.standing for view in views})
    for view in views:
        if view.breaker is not None and view.breaker.state != "closed":
            yield f"  · {render.clean(breaker_line(view.breaker))}"
            yield f"    → outpost list --reset {render.clean(view.name)} uses it again at once"
        if view.hint and view.state in ("missing", "broken", "unhealthy", "unreachable"):
            yield f"  → {render.clean(view.name)}: {render.clean(view.hint)}"


def breaker_line(breaker: Breaker) -> str:
    """Return what is to be known of a breaker that is not closed."""
    until = breaker.waits(time.time())
    if breaker.state == "open":
        when = "the next worker there tries it" if until is None else f"until {clock(until)}"
        return f"{breaker.why()}, {when}"
    return breaker.why()


def clock(moment: float) -> str:
    """Return a moment of today as `14:05:09`, another one with its day."""
    try:
        at = time.localtime(moment)
    except (OverflowError, ValueError, OSError):
        return "?"
    today = at[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", at)


def slot_lines(views: Sequence[OutpostView]) -> Iterator[str]:
    """Yield where the number of slots comes from of those whose configuration does not say it."""
    for view in views:
        if view.slots_reason:
            yield (
                f"  · {render.clean(view.name)}: {view.max_workers} workers at once, by its"
                f" {view.slots_reason}; `max_workers` in outposts.yaml changes that"
            )


def standing_lines(standing: Mapping[str, float]) -> Iterator[str]:
    """Yield what outposts cost an hour without a worker, of those that do."""
    for name, usd in standing.items():
        if usd:
            yield (
                f"  · {render.clean(name)}: {render.money(usd)} an hour without a worker"
                f" ({render.money(usd * 24)} a day), to be warm"
            )


def _spent(view: OutpostView) -> str:
    """Return what is reserved and spent there in this hour, and the cap."""
    spent = render.money(view.spent)
    if view.cost_cap_hourly is not None:
        return f"{spent}/{render.money(view.cost_cap_hourly)}"
    return spent if view.spent else "-"


def _slots(view: OutpostView) -> str:
    if view.max_workers is not None:
        return str(view.max_workers)
    return "?" if view.state == "missing" else "∞"  # its options cannot be read


def view_shapes(views: Sequence[OutpostView]) -> list[dict[str, Any]]:
    """Return the shapes of outposts."""
    from outpost_manager import jsonviews

    return [jsonviews.outpost(view) for view in views]


@command("ping", anywhere=True)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete.outposts)
def ping(session: Session, names: tuple[str, ...]) -> None:
    """Ask outposts whether they would take a worker now.

    Exit code 5 when one does not answer, 2 when its package is missing, 1 when one answers that
    it is not well.

    \b
    Example:
      outpost ping local
    """

    async def work(manager: Managing) -> Mapping[str, Health | OutpostError]:
        return await manager.ping([*names] or None)

    answers = session.anywhere(work)

    def data() -> object:
        from outpost_manager import jsonviews

        return {"outposts": [jsonviews.ping(name, answer) for name, answer in answers.items()]}

    session.answer(data, lambda: _ping_lines(answers))
    errors = [answer for answer in answers.values() if isinstance(answer, OutpostError)]
    sick = any(not isinstance(a, OutpostError) and not a.ok for a in answers.values())
    code = max((error.exit_code for error in errors), default=1 if sick else 0)
    click.get_current_context().exit(code)


def _ping_lines(answers: Mapping[str, Health | OutpostError]) -> Iterator[str]:
    rows, mends = [], []
    for name, answer in answers.items():
        if isinstance(answer, OutpostError):
            rows.append((name, "no", "-", answer.message))
        else:
            latency = "-" if answer.latency is None else f"{answer.latency * 1000:.0f} ms"
            rows.append((name, "ok" if answer.ok else "no", latency, answer.detail or "-"))
        if answer.hint:
            mends.append(f"  → {render.clean(name)}: {render.clean(answer.hint)}")
    yield from render.table(
        ("name", "ok", "latency", "detail"), rows, keep=("name",), colour=("ok",)
    )
    yield from mends


@command("backends", of_here=True)
@click.argument("type_", required=False, metavar="[TYPE]", shell_complete=complete.types)
def backends(session: Session, type_: str | None) -> None:
    """List the installed types, and unusable packages.

    \b
    Example:
      outpost backends
    """
    plugins = session.plugins()
    if type_ is not None and type_ not in plugins.backends:
        raise missing_type(plugins, type_)
    reports = [
        report
        for report in plugins.reports
        if type_ in report.types or (type_ is None and (report.types or not report.ok))
    ]

    def data() -> object:
        from outpost_manager import jsonviews

        return {
            "packages": [
                jsonviews.backend(
                    report,
                    [
                        {
                            "type": name,
                            "summary": plugins.backends[name].summary,
                            "capabilities": sorted(plugins.backends[name].capabilities),
                        }
                        for name in report.types
                    ],
                )
                for report in reports
            ]
        }

    session.answer(data, lambda: _backend_lines(plugins, reports))


def missing_type(plugins: Plugins, type_: str) -> NotFoundError:
    """Return the error for a type that nobody provides, with the nearest one or how to get it."""
    return NotFoundError(
        f"nothing installed provides the type {type_!a}", hint=missing_hint(plugins, type_)
    )


def _backend_lines(plugins: Plugins, reports: Sequence[Any]) -> Iterator[str]:
    rows, broken = [], []
    for report in reports:
        package = f"{report.package or report.entry_point} {report.version}".strip()
        rows += [
            (name, package, "ok" if report.ok else "broken", plugins.backends[name].summary)
            for name in report.types
        ]
        if not report.types:
            rows.append(("-", package, "broken", report.reason))
        if not report.ok:
            broken.append(f"  → {render.clean(package)}: {render.clean(report.reason)}")
            broken.append(f"    {render.clean(first_hint(report))}")
    yield from render.table(
        ("type", "package", "state", "what"), rows, keep=("type",), colour=("state",)
    )
    yield from broken
