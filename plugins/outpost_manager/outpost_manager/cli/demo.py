"""`outpost demo`: what Outpost does, for real, from an empty folder to pushed branches."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import click

from outpost_core.errors import UsageError
from outpost_manager import jsonviews
from outpost_manager.cli import output, render
from outpost_manager.cli.demoplaces import DemoCommand
from outpost_manager.cli.session import Session, command
from outpost_manager.cli.workers import end_line
from outpost_manager.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outpost_core.agents import AgentPreset
    from outpost_manager.cli.demokit import Outcome


@command("demo", cls=DemoCommand, of_here=True)
@click.option("--keep", is_flag=True, help="Keep the folder with everything in it.")
def demo(session: Session, keep: bool, place: str | None = None) -> None:
    """Watch three workers in a throw-away folder: no key, no account.

    Makes a git repository with a remote and three issues, has a worker do each, kills one in the
    middle of its work and takes it up again, and shows the three branches. A script does the work
    of an agent; all else is real. It uses the local outpost with a state of its own: your
    configuration and your workers are not touched. With a flag of an installed package one order
    runs at a stand-in for another kind of outpost.

    \b
    Example:
      outpost demo --keep
    """
    if shutil.which("git") is None:
        raise UsageError("git is not installed", hint="sudo apt-get install git")
    # what clears up behind a demo that was killed goes by the name
    made = nullcontext(mkdtemp(prefix="outpost-demo-kept-")) if keep else scratch("outpost-demo-")
    with made as name:
        folder = Path(name)
        outcome = _run(session, folder, place)

    def data() -> object:
        return {
            "ok": outcome.ok,
            "workers": [*map(jsonviews.worker, outcome.workers)],
            "killed": outcome.killed,
            "branches": dict(outcome.branches),
            "diff": outcome.diff,
            "log": outcome.log,
            "folder": str(folder) if keep else None,
        }

    session.answer(data, lambda: _lines(session, outcome, folder if keep else None))
    click.get_current_context().exit(0 if outcome.ok else 1)


def _run(session: Session, folder: Path, place: str | None) -> Outcome:
    if place is None:
        from outpost_manager.cli.demothree import show

        return show(session, folder)
    from outpost_manager.cli.demoone import show as show_one

    return show_one(session, folder, place)


def _lines(session: Session, outcome: Outcome, kept: Path | None) -> Iterator[str]:
    if outcome.killed is None:
        yield output.style("The branch on the remote:", bold=True)
        yield from (f"  {name} {commit}" for name, commit in outcome.branches.items())
        yield output.style("The diff:", bold=True)
        for line in outcome.diff.splitlines():
            colour = {"+": "green", "-": "red"}.get(line[:1])
            yield "  " + output.style(render.clean(line), fg=colour)
    last = outcome.workers[-1]
    yield output.style(f"What {last.id} printed:", bold=True)
    for line in outcome.log.splitlines():
        yield f"  {render.clean(line)}"
    yield output.style("The results, each seen on the remote:", bold=True)
    for worker in outcome.workers:
        yield f"  {end_line(worker)}"
    if kept is not None:
        yield f"  kept in {kept}"
    if not outcome.ok:
        yield output.style("The demo did not end as it should.", fg="red")
        yield "  → outpost doctor"
        return
    yield output.style("Next, in a clone of your own repository:", bold=True)
    yield from _next(session)


def _next(session: Session) -> Iterator[str]:
    """Say which command comes next on this machine."""
    ready = [name for name, preset in session.presets().items() if _is_ready(preset)]
    agent = f" --agent {ready[0]}" if ready and ready[0] != "claude" else ""
    if not ready:
        yield "  outpost doctor      (no agent is installed and logged in yet; it says how)"
    yield f"  outpost spawn my-first --title 'What is to be done'{agent} --follow"


def _is_ready(preset: AgentPreset) -> bool:
    """Whether an agent is installed, and logged in as far as that can be seen."""
    if not preset.headless or shutil.which(preset.headless[0]) is None:
        return False
    return not preset.logins or any(Path(file).expanduser().exists() for file in preset.logins)
