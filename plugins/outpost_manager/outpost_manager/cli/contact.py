"""Being with a worker: `logs`, `attach`, `peek`, `nudge`, `stop`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, NoReturn

import click

from outpost_core.errors import NotFoundError, OutpostError, UnsupportedError
from outpost_manager.cli import complete, output, render
from outpost_manager.cli.follow import Write, follow, is_known, writer
from outpost_manager.cli.progress import Progress
from outpost_manager.cli.session import Session, command, print_json
from outpost_manager.cli.workers import end_line, keeps_running
from outpost_manager.placing import references
from outpost_manager.remote.address import login
from outpost_shared.viewer import check_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outpost_core.types import Order, Worker
    from outpost_manager.manager import Manager
    from outpost_manager.managing import Managing
    from outpost_manager.remote.manager import RemoteManager


@command("logs", anywhere=True)
@click.argument("worker", shell_complete=complete.workers)
@click.option(
    "-f", "--follow", "follow_", is_flag=True, help="Continue until the worker has ended."
)
@click.option("--offset", default=0, type=click.IntRange(min=0), metavar="BYTES",
              help="Begin at this byte.")  # fmt: skip
@click.option(
    "--raw",
    "readable",
    flag_value="no",
    help="Exact bytes on a terminal, too (they may control it).",
)
@click.option(
    "--readable", "readable", flag_value="yes", help="Text for people into a pipe or file, too."
)
def logs(session: Session, worker: str, follow_: bool, offset: int, readable: str | None) -> None:
    """Print a worker's output.

    Into a pipe or file: byte for byte. On a terminal: text for people; of an agent that prints
    JSON lines what it says, runs and sees (with --follow into a pipe, too), of any other output
    all of it, with colours, but control sequences shown instead of obeyed. With --json: one line
    for each piece.

    \b
    Example:
      outpost logs -f gt-abc123.1
    """

    async def work(manager: Managing) -> None:
        found = await manager.worker(worker)
        if follow_ and not found.state.terminal:
            session.going_on = keeps_running([found.id])
        write: Write = _JsonWriter(offset)
        if not session.json:
            order = await manager.order_of(found.id)
            text = None if readable is None else readable == "yes"
            kind = order.agent.output if order else ""
            write = writer(kind=kind, readable=text, following=follow_)
        try:
            if follow_:
                await follow(manager, found.id, write, Progress.of(session), offset=offset)
                return
            async for chunk in manager.logs(references.exact(found.id), offset):
                write(chunk, False)
            write(b"", True)
        except NotFoundError as error:
            if await manager.was_cleaned(found.id):
                raise NotFoundError(
                    f"the output of {found.id} was removed by outpost clean",
                    hint=f"outpost show {found.id} has its result",
                ) from error
            raise

    session.anywhere(work)


class _JsonWriter:
    """Prints `(chunk, final)` as lines of JSON."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def __call__(self, chunk: bytes, _final: bool) -> None:
        if not chunk:
            return
        text = chunk.decode("utf-8", "replace")
        line = {"offset": self._offset, "text": text}
        if text.encode() != chunk:
            from base64 import b64encode

            line["base64"] = b64encode(chunk).decode()
        print_json(line, one_line=True)
        self._offset += len(chunk)


@command("attach", anywhere=True)
@click.argument("worker", shell_complete=complete.active_workers)
def attach(session: Session, worker: str) -> None:
    """Give this terminal to a worker; detach any time.

    Detaching leaves the worker running. At local and SSH outposts it is tmux's: C-b d, and
    from within a tmux of your own C-b C-b d.

    \b
    Example:
      outpost attach gt-abc123.1
    """
    if session.far:
        session.at_server(lambda manager: _refuse_far(session, manager, worker))

    async def work(manager: Manager) -> tuple[Worker, int]:
        found = await manager.worker(worker)
        session.going_on = keeps_running([found.id])
        order = await manager.order_of(found.id)
        if order and not found.state.terminal and _prints_records(order):
            check_terminal(found.id)
            session.note(f"{found.id} works alone and reads nothing; Ctrl-C ends the looking")
            write = writer(kind=order.agent.output, readable=True)
            await follow(manager, found.id, write, Progress.of(session))
            return await manager.worker(references.exact(found.id)), 0
        code = await manager.attach(references.exact(found.id))
        return await manager.worker(references.exact(found.id)), code

    found, code = session.run(work)
    session.answer(
        lambda: {"worker": found.id, "exit_code": code},
        lambda: [
            end_line(found) if found.state.terminal else f"{render.clean(found.id)} keeps running"
        ],
    )
    click.get_current_context().exit(code)


