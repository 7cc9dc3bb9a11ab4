"""Orders that belong together: what became of them, stopping them, trying again what failed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import ConflictError, NotFoundError, OutpostError
from outpost_core.nearest import nearest
from outpost_manager.jsonqueue import as_json
from outpost_manager.jsonviews import moment
from outpost_manager.ledger.endings import Ending
from outpost_manager.placing import references

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outpost_core.types import Json
    from outpost_manager.ledger import Entry
    from outpost_manager.manager import Manager

_ALL: Final = ("waiting", "running", "settling", "ended")
#: Outcomes after which an entry is tried again.
_AGAIN: Final = ("failed", "stopped", "lost")


async def entries(manager: Manager, name: str) -> list[Entry]:
    """Return the entries of a batch, ended ones too.

    Raises:
        NotFoundError: there is no such batch.
    """
    found = await manager.ledger.queue.entries(states=_ALL, batch=name) if name else []
    if not found:
        near = nearest(name, [one for one, *_ in await manager.ledger.queue.batches()])
        hint = f"did you mean {near!a}?" if near else "outpost queue batches lists them"
        raise NotFoundError(f"there is no batch {name[:80]!a}", hint=hint)
    return found


async def overview(manager: Manager) -> list[dict[str, Any]]:
    """Return the document of each batch in short, the newest first."""
    return [brief(*row) for row in await manager.ledger.queue.batches()]


def brief(name: str, told: Mapping[str, int], added_at: float) -> dict[str, Any]:
    """Return the document of a batch in short."""
    return {"batch": name, "counts": {**told}, "added_at": moment(added_at)}


def counts(found: Sequence[Entry]) -> dict[str, int]:
    """Return how many of some entries are in each state, or ended how."""
    return dict(Counter(one.outcome or one.state for one in found))


async def cost(manager: Manager, found: Sequence[Entry]) -> float | None:
    """Return USD that the attempts of some entries cost so far; None where nobody knows."""
    known = [
        worker.cost
        for entry in found
        for worker in await manager.ledger.attempts(entry.issue)
        if worker.cost is not None
    ]
    return sum(known) if known else None


async def stop(
    manager: Manager, found: Sequence[Entry]
) -> tuple[list[str], dict[str, OutpostError]]:
    """Take out what waits of a batch, stop what runs, and have nothing of it be tried again.

    It is looked at again until nothing is left: what was about to begin or to be tried again while
    one looked is stopped too.

    Returns:
        the workers that were told to stop, and why others were not.
    """
    told, refused = list[str](), dict[str, OutpostError]()
    queue, batch = manager.ledger.queue, found[0].batch
    while left := [
        entry
        for entry in await queue.entries(states=("waiting", "running", "settling"), batch=batch)
        if entry.state != "running" or entry.worker not in (*told, *refused)
    ]:
        for entry in left:
            try:
                if entry.state == "waiting":
                    await queue.remove([entry.issue])
                elif entry.state == "running":
                    await manager.stop(references.exact(entry.worker))
                    told.append(entry.worker)
                else:
                    await _end(manager, entry)
            except OutpostError as error:
                if entry.state == "running":
                    refused[entry.worker] = error
                elif not isinstance(error, ConflictError):  # else it has just begun
                    raise
    return told, refused


async def _end(manager: Manager, entry: Entry) -> None:
    """End an entry whose attempt has ended, so that no other one is made of it."""
    worker = await manager.ledger.worker(entry.worker)
    outcome = "lost" if worker is None else worker.state.value
    why = "" if outcome == "done" else "its batch was stopped"
    told: dict[str, Json] = {"what": "end", "outcome": outcome, "why": why}
    ending = Ending(entry=entry, outcome=outcome, why=why, told=("decided", told))
    await manager.ledger.queue.end_all([ending])


async def retry(
    manager: Manager, found: Sequence[Entry]
) -> tuple[list[str], dict[str, OutpostError]]:
    """Queue again what failed of a batch, was stopped or lost.

    Returns:
        the issues that wait again, and why others do not.
    """
    again, refused = list[str](), dict[str, OutpostError]()
    for entry in found:
        if entry.outcome not in _AGAIN:
            continue
        try:
            following = await manager.further.retry(entry.issue)
            await manager.enqueue([following.order], on=following.on, batch=entry.batch)
            again.append(entry.issue)
        except OutpostError as error:
            refused[entry.issue] = error
    return again, refused


def shape(
    name: str,
    found: Sequence[Entry],
    usd: float | None,
    stopped: Sequence[str] = (),
    again: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the document of a batch."""
    told: Mapping[str, int] = counts(found)
    return {
        "batch": name, "entries": [*map(as_json, found)], "counts": told, "cost": usd,
        "stopped": [*stopped], "again": [*again],
    }  # fmt: skip
