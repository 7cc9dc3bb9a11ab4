"""Setting an outpost up: `bootstrap`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

import click

from outpost_manager.cli import complete, output, render
from outpost_manager.cli.session import Session, command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outpost_core.types import Step
    from outpost_manager.manager import Manager

_MARKS: Final = {
    "ok": ("✓", "green"),
    "done": ("+", "green"),
    "would": ("~", "cyan"),
    "failed": ("✗", "red"),
    "skipped": ("·", "yellow"),
}
#: Seconds below which nobody wants to know how long a step took.
_WORTH_SAYING: Final = 1.0
#: Seconds between two looks at the clock while a step runs.
_TICK: Final = 0.5


@command("bootstrap")
@click.argument("name", metavar="OUTPOST", shell_complete=complete.outposts)
@click.option(
    "--agent",
    "agents",
    multiple=True,
    metavar="AGENT",
    shell_complete=complete.agents,
    help="Install this agent; again for more. Without it, `defaults.agent` of the configuration, "
    "else claude.",
)
@click.option("--dry-run", is_flag=True,
              help="Change nothing; say what would be done.")  # fmt: skip
def bootstrap(session: Session, name: str, agents: tuple[str, ...], dry_run: bool) -> None:
    """Install what workers need at an outpost.

    git, tmux, Python, agents, and a clone of the town at `town_path`, as far as that is allowed
    there. What is there is left alone, so it can be run again at any time; what needs a password
    is said and not done. Exit code 1 when a step failed.

    \b
    Examples:
      outpost bootstrap vm1 --dry-run
      outpost bootstrap vm1 --agent claude --agent codex
    """
    shown = _Display(quiet=session.json)
    click.get_current_context().call_on_close(shown.close)
    if not dry_run:
        session.going_on = "what was installed stays; run it again to continue"

    async def work(manager: Manager) -> list[tuple[Step, float]]:
        return await _run(manager, shown, name, [*agents] or None, dry_run=dry_run)

    ended = session.run(work)
    failed = any(step.state == "failed" for step, _ in ended)

    def data() -> object:
        from outpost_manager import jsonviews

        taken = [jsonviews.step(step, seconds) for step, seconds in ended]
        return {"outpost": name, "ok": not failed, "dry_run": dry_run, "steps": taken}

    session.answer(data, lambda: _summary(name, [step for step, _ in ended], dry_run=dry_run))
    click.get_current_context().exit(1 if failed else 0)


async def _run(
    manager: Manager, shown: _Display, name: str, agents: list[str] | None, *, dry_run: bool
) -> list[tuple[Step, float]]:
    """Go through the steps, and return those that ended with the seconds that each took."""
    import asyncio

    from outpost_manager.bootstrap import steps

    ended: list[tuple[Step, float]] = []
    begun: dict[str, float] = {}
    stream = steps(manager, name, agents, dry_run=dry_run)
    clock = asyncio.create_task(shown.tick())
    try:
        async for step in stream:
            if step.state == "doing":
                begun[step.name] = time.monotonic()
                shown.begin(step.name)
                continue
            now = time.monotonic()
            ended.append((step, now - begun.get(step.name, now)))
            shown.end(*ended[-1])
    finally:
        clock.cancel()
        await stream.aclose()  # type: ignore[attr-defined]
    return ended


class _Display:
    """Each ended step as lines on standard output; the one that runs as a line that changes.

    Args:
        quiet: show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = not quiet and sys.stderr.isatty()
        self._name = ""
        self._since = 0.0

    def begin(self, name: str) -> None:
        """A step begins."""
        self._name, self._since = name, time.monotonic()
        self._draw()

    def end(self, step: Step, seconds: float) -> None:
        """A step has ended."""
        self.close()
        if self._quiet:
            return
        mark, colour = _MARKS[step.state]
        took = f" ({seconds:.0f} s)" if seconds >= _WORTH_SAYING else ""
        text = ": ".join(filter(None, (step.name, step.detail))) + took
        output.echo(f"{output.style(mark, fg=colour)} {render.clean(text)}")
        if step.hint and step.state in ("failed", "skipped"):
            output.echo(f"  → {render.clean(step.hint)}")

    async def tick(self) -> None:
        """Draw the running step again and again, for as long as it is awaited."""
        import asyncio

        while self._live:
            await asyncio.sleep(_TICK)
            self._draw()

    def close(self) -> None:
        """Remove the changing line."""
        if self._live and self._name:
            output.live("")
        self._name = ""

    def _draw(self) -> None:
        if not (self._live and self._name):
            return
        seconds = time.monotonic() - self._since
        took = f" {seconds:.0f} s" if seconds >= _WORTH_SAYING else ""
        columns = (render.terminal_width() or 80) - 1
        output.live(render.fit(f"… {render.clean(self._name)}{took}", columns))


def _summary(name: str, steps: list[Step], *, dry_run: bool) -> Iterator[str]:
    counts = {state: sum(step.state == state for step in steps) for state in _MARKS}
    words = {
        "ok": "there already",
        "done": "done",
        "would": "would be done",
        "failed": "failed",
        "skipped": "skipped",
    }
    told = ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts[state])
    yield f"{render.clean(name)}: {told or 'nothing to do'}{' (dry run)' if dry_run else ''}"
