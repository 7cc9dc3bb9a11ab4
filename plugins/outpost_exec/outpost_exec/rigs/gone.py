"""What counts of a worker whose machine is gone for good, with all that was not fetched of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

from outpost_core.names import owner_of
from outpost_core.types import Result, State
from outpost_exec.rigs.fetching import tidy
from outpost_exec.rigs.localrig import LocalRig
from outpost_exec.rigs.notes import CLEANING, HOME, WAITING, Note, Notes
from outpost_shared import faults
from outpost_worker.hosting.sentrefs import check_oid

_PLACES: Final = (WAITING, HOME, CLEANING)


async def settle(folder: Path, worker: str, result: Result, reason: str, why: str) -> Result:
    """Return a result as far as it is true here, where nothing can be fetched any more.

    Work that is seen in the rig counts; else the worker is lost, with the last checkpoint that came
    home while it was at work.

    Args:
        folder: where the notes are.
        worker: the worker's id.
        result: what its machine has said of its end.
        reason: the code, and
        why: the words, of the result of one whose work is gone.

    Raises:
        OutpostError: its note or its rig cannot be read; nothing was given up.
        UsageError: its machine named a commit that can be none.
    """
    notes = Notes(folder, worker)
    missing = bool(result.commit) or owner_of(result.checkpoint, worker) is not None
    # no ref counts before it is seen here
    found = dataclasses.replace(result, checkpoint=None) if missing else result
    for place in _PLACES:
        for name in notes.names(place):
            note = notes.read(place, name)
            rig = LocalRig.at(note.home or note.rig) if note is not None else None
            if note is not None and rig is not None:
                found, missing = await _seen(rig, note, result)
            if place == WAITING:
                notes.move(name, WAITING, HOME)
                faults.point("rig.given_up")
                tidy(folder, name)
    kept = f"; its last checkpoint is in {found.checkpoint}" if found.checkpoint else ""
    if missing:
        return dataclasses.replace(
            found, state=State.LOST, reason=reason, message=f"{why}{kept}", branch=None, commit=None
        )
    if found.checkpoint and not result.checkpoint:
        return dataclasses.replace(found, message=f"{found.message}{kept}".removeprefix("; "))
    return found


def forget(folder: Path, worker: str) -> None:
    """Forget a worker that was removed without asking its machine.

    Args:
        folder: where the notes are.
        worker: the worker's id.
    """
    notes = Notes(folder, worker)
    for place in _PLACES:
        for name in notes.names(place):
            notes.forget(name, place)
            tidy(folder, name)


async def _seen(rig: LocalRig, note: Note, result: Result) -> tuple[Result, bool]:
    """Return a result with what of it is in the rig, and whether something of it is not."""
    there = await rig.git("rev-parse", "--quiet", "--verify", note.ref)
    own = owner_of(result.checkpoint, note.worker) is not None
    if result.commit:
        whole = dataclasses.replace(result, checkpoint=None if there.code else note.ref)
        for branch in note.branches(check_oid(result.commit), result.branch or ""):
            if await rig.holds(branch, result.commit):
                return dataclasses.replace(whole, branch=branch), False
        return whole, True
    if result.state is State.DONE or (result.checkpoint and not own):
        return result, False  # there is nothing to be seen, or it is elsewhere
    # an earlier checkpoint is not the one that it ended with
    whole = dataclasses.replace(result, checkpoint=None if there.code else note.ref)
    return whole, own and (there.code != 0 or there.text in note.kept)
