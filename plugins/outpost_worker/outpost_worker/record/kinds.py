"""What a record says, and what can be asked of one; every store of records keeps to it.

A worker whose machine can vanish (a container of Cloud Run, a pod) has a *record* at a place that
outlives it: on the rig (`onrig`), in a bucket, on a shared volume (`volume`). The record says who
runs the worker (the *claim*), that he lives (the *beat*), that somebody wants its end, and how it
ended. It is one value that is only ever exchanged for another from the value that was seen, so of
any number of programs that want the same worker, one has it:

::

    nothing ──claim──▶ claim of leg 1 ──beat──▶ … ──finish──▶ result
                          └──take_over──▶ claim of leg 2 ──▶ …

A *leg* is the time that a worker spends on one machine, from 1. Whether an owner is dead is decided
by whoever watches, with his own clock: `Found.seen` was the same for longer than `LEASE`. No two
clocks are ever compared.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final, Protocol

from outpost_core.errors import OutpostError, SpawnRefusedError, UsageError
from outpost_core.types import Result, split_worker_id

#: Seconds of silence after which an owner counts as dead.
LEASE: Final = 150.0
#: Seconds between two beats of an owner whose output nobody follows.
BEAT_EVERY: Final = 30.0
#: Bytes at the end of a log that a result keeps.
TAIL: Final = 64 << 10
_HEX: Final = frozenset("0123456789abcdef")
_MOST_LEGS: Final = 9999


class RecordRefusedError(SpawnRefusedError):
    """The place of the record certainly did not take a claim, so that nothing was started."""


class RecordBrokenError(RecordRefusedError):
    """What stands in the place of a record is not Outpost's own; nothing of it is believed."""


class SupersededError(OutpostError):
    """A claim stands no more: a later leg, a result or nothing has its place.

    Whoever held it ends the worker's agent and delivers nothing.
    """


def _id() -> str:
    return os.urandom(16).hex()


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """Who runs a worker.

    Args:
        worker: its id.
        digest: identity of the order (`wire.digest`).
        owner: id of the ledger that ordered it; "" for none.
        instance: which machine it is, in hexadecimal digits; nobody finds anything by it.
        leg: counts the machines that the worker was on, from 1.
        id: of this claim; made anew for each attempt to claim, and kept to ask again.

    Raises:
        UsageError: a field cannot be what it says.
    """

    worker: str
    digest: str
    owner: str = ""
    instance: str = ""
    leg: int = 1
    id: str = field(default_factory=_id)

    def __post_init__(self) -> None:
        split_worker_id(self.worker)
        for name, least in (("digest", 1), ("owner", 0), ("instance", 0), ("id", 8)):
            value = getattr(self, name)
            if not least <= len(value) <= 64 or not _HEX.issuperset(value):
                raise UsageError(f"the {name} of a claim is {least} to 64 hexadecimal digits")
        if not 1 <= self.leg <= _MOST_LEGS:
            raise UsageError(f"the leg of a claim is from 1 to {_MOST_LEGS}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a record says.

    Args:
        claim: whose the worker is, or was when it ended.
        seen: a word that is another one after each change and each beat.
        stop: the grace in seconds of a stop that was asked for; None when nobody did.
        result: how it ended; None while it has not.
        delivered: the result that a worker has whose machine vanished after its branch was pushed
            (`standing`): nobody runs its agent again. None while nothing was pushed.
        pushing: the same, where the push was about to begin: it counts once the remote shows the
            branch with that commit (`places.delivered` looks).
        tail: the end of its log, at most `TAIL` bytes; only with a result.
    """

    claim: Claim
    seen: str
    stop: float | None = None
    result: Result | None = None
    delivered: Result | None = None
    pushing: Result | None = None
    tail: bytes = b""


class Record(Protocol):
    """The records of one owner's workers at one place. Calls block, and may be made by any thread.

    Each raises `RecordBrokenError` where something stands that is no record, `RecordRefusedError`
    where the place refuses what is to be written, and `UnreachableError` where it cannot be asked:
    then nothing is known, but a claim that was not returned is one that nothing runs for.
    """

    def claim(self, claim: Claim) -> Claim:
        """Claim a worker, if nobody has; returns the claim that stands.

        The same claim may be made again: whoever was cut off asks with the one that he has.
        """
        ...

    def beat(self, claim: Claim) -> Found:
        """Say that the owner lives; returns what stands, with a stop that was asked for.

        Raises:
            SupersededError: the claim stands no more.
        """
        ...

    def read(self, worker: str) -> Found | None:
        """Return what stands; None for nothing."""
        ...

    def take_over(self, claim: Claim, silent: str) -> Claim:
        """Let the next leg begin; returns the claim that stands, which may be another one's.

        Args:
            claim: with the leg after the one that stands.
            silent: `Found.seen` that stayed the same for longer than `LEASE`. Where the record has
                changed since, nothing is taken over.

        Raises:
            SupersededError: nothing stands any more.
        """
        ...

    def ask_stop(self, worker: str, grace: float) -> None:
        """Leave word that the worker is to end.

        Args:
            worker: its id.
            grace: seconds between TERM and KILL.
        """
        ...

    def finish(self, claim: Claim, result: Result, tail: bytes) -> Result:
        """Say how the worker ended, once; returns the result that stands.

        Args:
            claim: the owner's.
            result: how it ended.
            tail: the end of its log; what is over `TAIL` is left out.

        Raises:
            SupersededError: a later leg stands, so nothing was said.
        """
        ...

    def forget(self, worker: str) -> None:
        """Remove all that stands of a worker; fine when there is nothing."""
        ...
