"""`outpost serve`: run the mayor, say how it does, have the system keep it running."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from outpost_core.errors import NotFoundError, UsageError
from outpost_manager.cli.session import Session, command

if TYPE_CHECKING:
    from outpost_manager.remote.manager import RemoteManager
    from outpost_mayor.serving.lease import Holder


@command("serve", anywhere=True)
@click.option("--status", is_flag=True, help="Say whether a mayor runs, and how it does.")
@click.option("--listen", metavar="HOST:PORT",
              help="Have its API listen there, too; every request needs a token then.")  # fmt: skip
@click.option("--tls-cert", type=click.Path(path_type=Path), metavar="FILE",
              help="Its certificate, PEM; a must where other machines reach the host.")  # fmt: skip
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE",
              help="The key of that certificate.")  # fmt: skip
@click.option("--log-json", is_flag=True, help="Log one JSON object a line.")
@click.option("--env-file", type=click.Path(path_type=Path), metavar="FILE",
              help="Take secrets from a private file of NAME=value lines.")  # fmt: skip
@click.option(
    "--install",
    "install_",
    is_flag=True,
    help="Have the system run it: a systemd user unit, or a launchd agent.",
)
@click.option("--uninstall", is_flag=True, help="Have the system run it no more.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME",
    help="With --install: keep the value of this variable for it, in a private file.",
)
@click.option("--dry-run", is_flag=True, help="Show what --install or --uninstall would do.")
def serve(
    session: Session, status: bool, listen: str | None, tls_cert: Path | None,
    tls_key: Path | None, log_json: bool, env_file: Path | None, install_: bool, uninstall: bool,
    secrets: tuple[str, ...], dry_run: bool,
) -> None:  # fmt: skip
    """Run the mayor, which works for as long as it runs.

    It places what is in the queue, follows workers at all outposts, fires schedules and tells
    of what happens. It runs in the foreground; SIGTERM or Ctrl-C ends it, and no worker. The
    configuration is read again when its file changes. Programs ask it over HTTP: at a socket in
    the state folder that is yours alone, and where --listen (or `api` in outposts.yaml) says. One
    mayor runs for a state folder: a second one says who that is and ends with exit code 6. With
    --status, exit code 4 when none runs.

    \b
    Examples:
      outpost serve
      outpost serve --listen 127.0.0.1:8080
      outpost serve --status --json
      outpost serve --install --secret ANTHROPIC_API_KEY
    """
    from outpost_mayor.serving import lease
    from outpost_shared.paths import state_dir

    if session.far:
        if not status:
            session.stay_here("outpost serve without --status")
        _status_far(session)
        return
    folder = session.state or state_dir(os.environ)
    if sum((status, install_, uninstall)) > 1:
        raise UsageError("--status, --install and --uninstall exclude each other")
    if (secrets or dry_run) and not (install_ or uninstall):
        raise UsageError("--secret and --dry-run go with --install")
    if install_ or uninstall:
        _install(session, secrets, away=uninstall, dry_run=dry_run)
        return
    if status:
        _status(session, folder)
        return
    if session.json:
        raise UsageError("serve answers nothing", hint="--log-json makes its log JSON")
    from outpost_manager.cli import logsetup
    from outpost_manager.config.api import address
    from outpost_mayor.serving.program import read_secrets
    from outpost_mayor.serving.program import serve as run

    at = None
    if listen is not None:
        at = address(listen, str(tls_cert or ""), str(tls_key or ""))
    elif tls_cert or tls_key:
        raise UsageError("--tls-cert and --tls-key go with --listen")
    if env_file is not None:
        os.environ.update(read_secrets(env_file))
    logsetup.steadily(as_json=log_json)
    with lease.hold(folder) as mine:
        session.run(lambda manager: run(manager, at=at, holder=mine))


def _install(session: Session, names: tuple[str, ...], *, away: bool, dry_run: bool) -> None:
    import sys

    from outpost_mayor.serving import install
    from outpost_shared.paths import state_dir

    program = [os.path.abspath(sys.executable), "-m", "outpost_manager"]  # noqa: PTH100 - a venv's own
    # what the shell says by its variables, the programs of the system do not hear
    config, state = session.config, session.state
    if config is None and (named := os.environ.get("OUTPOST_CONFIG")):
        config = Path(named)
    unsaid = {k: v for k, v in os.environ.items() if k not in {"OUTPOST_STATE", "XDG_STATE_HOME"}}
    if state is None and (folder := state_dir(os.environ)) != state_dir(unsaid):
        state = folder
    for flag, path in (("--config", config), ("--state", state)):
        if path is not None:
            program += [flag, str(path.absolute())]
    macos = sys.platform == "darwin"
    made = install.plan([*program, "serve"], os.environ, names=names, macos=macos)
    done = "would be written" if dry_run else "is written"
    said, told = [f"{made.unit} {done}"], None
    if away:
        removed = [str(made.unit)] if dry_run else install.uninstall(made)
        said = [f"{path} {'would be' if dry_run else 'is'} removed" for path in removed]
        said = said or ["nothing was installed"]
    else:
        said += [f"{made.secrets} {done}, with {', '.join(names) or 'no secret yet'}"]
        if dry_run:
            said += ["", *made.text.splitlines(), ""]
            said += [f"would run: {' '.join(words)}" for words in made.commands]
        else:
            told = install.install(made, os.environ)
            said += [f"the system says: {told}"]
        if not macos and (hint := install.linger_hint()):
            said += [f"  → {hint}"]
    session.answer(
        lambda: {
            "unit": str(made.unit), "secrets": str(made.secrets), "names": [*names],
            "text": made.text, "commands": [[*words] for words in made.commands],
            "dry_run": dry_run, "state": told,
        },
        lambda: said,
    )  # fmt: skip


def _status(session: Session, folder: Path) -> None:
    from outpost_mayor.serving import lease, status

    held = lease.holder(folder)
    services = status.read(folder) if held is not None else ()
    session.answer(
        lambda: status.shape(held, services),
        lambda: _lines(folder, held, services),
    )
    if held is None:
        click.get_current_context().exit(NotFoundError.exit_code)


def _status_far(session: Session) -> None:
    """Say how the mayor of a server does."""
    from outpost_mayor.serving import status

    async def work(manager: RemoteManager) -> dict[str, Any]:
        return manager.read(status.parsed, await manager.client.get("/v1/mayor"))

    found = session.at_server(work)
    session.answer(
        lambda: found,
        lambda: [
            f"the mayor runs at {session.far}, as process {found['pid']} on {found['host']}",
            *_service_lines(found["services"]),
        ],
    )


def _lines(folder: Path, held: Holder | None, services: Any) -> Iterator[str]:
    if held is None:
        yield f"no mayor runs for {folder}"
        return
    yield f"{held} runs for {folder}"
    yield from _service_lines(services)


def _service_lines(services: Any) -> Iterator[str]:
    from outpost_manager.cli import render

    if services:
        yield from render.table(
            ("service", "state", "failures", "last error"),
            [
                (one["name"], one["state"], str(one["failures"]), one["error"] or "-")
                for one in services
            ],
        )
