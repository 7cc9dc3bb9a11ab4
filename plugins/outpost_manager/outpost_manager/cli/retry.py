"""Further attempts from what is written down: `retry` and `continue`."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

import click

from outpost_core.errors import OutpostError
from outpost_manager.cli import complete, render
from outpost_manager.cli.progress import Progress
from outpost_manager.cli.session import Session, command
from outpost_manager.cli.spawn import start, start_far
from outpost_manager.cli.values import duration

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from outpost_manager.manager import Manager
    from outpost_manager.placing.attempts import Further, Next
    from outpost_manager.remote.manager import RemoteManager, Started

_Decorator: TypeAlias = "Callable[[Callable[..., None]], Callable[..., None]]"
_OPTIONS: Final[tuple[_Decorator, ...]] = (
    click.option("--on", metavar="OUTPOST", shell_complete=complete.outposts,
                 help="At this outpost and no other."),
    click.option("--rig", metavar="URL",
                 help="The repository's URL with its password, where it had one."),
    click.option("--follow", "follow_", is_flag=True,
                 help="Print the output until the worker ends."),
    click.option("--wait", is_flag=True, help="Return when the workers have ended."),
)  # fmt: skip


def _options(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@command("retry", anywhere=True)
@click.argument("issues", nargs=-1, metavar="[ISSUE]...", shell_complete=complete.issues)
@click.option("--failed", is_flag=True, help="All whose last attempt failed or was lost.")
@click.option("--since", metavar="DURATION",
              help="With --failed: only what ended so long ago, or later: 2h, 1d.")  # fmt: skip
@_options
def retry(
    session: Session,
    issues: tuple[str, ...],
    failed: bool,
    since: str | None,
    on: str | None,
    rig: str | None,
    follow_: bool,
    wait: bool,
) -> None:
    """Try again what failed, with the same order.

    From any folder: repository, agent, prompt and limits are those of the last attempt, and it
    starts from the work that was kept. Secrets are taken from your environment anew.

    \b
    Examples:
      outpost retry gt-1 gt-2
      outpost retry --failed --since 1d --wait
    """
    if failed == bool(issues):
        raise click.UsageError("name issues, or say --failed")
    if since is not None and not failed:
        raise click.UsageError("--since goes with --failed")
    seconds_ago = duration(since, "--since")
    if session.far:

        async def ask(
            manager: RemoteManager, only: Collection[str] | None, seconds: float
        ) -> Started:
            wanted = [*dict.fromkeys(issues if only is None else sorted(only))]
            every = failed and only is None
            return await manager.retry(wanted, on, seconds, failed=every, since=seconds_ago)

        _start_far(session, ask, rig, follow_, wait)

    async def find(further: Further) -> list[str]:
        return [*dict.fromkeys(issues)] if issues else await further.failed(seconds_ago)

    _start_all(
        session, find, lambda further, issue: further.retry(issue, on=on, rig=rig), follow_, wait
    )


@command("continue", anywhere=True)
@click.argument("issue", shell_complete=complete.issues)
@click.argument("text", nargs=-1, required=True, metavar="TEXT...")
@click.option("--fresh", is_flag=True,
              help="A new session of the agent, which is told what was done before.")  # fmt: skip
@_options
def continue_(
    session: Session,
    issue: str,
    text: tuple[str, ...],
    fresh: bool,
    on: str | None,
    rig: str | None,
    follow_: bool,
    wait: bool,
) -> None:
    """Continue with delivered work: say what else to do.

    The next attempt starts at the commit that the last one delivered, and delivers to the same
    branch. The agent continues with its own session where it can, at the outpost that has it; else
    it is told what was done before. TEXT of a single - is standard input.

    \b
    Example:
      outpost continue gt-1 "also add a test"
    """
    said = sys.stdin.read() if text == ("-",) else " ".join(text)
    if session.far:

        async def ask(manager: RemoteManager, _: Collection[str] | None, seconds: float) -> Started:
            return await manager.go_on(issue, said, on=on, fresh=fresh, wait=seconds)

        _start_far(session, ask, rig, follow_, wait)

    async def find(_: Further) -> list[str]:
        return [issue]

    _start_all(
        session,
        find,
        lambda further, one: further.go_on(one, said, on=on, rig=rig, fresh=fresh),
        follow_,
        wait,
    )


def _start_far(
    session: Session,
    ask: Callable[[RemoteManager, Collection[str] | None, float], Awaitable[Started]],
    rig: str | None,
    follow_: bool,
    wait: bool,
) -> NoReturn:
    """Have a server start further attempts, and exit; see `start_far`."""
    if rig:
        raise click.UsageError(
            "--rig is for a URL with a password, which is not sent to a server: give the server a"
            " login of its own"
        )

    async def there(manager: RemoteManager) -> int:
        return await start_far(session, manager, partial(ask, manager), follow_=follow_, wait=wait)

    click.get_current_context().exit(session.at_server(there))


def _start_all(
    session: Session,
    find: Callable[[Further], Awaitable[list[str]]],
    make: Callable[[Further, str], Awaitable[Next]],
    follow_: bool,
    wait: bool,
) -> None:
    """Make the next attempts and start them; one that cannot be made stops none of the others."""
    progress = Progress.of(session)

    async def work(manager: Manager) -> int:
        further = manager.further
        issues = await find(further)
        if follow_ and len(issues) > 1:
            raise click.UsageError("--follow follows one worker; use --wait for several")
        await manager.look_at([issue.rpartition(".")[0] for issue in issues] + issues)
        made: list[Next] = []
        refused: list[tuple[str, OutpostError]] = []
        for issue in issues:
            try:
                made.append(await make(further, issue))
            except OutpostError as error:
                if len(issues) == 1:
                    raise
                refused.append((issue, error))
        if not issues:
            session.note("nothing failed that is not done or runs again")
        for one in made:
            if one.session is not None:
                progress.line(render.clean(
                    f"{one.order.worker}: continues with the session {one.session} at {one.on}"
                ))  # fmt: skip
        return await start(
            session,
            manager,
            [one.order for one in made],
            progress,
            on=[one.on for one in made],
            follow_=follow_,
            wait=wait,
            refused=refused,
        )

    click.get_current_context().exit(session.run(work))
