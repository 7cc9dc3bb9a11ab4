"""What the record of a worker says, read by the near side, and completed where nobody else can.

A job cannot be asked: how it ended is in its record, on the rig or in a bucket. Where a container
ended without a word (its memory, a deadline), this side writes into the record how, so that it
stands once for everybody: a container that still runs finds itself superseded and delivers nothing.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from outpost_cloudrun.server import bucketrecord
from outpost_cloudrun.server.bucket import Bucket, PreconditionError
from outpost_core import wire
from outpost_core.errors import OutpostError, SpawnRefusedError, UsageError
from outpost_core.names import check_rig
from outpost_shared import private
from outpost_worker.container.settling import checkpoint_on, settle
from outpost_worker.record.kinds import Found, Record
from outpost_worker.record.places import on_rig, pushed_to
from outpost_worker.record.segments import KeptLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from outpost_cloudrun.admin.client import Tokens
    from outpost_core.types import Order, Result

T = TypeVar("T")

#: Records that are asked at once; git is a process each.
_AT_ONCE: Final = 8
#: Seconds until an access token must be there.
_ANSWER: Final = 60.0


class Witness:
    """Reads records, and says the last word of who cannot.

    Args:
        root: the outpost's own state folder.
        bucket: where records and logs are; "" for records on the rig, which is asked with the git
            of this user.
        tokens: whose access tokens the bucket is asked with; None for none.
    """

    def __init__(self, root: Path, bucket: str = "", tokens: Tokens | None = None) -> None:
        self._root = root / "records"
        self._bucket = f"gs://{bucket}" if bucket else ""
        self._tokens = tokens
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="record")

    def close(self) -> None:
        """Let go of the threads; what runs in them ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def has_place(self, order: Order) -> bool:
        """Whether a worker of an order has a record that can be seen from here."""
        return bool(self._bucket or _rig(order))

    def check(self, order: Order) -> None:
        """Refuse an order that has no place for a record.

        Raises:
            SpawnRefusedError: it has none.
        """
        try:
            for rig in filter(None, (order.rig, pushed_to(order))):
                check_rig(rig)
        except UsageError as error:
            raise SpawnRefusedError(error.message, hint=error.hint) from error
        if not self.has_place(order):
            raise SpawnRefusedError(
                "an order without a rig has nowhere to leave its result here",
                hint="configure a `bucket`, or give the order a --rig",
            )

    @property
    def keeps_orders(self) -> bool:
        """Whether there is a place for orders that are too large for an environment."""
        return bool(self._bucket)

    async def keep_order(self, order: Order, digest: str, packed: bytes) -> str:
        """Keep an order for its job; return the address of the object.

        Args:
            order: the order.
            digest: its digest: the object is never another order's.
            packed: as its container reads it.

        Raises:
            UnreachableError: the bucket cannot be asked.
            RecordRefusedError: it does not take it.
        """
        name = _order_object(order, digest)

        def put() -> None:
            with suppress(PreconditionError):  # it was put before
                Bucket(self._bucket, None, self._access).insert(name, packed, "0")

        await self._thread(put)
        return f"{self._bucket}/{name}"

    async def found(self, order: Order) -> Found | None:
        """Return what the record of a worker says; None for nothing.

        Raises:
            UnreachableError: it cannot be asked.
            RecordBrokenError: something else stands there.
        """
        return await self._thread(lambda: self._place(order).read(order.worker))

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
        return await self._thread(lambda: settle(self._place(order), order, digest, result))

    async def checkpoint(self, order: Order) -> str | None:
        """Return the ref with unpushed work of a worker, when its rig has it.

        Raises:
            UnreachableError: the rig cannot be asked.
        """
        rig = _rig(order)
        if not rig:
            return None
        return await self._thread(lambda: checkpoint_on(rig, order))

    async def ask_stop(self, order: Order, grace: float) -> None:
        """Leave word that a worker is to end; whoever has it looks for that every few seconds.

        Raises:
            UnreachableError: its record cannot be asked.
            RecordRefusedError: its place does not take that.
        """
        await self._thread(lambda: self._place(order).ask_stop(order.worker, grace))

    async def forget(self, order: Order) -> None:
        """Remove the record of a worker, and what is kept of its log.

        Raises:
            UnreachableError: it cannot be asked.
            RecordRefusedError: its place keeps it.
        """
        if not self.has_place(order):
            return

        def forget() -> None:
            if self._bucket:
                objects = bucketrecord.logs(self._bucket, None, self._access)
                KeptLog(objects, order.worker, order.owner).forget()
                bucket = Bucket(self._bucket, None, self._access)
                bucket.delete(_order_object(order, wire.digest(order)))
            self._place(order).forget(order.worker)

        await self._thread(forget)

    async def log(self, order: Order, offset: int) -> bytes:
        """Return the next bytes of a worker's log that are kept; b"" for none yet.

        Args:
            order: its order.
            offset: of the first byte.

        Raises:
            UnreachableError: the bucket cannot be asked.
            RecordRefusedError: it lets us not.
        """
        if not self._bucket:
            return b""

        def read() -> bytes:
            objects = bucketrecord.logs(self._bucket, None, self._access)
            return KeptLog(objects, order.worker, order.owner).read(offset)

        return await self._thread(read)

    def _access(self, fresh: bool) -> str:
        """Return an access token, on a thread that may wait for it.

        Raises:
            OSError: there is none.
        """
        if self._tokens is None:
            return ""
        assert self._loop is not None, "somebody asked for something"
        asked = asyncio.run_coroutine_threadsafe(self._tokens.access_token(fresh), self._loop)
        try:
            return asked.result(_ANSWER)
        except (OutpostError, TimeoutError) as error:
            raise OSError(str(error) or "no token in time") from error

    def _place(self, order: Order) -> Record:
        if self._bucket:
            return bucketrecord.records(self._bucket, order.owner, None, self._access)
        rig = _rig(order)
        assert rig, "who has no place is asked nothing"
        private.make(str(self._root))
        return on_rig(rig, str(self._root), order.owner)

    async def _thread(self, work: Callable[[], T]) -> T:
        self._loop = asyncio.get_running_loop()
        return await self._loop.run_in_executor(self._threads, work)


def _order_object(order: Order, digest: str) -> str:
    folder = f"{order.owner}/orders" if order.owner else "orders"
    return f"{folder}/{order.worker}-{digest[:32]}"


def _rig(order: Order) -> str:
    """Return where an order's work is pushed to; "" for nowhere, and where that is no rig."""
    rig = pushed_to(order)
    with suppress(UsageError):
        return check_rig(rig) if rig else ""
    return ""
