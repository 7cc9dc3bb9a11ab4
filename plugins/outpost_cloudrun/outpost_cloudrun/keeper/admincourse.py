"""What the modes job and instance share: what is made for one worker, by the Admin API.

Both are made under a name that says which worker it is, so that it is there once, and that a lost
answer or a killed keeper is no doubt: what is found under the name is the worker's, as its labels
say, or somebody else's.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from outpost_cloudrun.admin import names, specs
from outpost_cloudrun.keeper import steady
from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    OutpostError,
    UnreachableError,
)
from outpost_core.types import Cleaned, Facts, Health
from outpost_worker.record.kinds import RecordRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outpost_cloudrun.admin.answers import Operation
    from outpost_cloudrun.admin.client import AdminClient
    from outpost_cloudrun.keeper.witness import Witness
    from outpost_cloudrun.keeper.workerrecord import WorkerRecord
    from outpost_cloudrun.options import CloudRunOptions

#: Seconds until what was removed must be gone.
_REMOVAL: Final = 60.0


class Made(Protocol):
    """What was made at Google for a worker."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""


class AdminCourse(ABC):
    """Workers each of which has something at Google of its own; see `Course`.

    Args:
        options: of the outpost.
        admin: the Admin API; closed with this.
        witness: reads the records of workers; closed with this.
    """

    #: What is made, in one word; its plural is how the API calls it.
    kind: ClassVar[str]
    #: The words of gcloud that remove one.
    deleted_by: ClassVar[str]
    #: Seconds for which the rig of an ended worker is asked for unpushed work.
    asks_rig_for: ClassVar[float]

    def __init__(self, options: CloudRunOptions, admin: AdminClient, witness: Witness) -> None:
        self._options = options
        self._admin = admin
        self._witness = witness

    async def aclose(self) -> None:
        """Let go of connections; workers keep running."""
        self._witness.close()
        await self._admin.aclose()

    async def ping(self) -> Health:
        """Say whether a worker could be started now, as far as looking tells."""
        try:
            await self._admin.reach(f"{self.kind}s")
        except OutpostError as error:
            return Health(ok=False, detail=error.message, hint=error.hint)
        return Health(ok=True, detail=f"{self.kind}s in {self._options.region}")

    async def facts(self, programs: Sequence[str]) -> Facts:  # noqa: ARG002 - only a container knows
        """Say how much a container has."""
        return Facts(cpus=self._options.cpu, memory=self._options.memory)

    async def find(self, record: WorkerRecord) -> bool:
        """Look whether something was made for a worker; see `Course`."""
        name = self._name(record)
        try:
            made = await self._found(name)
        except NotFoundError:
            return False
        self._check(made, record, name)
        return True

    async def remove(self, record: WorkerRecord, *, force: bool) -> Cleaned:  # noqa: ARG002
        """See that nothing of an ended worker is left, then forget its record; see `Course`."""
        name = self._name(record)
        if not await self._is_removed(name):
            raise UnreachableError(
                f"the {self.kind} {name} is not removed yet",
                hint=f"try again, or: {self._by_hand(name)}",
            )
        detail = ""
        try:
            await self._witness.forget(record.order)
        except RecordRefusedError as error:
            detail = error.message
        rescued = record.result.checkpoint if record.result is not None else None
        return Cleaned(removed=True, rescued=rescued, detail=detail)

    # --- what was made ---------------------------------------------------------------------------

    @abstractmethod
    async def _found(self, name: str) -> Made:
        """Return what is there under a name; raises NotFoundError for nothing."""

    @abstractmethod
    async def _delete(self, name: str) -> Operation | None:
        """Have it deleted; None where there is nothing."""

    async def _adopt(self, record: WorkerRecord, name: str) -> None:
        """Make sure that what is there already is this worker's.

        Raises:
            ConflictError: it is somebody else's.
            UnreachableError: it cannot be looked at.
        """
        try:
            made = await self._found(name)
        except NotFoundError:
            raise UnreachableError(
                f"the {self.kind} {name} was there and is not", hint="it is tried again"
            ) from None
        self._check(made, record, name)

    def _check(self, made: Made, record: WorkerRecord, name: str) -> None:
        """Make sure that what is there under a name is a worker's.

        Raises:
            ConflictError: it is somebody else's.
        """
        if not names.same_digest(made.labels, record.digest):
            raise ConflictError(
                f"the {self.kind} {name} is {record.worker} with another order, or another thing",
                hint=f"outpost spawn --again, or: {self._by_hand(name)}",
            )

    async def _is_removed(self, name: str) -> bool:
        """Remove it, and see whether it is gone."""
        operation = await self._delete(name)
        if operation is not None:
            with suppress(UnreachableError):
                await self._admin.wait(operation, _REMOVAL)
        try:
            await self._found(name)
        except NotFoundError:
            return True
        return False

    async def _checkpoint(self, record: WorkerRecord) -> str | None:
        """Return the ref with unpushed work; None also where its rig has not answered for long.

        Raises:
            UnreachableError: it does not answer yet: ask again.
        """
        since = record.course.get("rig_at")
        if not isinstance(since, float):
            since = steady.now()
            await asyncio.to_thread(record.remember, rig_at=since)
        try:
            return await self._witness.checkpoint(record.order)
        except UnreachableError:
            if 0 <= steady.now() - since < self.asks_rig_for:
                raise
            return None

    def _name(self, record: WorkerRecord) -> str:
        return names.worker_name(self._options.service, record.worker, record.order.owner)

    def _by_hand(self, name: str) -> str:
        """Return the command that removes it without Outpost."""
        return (
            f"{self.deleted_by} {name} --project {self._options.project}"
            f" --region {self._options.region} --quiet"
        )

    @property
    def _memory(self) -> str:
        return specs.memory(self._options.memory)
