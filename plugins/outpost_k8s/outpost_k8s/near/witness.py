"""What the record of a worker on its rig says, asked with the git of this user.

See `outpost_worker.record`. A worker without a rig that has an address has no record that can be
seen from here.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from outpost_core.errors import UsageError
from outpost_shared import private
from outpost_worker.container.settling import checkpoint_on, settle
from outpost_worker.record.kinds import RecordRefusedError
from outpost_worker.record.places import on_rig, pushed_to

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from outpost_core.types import Order, Result
    from outpost_worker.record.kinds import Found, Record

T = TypeVar("T")

#: Records that are asked at once; git is a process each.
_AT_ONCE: Final = 8


class Witness:
    """Reads records, and says the last word of who cannot.

    Args:
        root: a folder for what git makes for a moment.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="record")

    def close(self) -> None:
        """Let go of the threads; what runs in them ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def found(self, order: Order) -> Found | None:
        """Return what the record of a worker says; None for nothing.

        Raises:
            UnreachableError: it cannot be asked.
            RecordRefusedError: its rig is none; or (RecordBrokenError) something else stands there.
        """
        return await self._thread(lambda: self._place(order).read(order.worker))

    async def settle(self, order: Order, digest: str, result: Result) -> Found:
        """Say how a worker ended that certainly runs no more; return what stands. See `settling`.

        Raises:
            UnreachableError: the record cannot be asked.
            RecordRefusedError: its place does not take that.
        """
        return await self._thread(lambda: settle(self._place(order), order, digest, result))

    async def checkpoint(self, order: Order) -> str | None:
        """Return the ref with unpushed work of a worker, when its rig has it.

        Raises:
            UnreachableError: the rig cannot be asked.
        """
        return await self._thread(lambda: checkpoint_on(pushed_to(order), order))

    async def forget(self, order: Order) -> None:
        """Remove the record of a worker.

        Raises:
            UnreachableError: it cannot be asked.
            RecordRefusedError: its place keeps it.
        """
        await self._thread(lambda: self._place(order).forget(order.worker))

    def _place(self, order: Order) -> Record:
        """Return where the record of a worker is.

        Raises:
            RecordRefusedError: its rig is none, so that nothing ever stood there.
        """
        private.make(str(self._root))
        try:
            return on_rig(pushed_to(order), str(self._root), order.owner)
        except UsageError as error:
            raise RecordRefusedError(error.message, hint=error.hint) from error

    async def _thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
