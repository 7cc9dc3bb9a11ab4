"""What a mode of Cloud Run has to be able to do, so that a keeper can hold its workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from outpost_cloudrun.keeper.workerrecord import WorkerRecord
from outpost_core.types import Cleaned, Facts, Health


class Course(Protocol):
    """How a worker gets from its order to its result in one mode.

    A course keeps nothing of a worker that it cannot do without: what it has to know when the
    keeper was killed goes into the record (`remember`), before it is needed.
    """

    async def start(self, record: WorkerRecord, secrets: Mapping[str, str]) -> None:
        """Start the worker of a record, or find it where it was started before.

        Returns once it certainly runs or is to be found, and `record.accept()` was called. It may
        take its time (a cold start, nothing free); meanwhile it says in the record what it waits
        for. It is cancelled when the keeper ends: then it is called again.

        Args:
            record: what is known of it.
            secrets: the values of its secrets.

        Raises:
            SpawnRefusedError: it was certainly not started, and will not be.
            ConflictError: it runs with another order.
            UnreachableError: nothing is known; `sent` is False when nothing was ever asked.
        """

    async def follow(self, record: WorkerRecord) -> None:
        """Write down what an accepted worker says, until its record has a result.

        What breaks is resumed, for as long as it takes; called again after a cancellation.
        """

    async def stop(self, record: WorkerRecord, grace: float) -> None:
        """Ask for the worker's end; repeated until its record has a result.

        Raises:
            NotFoundError: certainly nothing of it is there.
            UnreachableError: nobody could be asked.
        """

    async def remove(self, record: WorkerRecord, *, force: bool) -> Cleaned:
        """Remove what is left of an ended worker elsewhere, after its work was rescued.

        Args:
            record: what is known of it; it has a result.
            force: also when the rescue failed.

        Raises:
            UnreachableError: nobody could be asked.
        """

    async def find(self, record: WorkerRecord) -> bool:
        """Look whether a worker is there of which nothing was written down; starts none.

        Raises:
            ConflictError: what is there under its name is another order's.
            UnreachableError: nobody could be asked.
        """

    async def unreached(self, running: Sequence[WorkerRecord]) -> str:
        """Return why none of the workers that run can be heard; "" while one can, or may be.

        Quick: what is being found out at this moment is waited for, for a second or two.

        Args:
            running: the workers of this mode that were accepted and have no result.
        """

    async def facts(self, programs: Sequence[str]) -> Facts:
        """Say how much a container has, and where it has the programs that are asked for.

        Raises:
            UnreachableError: nobody could be asked.
        """

    async def ping(self) -> Health:
        """Say whether a worker could be started now; wakes no container."""

    async def aclose(self) -> None:
        """Let go of connections; workers keep running."""
