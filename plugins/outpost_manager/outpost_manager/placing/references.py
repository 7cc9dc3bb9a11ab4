"""Which worker a name means: a worker's id, or an issue's for its newest attempt.

Ids of issues may have dots, so `ep.1` may be the first attempt at an epic `ep` and its child issue
`ep.1` at once. Such a name is refused; `worker:ep.1` and `issue:ep.1` say which one is meant, of
any name. No id has a colon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from outpost_core.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from outpost_core.types import Worker
    from outpost_manager.ledger import Ledger

WORKER: Final = "worker:"
ISSUE: Final = "issue:"


def exact(worker: str) -> str:
    """Return the name that means the worker of that id and nothing else."""
    return f"{WORKER}{worker}"


def find(ledger: Ledger, ref: str) -> Worker:
    """Return the worker that a name means, as the ledger has it.

    Args:
        ledger: the record.
        ref: a worker's id, or an issue's for its newest attempt; with `worker:` or `issue:`
            before it, that alone.

    Raises:
        NotFoundError: there is neither.
        UsageError: there are both.
    """
    name = ref.removeprefix(WORKER).removeprefix(ISSUE)
    known = name.isascii()  # an id is, and SQLite takes no lone surrogates
    worker = None if ref.startswith(ISSUE) or not known else ledger.worker(name)
    attempts = [] if ref.startswith(WORKER) or not known else ledger.attempts(name)
    newest = max(attempts, key=lambda attempt: attempt.attempt, default=None)
    if worker is not None and newest is not None:
        raise ambiguous(name, f"{worker.state.value} at {worker.outpost}", newest.id)
    found = worker or newest
    if found is None:
        raise NotFoundError(
            f"there is no worker or issue {ref[:120]!a}",
            hint="outpost workers --all shows those that there are",
        )
    return found


def among(ids: Iterable[str], ref: str) -> list[str]:
    """Return those of the workers' ids that a name means, where no ledger says which is newest.

    Raises:
        UsageError: some are so by their own id and some by their issue's.
    """
    ids = [*ids]
    name = ref.removeprefix(WORKER).removeprefix(ISSUE)
    own = [] if ref.startswith(ISSUE) else [worker for worker in ids if worker == name]
    attempts = [] if ref.startswith(WORKER) else [w for w in ids if w.rpartition(".")[0] == name]
    if own and attempts:
        raise ambiguous(name, "a worker", attempts[-1])
    return own or attempts


def ambiguous(name: str, what: str, newest: str) -> UsageError:
    """Return the error about a name that means two things."""
    issue, _, attempt = name.rpartition(".")
    return UsageError(
        f"{name} is two things: attempt {attempt} at the issue {issue} ({what}), and an issue of"
        f" its own, whose newest attempt is {newest}",
        hint=f"say {WORKER}{name} for the first, {newest} or {ISSUE}{name} for the second",
    )
