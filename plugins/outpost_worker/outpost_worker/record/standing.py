"""Whether a worker that is about to push is still the one that runs the attempt.

A container may be frozen for an hour and thawed, while another machine has taken its worker over.
So `launch.json`, which is sealed, tells of the claim that a worker runs by (`launched`), and its
supervisor looks before it pushes. On a rig, the push of the branch is one transaction with an
exchange of the record: where the record was exchanged by another one, the branch is not moved, and
nothing of that depends on when either machine stood still. Where a host has no such transactions,
or the record is elsewhere, the look comes right before the push.
"""

from __future__ import annotations

import os

from outpost_core.errors import OutpostError, WorkerError
from outpost_worker.repository.git import Done, Git, run, surroundings

TYPE_CHECKING = False  # most workers have no record, and load nothing of this
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from outpost_worker.record.kinds import Claim
    from outpost_worker.record.stored import StoredRecord

REASON = "superseded"
#: The code with which a command of `ask` says that the claim stands no more.
SUPERSEDED = 3
#: Seconds that such a command may take.
_TIMEOUT = 120.0
#: How often a push is tried again since the record was exchanged meanwhile by a beat of ours.
_TRIES = 8
_NO_ATOMIC = "does not support --atomic"


def launched(claim: Claim, ask: Sequence[str] = ()) -> dict[str, Any]:
    """Return `record` of `launch.json`.

    Args:
        claim: what the worker runs by.
        ask: a command that says whether it stands, with code 0 for yes and `SUPERSEDED` for no;
            empty where the record is where the work is pushed to. Right before a push it gets one
            more argument, `COMMIT:REF`, and leaves word of it in the record.
    """
    import dataclasses

    return {"claim": dataclasses.asdict(claim), "ask": [*ask]}


class Standing:
    """The claim that a worker runs by.

    Args:
        about: `record` of `launch.json`.
        goal: where the work is pushed to.
        root: the state root.
        credentials: as for `Git`, there.
    """

    def __init__(self, about: Mapping[str, Any], goal: str, root: str, credentials: str) -> None:
        self._about = about
        self._goal = goal
        self._root = root
        self._credentials = credentials
        self._known: tuple[StoredRecord, Claim] | None = None
        self._atomic = True

    def check(self) -> None:
        """See that the claim stands.

        Raises:
            WorkerError: `superseded`; `push_failed` where nobody can say.
        """
        if self._about["ask"]:
            return self._ask(self._about["ask"])
        self._version()
        return None

    def push(self, git: Git, refspec: str) -> Done:
        """Push what a refspec says, if the claim stands; returns how the push ended.

        Args:
            git: git on the repository with the work, whose remote `outpost` is the goal.
            refspec: commit and branch.

        Raises:
            WorkerError: `superseded`; `push_failed` where nobody can say.
        """
        argv = ("push", "--porcelain", "--no-recurse-submodules")
        for _ in range(_TRIES):
            if self._about["ask"]:
                self._ask([*self._about["ask"], refspec])
                return git.run(*argv, "outpost", refspec)
            if not self._atomic:
                self._note_push(refspec)
                return git.run(*argv, "outpost", refspec)
            ref, version, value = self._next(git, refspec)
            lease = ("--atomic", f"--force-with-lease={ref}:{version}")
            done = git.run(*argv, *lease, "outpost", refspec, f"{value}:{ref}")
            if _NO_ATOMIC in done.err:
                self._atomic = False
            elif not _was_exchanged(done, ref):
                return Done(done.code, _without(done.out, ref), done.err)
        raise _unknown("its record is exchanged all the time", "")

    def _next(self, git: Git, refspec: str) -> tuple[str, str, str]:
        """Return the record's ref, what it is at, and what it is to be at, made in a repository.

        That says what is delivered with it, so that a machine which vanishes right then has done
        its work, and no other one does it again.
        """
        from outpost_core.names import REFS
        from outpost_worker.record.onrig import SUBJECT, put_commit
        from outpost_worker.record.stored import push_notes, said, where

        version = self._version()
        _, claim = self._record()
        data = said(claim, push_notes(refspec, together=True))
        value = put_commit(git.git_dir, SUBJECT, data, len(version))
        return REFS + where(claim), version, value

    def _version(self) -> str:
        record, claim = self._record()
        try:
            return record.standing(claim)
        except OutpostError as error:
            raise _refusal(error) from None

    def _note_push(self, refspec: str) -> None:
        record, claim = self._record()
        try:
            record.note_push(claim, refspec)
        except OutpostError as error:
            raise _refusal(error) from None

    def _record(self) -> tuple[StoredRecord, Claim]:
        if self._known is None:
            from outpost_worker.record.kinds import Claim
            from outpost_worker.record.onrig import RigCells
            from outpost_worker.record.stored import StoredRecord

            claim = Claim(**self._about["claim"])
            cells = RigCells(self._goal, self._root, self._credentials)
            self._known = StoredRecord(cells, claim.owner), claim
        return self._known

    def _ask(self, argv: list[str]) -> None:
        done = run(argv, dict(surroundings()), timeout=_TIMEOUT)
        said = (done.err or os.fsdecode(done.out)).strip().rpartition("\n")[2][:300]
        if done.code == SUPERSEDED:
            raise _superseded(said or "its claim stands no more")
        if done.code:
            raise _unknown(said or f"{argv[0]} ended with {done.code}", "")


def _refusal(error: OutpostError) -> WorkerError:
    from outpost_worker.record.kinds import SupersededError

    if isinstance(error, SupersededError):
        return _superseded(error.message)
    return _unknown(error.message, error.hint)


def _superseded(why: str) -> WorkerError:
    return WorkerError(
        f"another machine has this worker now, so nothing was pushed from here: {why}",
        reason=REASON,
        hint="outpost show says how it ends there",
    )


def _unknown(why: str, hint: str) -> WorkerError:
    return WorkerError(
        f"nobody can say whether this worker is still the only one of its attempt, so nothing was"
        f" pushed: {why}",
        reason="push_failed",
        hint=hint,
    )


def _was_exchanged(done: Done, ref: str) -> bool:
    """Whether a push failed since the record is not what it was a moment before."""
    for line in done.out.splitlines():
        about = os.fsdecode(line)
        if about.startswith("!") and about.split("\t")[1:2] and ref in about.split("\t")[1]:
            return "stale info" in about or "lock" in about or "expected" in about
    return False


def _without(out: bytes, ref: str) -> bytes:
    """Return what a push has printed without what is said of the record."""
    lines = out.splitlines(keepends=True)
    return b"".join(line for line in lines if os.fsencode(ref) not in line)
