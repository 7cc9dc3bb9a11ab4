"""Looking at plugins, and making one: `plugins`, `plugin new`."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from outpost_core.errors import NotFoundError, OutpostError, UsageError
from outpost_manager.cli import complete, output, render
from outpost_manager.cli.commandtable import COMMANDS
from outpost_manager.cli.session import Group, Session, command
from outpost_manager.plugins.scaffold import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outpost_core.discovery import PluginReport
    from outpost_manager.plugins.failures import KeptFailure
    from outpost_manager.plugins.provided import Provided


class Row(NamedTuple):
    """One plugin, with all that is known of it."""

    report: PluginReport
    provided: Provided
    kept: list[KeptFailure]


@command("plugins", of_here=True)
@click.argument("name", required=False, metavar="[NAME]", shell_complete=complete.plugins)
@click.option("--forget", is_flag=True, help="Forget the errors of before.")
def plugins(session: Session, name: str | None, forget: bool) -> None:
    """List the plugins, what they provide, and their last errors.

    With a name (of a package, or of its entry point) everything about it, with the tracebacks of
    its errors. The last error of each hook is kept for a week.

    \b
    Examples:
      outpost plugins
      outpost plugins outpost-local
    """
    rows = _rows(session, name)
    if forget:
        from outpost_manager.plugins.failures import KeptFailures

        only = None if name is None else [row.report.entry_point for row in rows]
        gone = KeptFailures(_state(session)).forget(only)
        session.note(f"forgot {render.count(gone, 'error')}")
        rows = [row._replace(kept=[]) for row in rows]

    def data() -> object:
        from outpost_manager import jsonviews

        return {"plugins": [jsonviews.plugin(*row) for row in rows]}

    session.answer(data, lambda: _lines(rows) if name is None else _details(rows))


def _rows(session: Session, name: str | None) -> list[Row]:
    from outpost_manager.plugins.failures import KeptFailures
    from outpost_manager.plugins.provided import provided

    commands = session.plugin_commands(quiet=True)
    installed = session.plugins()
    with ExitStack() as stack:
        try:
            manager = stack.enter_context(session.manager())
        except OutpostError as error:  # what is wrong with the configuration hides no plugin
            session.note(f"note: {error.message}")
            failures = KeptFailures(_state(session))
        else:
            failures = manager.failures
        owners = {word: one.report for word, one in commands.items() if one.report}
        given = provided(installed, owners)
        kept = failures.read(installed.reports)
        reports = [r for r in installed.reports if name in (None, r.entry_point, r.package)]
        if not reports:
            from outpost_core.nearest import nearest

            known = {word for r in installed.reports for word in (r.entry_point, r.package) if word}
            near = nearest(str(name), sorted(known))
            raise NotFoundError(
                f"there is no plugin {name!a}",
                hint=f"did you mean {near!r}?" if near else "outpost plugins lists them",
            )
        return [
            Row(one, given[one], [each for each in kept if each.plugin == one.entry_point])
            for one in reports
        ]


def _state(session: Session) -> Path:
    from outpost_shared.paths import state_dir

    return session.state or state_dir(os.environ)


def _word(row: Row) -> str:
    if row.report.problems:
        return "faulty" if row.report.hooks else "broken"
    return "failing" if row.kept else "ok"


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    yield from render.table(
        ("plugin", "package", "state", "provides", "hooks"),
        [
            (
                row.report.entry_point,
                f"{row.report.package} {row.report.version}".strip() or "-",
                _word(row),
                row.provided.text,
                ", ".join(hook.removeprefix("outpost_") for hook in row.report.hooks) or "-",
            )
            for row in rows
        ],
        keep=("plugin", "state"),
        colour=("state",),
    )
    for row in rows:
        name = render.clean(row.report.entry_point)
        for problem in row.report.problems:
            yield f"  → {name}: {render.clean(problem.reason)}"
        for kept in row.kept:
            yield f"  → {name}: {render.clean(kept.text)}"
    if any(row.report.problems or row.kept for row in rows):
        yield "  outpost plugins NAME says what to do, and shows where it was raised"


def _details(rows: Sequence[Row]) -> Iterator[str]:
    from outpost_manager.plugins.advice import hint_for

    for row in rows:
        report = row.report
        yield from render.pairs(
            [
                ("plugin", report.entry_point),
                ("package", f"{report.package} {report.version}".strip() or "-"),
                ("module", report.value or "-"),
                ("state", _word(row)),
                ("provides", row.provided.text),
                ("hooks", ", ".join(report.hooks) or "-"),
            ]
        )
        for problem in report.problems:
            yield f"{output.style('problem', fg='red')}: {render.clean(problem.reason)}"
            yield f"  → {render.clean(hint_for(report, problem))}"
            yield from _indented(problem.traceback)
        for kept in row.kept:
            yield f"{output.style('error', fg='red')}: {render.clean(kept.text)}"
            yield from _indented(kept.traceback)


def _indented(text: str) -> Iterator[str]:
    yield from (f"    {render.clean(line)}" for line in text.splitlines())


plugin = Group(
    "plugin",
    short_help="Make a plugin: a package that works.",
    help="Make a plugin: a package that works, with tests and a workflow for CI.\n\n"
    "\b\nExample:\n  outpost plugin new my-policy --kind policy",
)


@command("new", of_here=True)
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), required=True, help="What the plugin is.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where to write it; ./outpost-NAME if not given.",
)
def new(session: Session, name: str, kind: str, folder: Path | None) -> None:
    """Make a package with a plugin that works, tests that pass, and a workflow for CI.

    \b
    Example:
      outpost plugin new sandbox --kind outpost
    """
    from outpost_manager.plugins.scaffold import make_plugin

    if kind == "command" and name.removeprefix("outpost-") in COMMANDS:
        raise UsageError(f"outpost has a command {name!a} already", hint="use another name")
    made = make_plugin(name, kind, folder)

    def lines() -> Iterator[str]:
        yield f"made {made.distribution} in {made.folder}:"
        yield from (f"  {file}" for file in made.files)
        yield f"  → cd {made.folder} && pip install -e '.[test]' && pytest"

    def data() -> dict[str, Any]:
        return {
            "package": made.distribution,
            "kind": kind,
            "folder": str(made.folder),
            "files": list(made.files),
        }

    session.answer(data, lines)


plugin.add_command(new)
