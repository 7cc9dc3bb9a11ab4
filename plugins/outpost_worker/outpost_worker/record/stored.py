"""Records in cells: who may exchange what for what. The one `Record` for all places."""

from __future__ import annotations

import base64
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, TypeAlias

from outpost_core import wire
from outpost_core.errors import UnreachableError, UsageError
from outpost_core.names import check_branch
from outpost_core.types import Json, Result, State, split_worker_id
from outpost_shared import faults, plausible
from outpost_worker.record.cells import Cell, Cells, MovedError
from outpost_worker.record.kinds import (
    TAIL,
    Claim,
    Found,
    RecordBrokenError,
    SupersededError,
)

_CLAIM_FIELDS: Final = ("worker", "digest", "owner", "instance", "leg", "id")
#: What a claim says of pushes that began or were done by it; see `Found`.
Notes: TypeAlias = dict[str, Json]
_NOTES: Final = ("delivered", "pushing")
#: How often something is tried again that another one changes meanwhile.
_TRIES: Final = 12


class StoredRecord:
    """The records of one owner's workers, in cells.

    Args:
        cells: where.
        owner: id of the ledger that ordered them; "" for none.
    """

    def __init__(self, cells: Cells, owner: str = "") -> None:
        self._cells = cells
        self._owner = owner
        self._lock = threading.Lock()
        # claim's id → the version that it was last seen with, and what it said besides
        self._own: dict[str, tuple[str, Notes]] = {}

    # --- what can be asked -------------------------------------------------------------------

    def claim(self, claim: Claim) -> Claim:
        """Claim a worker, if nobody has; see `Record`."""
        return self._put(claim, "", stands=None)

    def take_over(self, claim: Claim, silent: str) -> Claim:
        """Let the next leg begin; see `Record`."""
        found = self._look(claim.worker)
        if found is None:
            raise _gone(claim)
        if found.claim.id == claim.id:
            self._note(claim, found)
            return claim
        if found.seen != silent or found.result or found.claim.digest != claim.digest:
            return found.claim
        if claim.leg != found.claim.leg + 1:
            raise UsageError(f"after leg {found.claim.leg} comes no leg {claim.leg}")
        return self._put(claim, silent, stands=found)

    def beat(self, claim: Claim) -> Found:
        """Say that the owner lives; see `Record`."""
        for _ in range(_TRIES):
            version, notes = self._own.get(claim.id) or ("", {})
            if not version:
                self._mine(claim)
                continue
            try:
                self._cells.swap(where(claim), version, said(claim, notes))
            except MovedError:
                self._mine(claim)
                continue
            self._forget_version(claim)
            found = self._look(claim.worker)
            if found is None or found.claim.id != claim.id or found.result is not None:
                continue
            self._note(claim, found)
            return found
        raise UnreachableError(f"the record of {claim.worker} changes all the time")

    def read(self, worker: str) -> Found | None:
        """Return what stands; see `Record`."""
        return self._look(worker)

    def ask_stop(self, worker: str, grace: float) -> None:
        """Leave word that the worker is to end; see `Record`."""
        name = _stop(worker, self._owner)
        for _ in range(_TRIES):
            there = self._cells.look([name]).get(name)
            if there is not None and _grace(there) == grace:
                return
            word: dict[str, Json] = {"stop": worker, "grace": grace, "word": os.urandom(8).hex()}
            try:
                self._cells.swap(name, there.version if there else "", _text(word))
            except MovedError:
                continue
            faults.point("record.stop_asked")
            return
        raise UnreachableError(f"the stop of {worker} changes all the time")

    def finish(self, claim: Claim, result: Result, tail: bytes) -> Result:
        """Say how the worker ended, once; see `Record`."""
        kept = base64.b64encode(tail[-TAIL:] if tail else b"").decode("ascii")
        more: dict[str, Json] = {"result": wire.to_json(result), "tail": kept}
        for _ in range(_TRIES):
            version = (self._own.get(claim.id) or ("",))[0]
            if not version:
                stands = self._mine(claim, result_too=True)
                if stands.result is not None:
                    return stands.result
                continue
            try:
                self._cells.swap(where(claim), version, said(claim, more))
            except MovedError:
                self._forget_version(claim)
                continue
            faults.point("record.finished")
            self._forget_version(claim)
            return result
        raise UnreachableError(f"the record of {claim.worker} changes all the time")

    def forget(self, worker: str) -> None:
        """Remove all that stands of a worker; see `Record`."""
        names = (_stop(worker, self._owner), _record(worker, self._owner))
        for _ in range(_TRIES):
            there = self._cells.look(names)
            if not there:
                return
            for name, cell in there.items():
                try:
                    self._cells.drop(name, cell.version)
                except MovedError:
                    continue
                faults.point("record.forgotten")
        raise UnreachableError(f"the record of {worker} changes all the time")

    def standing(self, claim: Claim) -> str:
        """Return the version that a claim stands with.

        Raises:
            SupersededError: it stands no more.
        """
        return self._mine(claim).seen

    def note_push(self, claim: Claim, refspec: str) -> None:
        """Say that a push is about to begin.

        Raises:
            SupersededError: the claim stands no more.
        """
        for _ in range(_TRIES):
            found = self._mine(claim)
            try:
                notes = push_notes(refspec, together=False)
                self._cells.swap(where(claim), found.seen, said(claim, {**_notes(found), **notes}))
            except MovedError:
                continue
            self._forget_version(claim)
            return
        raise UnreachableError(f"the record of {claim.worker} changes all the time")

    # --- how ---------------------------------------------------------------------------------

    def _put(self, claim: Claim, before: str, *, stands: Found | None) -> Claim:
        """Exchange a version for a claim; returns the claim that stands then."""
        name = where(claim)
        notes = _notes(stands) if stands else {}
        for _ in range(_TRIES):
            try:
                version = self._cells.swap(name, before, said(claim, notes))
            except MovedError:
                found = self._look(claim.worker)
                if found is None and before:
                    raise _gone(claim) from None
                if found is None:
                    continue
                if found.claim.id == claim.id:
                    self._note(claim, found)
                return found.claim
            faults.point("record.claimed")
            with self._lock:
                self._own[claim.id] = (version, notes)
            return claim
        raise UnreachableError(
            f"the record of {claim.worker} changes all the time"
            + (f"; leg {stands.claim.leg} stood last" if stands else ""),
            sent=False,
        )

    def _mine(self, claim: Claim, *, result_too: bool = False) -> Found:
        """Return what stands where that is a claim, and note its version.

        Raises:
            SupersededError: it stands no more.
        """
        self._forget_version(claim)
        found = self._look(claim.worker)
        if found is None:
            raise _gone(claim)
        if found.result is not None and result_too:
            return found
        if found.claim.id != claim.id:
            raise SupersededError(
                f"{claim.worker} was taken over: leg {found.claim.leg} runs it, this was leg"
                f" {claim.leg}"
            )
        if found.result is not None:
            raise SupersededError(f"{claim.worker} has ended already: {found.result.reason}")
        self._note(claim, found)
        return found

    def _look(self, worker: str) -> Found | None:
        split_worker_id(worker)
        record, stop = _record(worker, self._owner), _stop(worker, self._owner)
        there = self._cells.look([record, stop])
        cell = there.get(record)
        if cell is None:
            return None
        try:
            found = _understood(cell, worker, self._owner)
        except (UsageError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RecordBrokenError(
                f"{self._cells.where(record)[0]} is not what Outpost wrote: {_short(error)}",
                hint=f"see who did that, and remove it: {self._cells.where(record)[1]}",
            ) from None
        word = there.get(stop)
        return replace(found, stop=_grace(word) if word else None)

    def _note(self, claim: Claim, found: Found) -> None:
        with self._lock:
            self._own[claim.id] = (found.seen, _notes(found))

    def _forget_version(self, claim: Claim) -> None:
        with self._lock:
            self._own.pop(claim.id, None)


def _record(worker: str, owner: str) -> str:
    return _named("records", worker, owner)


def _stop(worker: str, owner: str) -> str:
    return _named("stops", worker, owner)


def _named(kind: str, worker: str, owner: str) -> str:
    split_worker_id(worker)
    return f"{owner}/{kind}/{worker}" if owner else f"{kind}/{worker}"


def where(claim: Claim) -> str:
    """Return the name of the cell of a claim's record."""
    return _record(claim.worker, claim.owner)


def said(claim: Claim, more: Mapping[str, Json]) -> bytes:
    """Return what is put into a cell for a claim; never the same twice.

    Args:
        claim: the claim.
        more: what else is said: a result, or `Notes`.
    """
    about: dict[str, Json] = {name: getattr(claim, name) for name in _CLAIM_FIELDS}
    return _text({**about, "word": os.urandom(8).hex(), **more})


def push_notes(refspec: str, *, together: bool) -> Notes:
    """Return what is said of a push.

    Args:
        refspec: the commit and the ref of the branch.
        together: it is in one transaction with what says so.
    """
    commit, _, ref = refspec.partition(":")
    about: Json = {"branch": ref.removeprefix("refs/heads/"), "commit": commit}
    return {"delivered" if together else "pushing": about}


def _text(value: Mapping[str, Json]) -> bytes:
    return wire.dumps(value).encode("ascii")


def _understood(cell: Cell, worker: str, owner: str) -> Found:
    """Return what a cell says of a worker.

    Raises:
        UsageError, ValueError, KeyError, TypeError: it is none of ours.
    """
    about = _parsed(cell)
    claim = Claim(**{name: about[name] for name in _CLAIM_FIELDS})
    if type(claim.leg) is not int or (claim.worker, claim.owner) != (worker, owner):
        raise ValueError("it speaks of another worker")
    found = Found(claim=claim, seen=cell.version)
    delivered, pushing = (_pushed(about.get(name)) for name in _NOTES)
    found = replace(found, delivered=delivered, pushing=pushing)
    if "result" not in about:
        return found
    result = wire.from_json(Result, about["result"])
    if odd := plausible.odd_result(result):
        raise ValueError(f"its result says what cannot be: {odd}")
    tail = base64.b64decode(about.get("tail", ""), validate=True)
    return replace(found, result=result, tail=tail[-TAIL:])


def _pushed(about: Any) -> Result | None:
    if about is None:
        return None
    branch, commit = check_branch(about["branch"]), about["commit"]
    if not (commit and plausible.commit(commit)):
        raise ValueError("what it says was pushed is no commit")
    message = "the branch was pushed, and its machine was gone before it could say more"
    return Result(state=State.DONE, branch=branch, commit=commit, message=message, agent_began=True)


def _notes(found: Found) -> Notes:
    """Return what a cell says of pushes."""
    pushes = ((name, getattr(found, name)) for name in _NOTES)
    return {n: {"branch": push.branch, "commit": push.commit} for n, push in pushes if push}


def _parsed(cell: Cell) -> dict[str, Any]:
    import json

    if cell.data is None:
        raise ValueError("it is too large, or of another kind")
    value = json.loads(cell.data)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def _grace(cell: Cell) -> float | None:
    """Return the grace of a stop; None where it is none of ours, which stops nobody."""
    try:
        grace = _parsed(cell)["grace"]
    except (ValueError, KeyError, RecursionError):
        return None
    if isinstance(grace, bool) or not isinstance(grace, int | float):
        return None
    return min(float(grace), 3600.0) if math.isfinite(grace) and grace >= 0 else None


def _gone(claim: Claim) -> SupersededError:
    return SupersededError(f"{claim.worker} has no record any more: somebody has removed it")


def _short(error: Exception) -> str:
    return ascii(str(error) or type(error).__name__)[1:-1][:200]
