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
    found = dataclasses.replace(result, checkpoint=None)  # until one is seen here
    gone = bool(result.commit) or owner_of(result.checkpoint, worker) is not None
    for place in _PLACES:
        for name in notes.names(place):
            note = notes.read(place, name)
            rig = LocalRig.at(note.home or note.rig) if note is not None else None
            if note is not None and rig is not None and gone:
                found, gone = await _seen(rig, note, found)
            if place == WAITING:
                notes.move(name, WAITING, HOME)
                faults.point("rig.given_up")
                tidy(folder, name)
    if not gone:
        return found if found.checkpoint or owner_of(result.checkpoint, worker) else result
    kept = f"; its last checkpoint is in {found.checkpoint}" if found.checkpoint else ""
    return dataclasses.replace(
        found, state=State.LOST, reason=reason, message=f"{why}{kept}", branch=None, commit=None
    )


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
    checkpoint = note.ref if not there.code else None
    whole = dataclasses.replace(result, checkpoint=checkpoint)
    if not result.commit:  # a checkpoint is all that there was; an earlier one is not that one
        return whole, checkpoint is None or there.text in note.kept
    for branch in note.branches(check_oid(result.commit), result.branch or ""):
        if await rig.holds(branch, result.commit):
            return dataclasses.replace(whole, branch=branch), False
    return whole, True
