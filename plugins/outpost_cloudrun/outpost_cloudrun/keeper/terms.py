"""What a stream depends on: the outpost's options, and how long what is waited for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from outpost_cloudrun.keeper.far import Far
from outpost_cloudrun.keeper.runs import Runs
from outpost_cloudrun.keeper.workerrecord import WorkerRecord
from outpost_core.types import Result
from outpost_worker.record.kinds import LEASE


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long what is waited for; tests are less patient.

    Args:
        silent: seconds without a line after which a stream is taken for dead; heartbeats come
            every 15.
        busy: seconds for which an order waits for a container that is free (429), before another
            outpost may have it: less than `spawn_timeout` of the manager.
        doubt: seconds for which a start is repeated that may have been acted upon.
        lease: seconds without a sign of life after which the owner of a claim is dead.
        gone: seconds for which containers have to say that they know nothing of a worker, before
            it is taken for lost: an old and a new one may be there together for a while.
        rescue: seconds for which it is tried again to bring unpushed work home.
        bundle: seconds that one such try may take.
        short: seconds below which a leg counts as one that got nowhere.
    """

    silent: float = 45.0
    busy: float = 90.0
    doubt: float = 60.0
    lease: float = LEASE
    gone: float = 30.0
    rescue: float = 120.0
    bundle: float = 1800.0
    short: float = 300.0


#: Gives the program at the worker's address.
Reach: TypeAlias = Callable[[], Awaitable[Far]]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What of an outpost's options a stream depends on.

    Args:
        name: the outpost's name.
        request_timeout: seconds that one request may take; None for no limit.
        resume: continue from the checkpoint by itself where the container was taken away.
        credentials: returns what git logs in with there; "" for nothing.
        runs: what ran when, and what a worker has cost by that.
        patience: how long what is waited for.
        finish: writes a result down with what it cost, for a mode that has more to do then; None:
            only that.
    """

    name: str
    request_timeout: float | None
    resume: bool
    credentials: Callable[[WorkerRecord], Awaitable[str]]
    runs: Runs
    patience: Patience = Patience()
    finish: Callable[[WorkerRecord, Result], Awaitable[None]] | None = None
