"""Every hook of Outpost. pluggy never awaits: coroutines are awaited by the manager.

Three kinds of plugin: a *backend* is an installed package (entry-point group `outpost`) that
builds outposts; an *outpost* is one configured place, registered under its own name; *anyone* may
choose, describe or watch.
"""
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import pluggy

if TYPE_CHECKING:  # annotations alone: `outpost --help` loads none of it
    from outpost_core.agents import AgentPreset
    from outpost_core.backend import Backend
    from outpost_core.types import (  # isort: skip
        Assignment, Candidate, Cleaned, Event, Facts, Finding, Health, Issue, Message, Order, Scale,
        Step, WorkerStatus,
    )  # fmt: skip

#: The version of these hooks. A plugin says `OUTPOST_API = 1` at its top level.
API_VERSION: Final = 1
PROJECT: Final = "outpost"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


# --- backends: an installed package ---------------------------------------------------------


@hookspec
def outpost_backends() -> Backend | Mapping[str, Backend]:
    """Return the outpost type that this package builds, or several by name. Opens nothing."""


# --- outposts: required ----------------------------------------------------------------------


@hookspec
async def outpost_spawn(order: Order) -> WorkerStatus:
    """Start the worker of `order`, or adopt it when it is already there (law 1).

    Returns when the worker is certain to run or to be found: from then on `outpost_list`
    shows it, whatever happens to the caller.

    Raises:
        ConflictError: the id exists with another order.
        SpawnRefusedError: it was certainly not started.
        UnreachableError: nothing is known, unless it says `sent=False`.
    """


@hookspec
async def outpost_list() -> Sequence[WorkerStatus]:
    """Return every worker that this outpost knows, ended ones too until they are cleaned.

    One that is there and has not begun is `queued`: while nobody knows that its spawn was
    finished, the manager repeats the spawn.
    """


@hookspec
async def outpost_ping() -> Health:
    """Say whether a worker could be started here now."""