async def _refuse_far(session: Session, manager: RemoteManager, ref: str) -> NoReturn:
    """Say how to come to a worker of a server, since a terminal does not go over HTTP.

    Raises:
        UnsupportedError: always.
    """
    found = await manager.find(ref)
    way = login(session.far, await manager.mayor_host())
    say = f"outpost attach {shlex.quote(found.id)}"
    if way.startswith("ssh "):
        way, say = "there", f"{way.replace('ssh', 'ssh -t', 1)} {shlex.quote(say)}"
    raise UnsupportedError(
        f"{found.id} is at {found.outpost}, and a terminal does not go through a server",
        hint=f"{way}, as the user who runs the mayor: {say}; from here, outpost peek, logs -f and"
        " nudge work",
    )


def _prints_records(order: Order) -> bool:
    """Whether a worker's output is JSON lines of an agent that Outpost tells as text."""
    return not order.agent.interactive and is_known(order.agent.output)


async def told(manager: Managing, worker: str, text: str, lines: int) -> str:
    """Return the end of a worker's output as people read it, also where it is JSON lines."""
    order = await manager.order_of(worker)
    if order is None or not _prints_records(order):
        return text
    from outpost_manager.cli.readable import Readable

    whole = [line for line in text.splitlines() if not line or line[0] == "{" or len(line) < 1000]
    shown = Readable(order.agent.output).feed("\n".join(whole).encode() + b"\n", final=True)
    return "\n".join(click.unstyle(shown).splitlines()[-lines:]) + "\n"


@command("peek", anywhere=True)
@click.argument("worker", shell_complete=complete.active_workers)
@click.option("--lines", default=50, type=click.IntRange(1, 10_000), show_default=True,
              help="The last so many.")  # fmt: skip
def peek(session: Session, worker: str, lines: int) -> None:
    """Print what a worker's terminal shows.

    \b
    Example:
      outpost peek gt-abc123.1 --lines 20
    """

    async def work(manager: Managing) -> tuple[str, str]:
        found = (await manager.find(worker)).id
        text = await manager.peek(worker, lines)
        return found, await told(manager, found, text, lines)

    found, text = session.anywhere(work)
    session.answer(
        lambda: {"worker": found, "text": text}, lambda: [render.clean_lines(text.rstrip("\n"))]
    )


@command("nudge", anywhere=True)
@click.argument("worker", shell_complete=complete.active_workers)
@click.argument("text", nargs=-1, required=True)
def nudge(session: Session, worker: str, text: tuple[str, ...]) -> None:
    """Type a line into an interactive worker.

    \b
    Example:
      outpost nudge gt-abc123.1 please run the tests first
    """
    words = " ".join(text)

    async def work(manager: Managing) -> str:
        await manager.nudge(worker, words)
        return (await manager.find(worker)).id

    found = session.anywhere(work)
    session.answer(
        lambda: {"worker": found, "text": words}, lambda: [f"typed into {render.clean(found)}"]
    )


@command("stop", anywhere=True)
@click.argument("workers", nargs=-1, required=True, metavar="WORKER...",
                shell_complete=complete.active_workers)  # fmt: skip
@click.option("--grace", metavar="DURATION", help="Time between TERM and KILL: 10s.")
@click.option(
    "--forget",
    is_flag=True,
    help="Give workers up whose outpost is no longer in outposts.yaml; asks nobody.",
)
def stop(session: Session, workers: tuple[str, ...], grace: str | None, forget: bool) -> None:
    """End workers, after rescuing their unpushed work.

    Returns when their outposts have the request; `outpost wait` waits for the end.

    With --forget nothing is ended: the record of a worker that nobody can be asked about is
    closed as lost. Where its outpost is configured, it is refused.

    \b
    Example:
      outpost stop gt-abc123.1 --grace 30s
    """
    from outpost_manager.cli.values import duration

    seconds = duration(grace, "--grace")
    if forget and seconds is not None:
        raise click.UsageError("--forget and --grace exclude each other: nothing is ended")

    async def work(manager: Managing) -> dict[str, OutpostError | Worker]:
        import asyncio

        answers = await asyncio.gather(*(_stop_one(manager, w, seconds, forget) for w in workers))
        return dict(zip(workers, answers, strict=True))

    answers = session.anywhere(work)
    errors = {w: a for w, a in answers.items() if isinstance(a, OutpostError)}

    def data() -> object:
        from outpost_manager.errorview import error_shape

        return {
            "stopped": [a.id for a in answers.values() if not isinstance(a, OutpostError)],
            "refused": [{"worker": w, "error": error_shape(e)} for w, e in errors.items()],
        }

    def lines() -> Iterator[str]:
        for answer in answers.values():
            if not isinstance(answer, OutpostError):
                yield (
                    end_line(answer)
                    if answer.state.terminal
                    else (f"{render.clean(answer.id)} was told to end")
                )

    session.answer(data, lines)
    for error in errors.values():
        session.note(output.error(str(error)))
    click.get_current_context().exit(next((e.exit_code for e in errors.values()), 0))


async def _stop_one(
    manager: Managing, worker: str, grace: float | None, forget: bool
) -> OutpostError | Worker:
    try:
        return await (manager.forget(worker) if forget else manager.stop(worker, grace))
    except OutpostError as error:  # the others are stopped all the same
        return error
