"""What the record of a worker says, asked from elsewhere, and completed where nobody else can.

Some workers cannot be asked once their machine is gone: how they ended is in their record. Where a
machine ended without a word, whoever watches writes into the record how, so that it stands once for
everybody (`settling`). Records are on the rig, and asked with the git of this user; a backend that
has another place for them says so in a class of its own.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from outpost_core.errors import UsageError
from outpost_core.names import check_rig
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
        root: a folder for what git makes for a moment; made when it is needed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="record")

    def close(self) -> None:
        """Let go of the threads; what runs in them ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def has_place(self, order: Order) -> bool:
        """Whether a worker of an order has a record that can be seen from here."""
        return bool(rig_of(order))

    async def found(self, order: Order) -> Found | None:
        """Return what the record of a worker says; None for nothing.

        Raises:
            UnreachableError: it cannot be asked.
            RecordRefusedError: its rig is none; or (RecordBrokenError) something else stands there.
        """
        return await self.thread(lambda: self.place(order).read(order.worker))

    async def settle(self, order: Order, digest: str, result: Result) -> Found:
        """Say how a worker ended that certainly runs no more; return what stands.

        Where its branch was pushed already, that is how it ended.

        Args:
            order: its order.
            digest: the order's.
            result: how it ended, if nobody has said anything else.

        Raises:
            UnreachableError: the record cannot be asked.
            RecordRefusedError: its place does not take that.
        """
        return await self.thread(lambda: settle(self.place(order), order, digest, result))

    async def checkpoint(self, order: Order) -> str | None:
        """Return the ref with unpushed work of a worker, when its rig has it.

        Raises:
            UnreachableError: the rig cannot be asked.
        """
        rig = rig_of(order)
        return await self.thread(lambda: checkpoint_on(rig, order)) if rig else None

    async def ask_stop(self, order: Order, grace: float) -> None:
        """Leave word that a worker is to end; whoever has it looks for that every few seconds.

        Raises:
            UnreachableError: its record cannot be asked.
            RecordRefusedError: its place does not take that.
        """
        await self.thread(lambda: self.place(order).ask_stop(order.worker, grace))

    async def forget(self, order: Order) -> None:
        """Remove the record of a worker; one that has no place has none.

        Raises:
            UnreachableError: it cannot be asked.
            RecordRefusedError: its place keeps it.
        """
        if self.has_place(order):
            await self.thread(lambda: self.place(order).forget(order.worker))

    def place(self, order: Order) -> Record:
        """Return where the record of a worker is. Blocks, and may be called by any thread.

        Raises:
            RecordRefusedError: its rig is none, so that nothing ever stood there.
        """
        private.make(str(self._root))
        try:
            return on_rig(pushed_to(order), str(self._root), order.owner)
        except UsageError as error:
            raise RecordRefusedError(error.message, hint=error.hint) from error

    async def thread(self, work: Callable[[], T]) -> T:
        """Do what blocks, beside others."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def rig_of(order: Order) -> str:
    """Return where an order's work is pushed to; "" for nowhere, and where that is no rig."""
    rig = pushed_to(order)
    with suppress(UsageError):
        return check_rig(rig) if rig else ""
    return ""