@hookspec
def outpost_logs(worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
    """Yield the worker's output from byte `offset` on (an async generator).

    With `follow`, continues until the worker has ended and all of its output was yielded. An
    offset beyond the end yields nothing (with `follow`: waits).

    Raises:
        NotFoundError: there is no such worker.
    """


@hookspec
async def outpost_stop(worker: str, grace: float) -> None:
    """End the worker's whole process tree: TERM, `grace` seconds, KILL.

    Returns once the request is durable there; the result follows in `outpost_list`. Idempotent;
    an unknown or ended worker is fine.
    """


# --- outposts: optional, declared in `capabilities` ----------------------------------------


@hookspec
async def outpost_clean(worker: str, force: bool) -> Cleaned:
    """Remove an ended worker's files, after unpushed work was rescued (law 5).

    A running one is not removed, an unknown one counts as removed. `force`: also when that failed.
    """


@hookspec
async def outpost_attach(worker: str) -> int:
    """Give the caller's terminal to the worker; return the exit code of the viewer."""


@hookspec
async def outpost_nudge(worker: str, text: str) -> None:
    """Type `text` and Enter into an interactive worker."""


@hookspec
async def outpost_peek(worker: str, lines: int) -> str:
    """Return the last `lines` lines of what the worker's terminal shows."""


@hookspec
async def outpost_mail(message: Message) -> None:
    """Deliver a message to someone at this outpost.

    The same message (by its `id`) may be handed over again after a lost answer, and is delivered
    once as far as the far side can know.

    Raises:
        UsageError: it can never be delivered (no such address); it is not tried again.
        UnreachableError: nothing is known.
    """


@hookspec
async def outpost_inbox(identity: str) -> Sequence[Message]:
    """Return the messages that wait for `identity` here, oldest first; "" for everybody's."""


@hookspec
def outpost_price(order: Order) -> float:
    """Return the worst-case cost of the order here, in USD; pure, without I/O.

    May raise SpawnRefusedError: it could not be held here, such as for its timeout.
    """


@hookspec
async def outpost_facts(programs: Sequence[str]) -> Facts:
    """Say how much this place has, and whether agents' programs are installed here.

    Quick, and asked seldom: the answer is remembered for an hour. An order whose agent is known
    to be missing goes to another outpost.

    Args:
        programs: first words of agents' commands, to be found as a worker here would.
    """


@hookspec
async def outpost_doctor(rig: str | None) -> Sequence[Finding]:
    """Look at everything a worker needs here and say what is missing, with the hint.

    Args:
        rig: also whether a branch could be pushed to this repository from there; None: not asked.
    """


@hookspec
def outpost_bootstrap(agents: Sequence[str], dry_run: bool) -> AsyncIterator[Step]:
    """Install what a worker needs here, as far as that is allowed (an async generator).

    Idempotent: what is there is left alone. Yields each step when it begins (`doing`), and again
    when it has ended.

    Args:
        agents: names of agent presets to install.
        dry_run: change nothing; yield what would be done (`would`).
    """


@hookspec
def outpost_changes() -> AsyncIterator[None]:
    """Yield once you watch, and then whenever workers here may have changed (an async generator).

    Cheap while nothing changes. Whoever hears it asks `outpost_list`, and asks seldom besides.
    """


@hookspec
async def outpost_scale(to: int | None) -> Scale:
    """Have `to` of what workers run on (machines, warm containers) up; None: only look.

    Returns once that is so, or is certain to become so. Idempotent: after a crash it is asked
    again. Whoever asks for less has made sure that no worker there is ended by it.

    Raises:
        OutpostError: it does not become so; of an UnreachableError nobody knows.
    """


@hookspec
async def outpost_close() -> None:
    """Let go of connections and files; workers keep running."""


# --- anyone -----------------------------------------------------------------------------------


@hookspec(firstresult=True)
def outpost_assign(
    order: Order, candidates: Sequence[Candidate]
) -> Assignment | Sequence[str] | None:
    """Order the outposts for `order`: an `Assignment`, or names, best first. None: no opinion.

    Does no I/O. One that raises is passed over; the next one decides, and the explanation says so.
    """


@hookspec(firstresult=True)
def outpost_issue(issue_id: str, rig: str | None) -> Issue | None:
    """Look an issue up (title, text, priority, estimate, labels). None: not known here.

    Args:
        issue_id: a valid id.
        rig: path or URL of the repository, or None.
    """


@hookspec
def outpost_agents() -> Mapping[str, AgentPreset]:
    """Return agent presets by name; see the guide «Add an agent»."""


@hookspec
def outpost_event(event: Event) -> None:
    """Be told what happened, each event once, in a thread of your own: guide «Watch events»."""


@hookspec
def outpost_order(order: Order) -> Order | None:
    """Amend an order before it is placed, by `dataclasses.replace`; None: it stays as it is.

    The same order is amended to the same each time. Where this raises, it is not placed.
    """


@hookspec
def outpost_services(manager: object) -> Mapping[str, Callable[[], Awaitable[None]]]:
    """Return what a program that stays awaits beside its work: functions by name.

    One that raises is called again after a pause; `manager` is an open `Manager`.
    """


@hookspec
def outpost_commands() -> Sequence[object]:
    """Return further commands for the `outpost` command line; see the guide «Add a command»."""


#: Hooks of outposts that are asynchronous generators, and those that are plain functions.
ASYNC_GENERATORS: Final = frozenset({"outpost_logs", "outpost_bootstrap", "outpost_changes"})
PLAIN: Final = frozenset({"outpost_price"})
REQUIRED: Final = ("outpost_spawn", "outpost_list", "outpost_ping", "outpost_logs", "outpost_stop")
#: capability → the hook that it promises.
CAPABILITIES: Final[Mapping[str, str]] = {
    "clean": "outpost_clean",
    "attach": "outpost_attach",
    "nudge": "outpost_nudge",
    "peek": "outpost_peek",
    "mail": "outpost_mail",
    "inbox": "outpost_inbox",
    "price": "outpost_price",
    "facts": "outpost_facts",
    "doctor": "outpost_doctor",
    "bootstrap": "outpost_bootstrap",
    "changes": "outpost_changes",
    "scale": "outpost_scale",
}
#: capabilities without a hook of their own: what an order may ask of an outpost.
TRAITS: Final[Mapping[str, str]] = {
    "interactive": "runs agents on a terminal",
    "checkpoint": "rescues unpushed work",
    "rig": "clones a repository and delivers a branch",
    "local_rig": "can reach a repository that is a path on this machine",
    "secrets": "takes secrets apart from the order",
}
