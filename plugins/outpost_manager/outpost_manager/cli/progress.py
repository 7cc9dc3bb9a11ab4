"""What is going on, on standard error: a line that changes on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from outpost_core.types import State
from outpost_manager.cli import output, render

if TYPE_CHECKING:
    from outpost_core.types import Event, Worker
    from outpost_manager.cli.session import Session

#: event of the manager → the stage that it opens.
_STAGES: Final = {"placed": "reserving", "reserved": "preparing", "starting": "starting"}


class Progress:
    """Tells a person the stages of workers: placing, reserving, preparing, starting, working.

    Args:
        quiet: say nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live = not quiet and sys.stderr.isatty()
        self._open = False
        self._hushed = False
        self._said: dict[str, str] = {}
        self._ended: dict[str, bool] = {}

    @classmethod
    def of(cls, session: Session) -> Progress:
        """Return one for the current command, silent with `--json`, that cleans up at its end."""
        made = cls(quiet=session.json)
        click.get_current_context().call_on_close(made.close)
        return made

    def stage(self, who: str, text: str, *, passing: bool = False) -> None:
        """Say that `who` is at a stage; the same stage is said once.

        Args:
            who: an issue or a worker.
            text: the stage.
            passing: it takes a moment, and is worth no line that stays.
        """
        if self._quiet or self._hushed or self._said.get(who) == text:
            return
        if passing and not self._live:
            return
        self._said[who] = text
        line = render.clean(f"{who}: {text}")
        if self._live:
            if len(self._ended) > 1:
                line = f"{sum(self._ended.values())} of {len(self._ended)} ended · {line}"
            columns = (render.terminal_width() or 80) - 1
            output.live(render.fit(line, columns))
            self._open = True
        else:
            output.echo(line, err=True)

    def hush(self) -> None:
        """Say no more stages: from here on, the worker's own output is shown."""
        self.close()
        self._hushed = True

    def line(self, text: str) -> None:
        """Say something that stays."""
        if not self._quiet:
            self.close()
            output.echo(render.clean_lines(text), err=True)

    def event(self, event: Event) -> None:
        """Take an event of the manager."""
        where = f" at {event.outpost}" if event.outpost else ""
        if event.kind == "refused":
            self.line(f"{event.worker}: not{where}: {event.data.get('reason')}")
        elif event.kind == "spawned":
            state = event.data.get("state")
            self.stage(event.worker, f"{state}{where}", passing=state == State.QUEUED)
        elif event.kind == "sending":
            self.stage(event.worker, f"{event.data.get('detail')}{where}")
        elif event.kind in _STAGES:
            self.stage(event.worker, _STAGES[event.kind] + where)

    def worker(self, worker: Worker) -> None:
        """Take a worker that has changed."""
        self._ended[worker.id] = worker.state.terminal
        if worker.unreachable_since is not None and not worker.state.terminal:
            self.stage(worker.id, f"{worker.outpost} does not answer; waiting for it")
            return
        detail = f": {worker.detail}" if worker.detail and not worker.state.terminal else ""
        queued = worker.state is State.QUEUED
        self.stage(worker.id, f"{worker.state.value}{detail}", passing=queued)

    def close(self) -> None:
        """Remove the changing line, so that other output can follow."""
        if self._open:
            output.live("")
            self._open = False
