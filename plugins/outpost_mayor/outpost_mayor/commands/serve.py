"""`outpost serve`: run the mayor, say how it does, have the system keep it running."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from outpost_core.errors import NotFoundError, UsageError
from outpost_manager.cli.session import Session, command
from outpost_manager.jsonviews import moment

if TYPE_CHECKING:
    from outpost_mayor.serving.lease import Holder


@command("serve")
@click.option("--status", is_flag=True, help="Say whether a mayor runs, and how it does.")
@click.option("--log-json", is_flag=True, help="Log one JSON object a line.")
@click.option("--env-file", type=click.Path(path_type=Path), metavar="FILE",
              help="Take secrets from a private file of NAME=value lines.")  # fmt: skip
def serve(session: Session, status: bool, log_json: bool, env_file: Path | None) -> None:
    """Run the mayor, which works for as long as it runs.

    It places what is in the queue, follows workers at all outposts, fires schedules and tells
    of what happens. It runs in the foreground; SIGTERM or Ctrl-C ends it, and no worker. The
    configuration is read again when its file changes. One mayor runs for a state folder: a second
    one says who that is and ends with exit code 6. With --status, exit code 4 when none runs.

    \b
    Examples:
      outpost serve
      outpost serve --status --json
    """
    from outpost_mayor.serving import lease
    from outpost_shared.paths import state_dir

    folder = session.state or state_dir(os.environ)
    if status:
        _status(session, folder)
        return
    if session.json:
        raise UsageError("serve answers nothing", hint="--log-json makes its log JSON")
    from outpost_manager.cli import logsetup
    from outpost_mayor.serving.program import read_secrets
    from outpost_mayor.serving.program import serve as run

    if env_file is not None:
        os.environ.update(read_secrets(env_file))
    logsetup.steadily(as_json=log_json)
    with lease.hold(folder):
        session.run(run)


def _status(session: Session, folder: Path) -> None:
    from outpost_mayor.serving import lease, status

    held = lease.holder(folder)
    services = status.read(folder) if held is not None else ()
    session.answer(
        lambda: _shape(held, services),
        lambda: _lines(folder, held, services),
    )
    if held is None:
        click.get_current_context().exit(NotFoundError.exit_code)


def _shape(held: Holder | None, services: Any) -> dict[str, Any]:
    return {
        "running": held is not None,
        "pid": held.pid or None if held else None,
        "host": held.host or None if held else None,
        "since": moment(held.since) if held else None,
        "services": [{**one, "since": moment(one["since"])} for one in services],
    }


def _lines(folder: Path, held: Holder | None, services: Any) -> Iterator[str]:
    from outpost_manager.cli import render

    if held is None:
        yield f"no mayor runs for {folder}"
        return
    yield f"{held} runs for {folder}"
    if services:
        yield from render.table(
            ("service", "state", "failures", "last error"),
            [
                (one["name"], one["state"], str(one["failures"]), one["error"] or "-")
                for one in services
            ],
        )
