"""Records of jobs, which cannot be asked: on the rig, or in a bucket, as their orders and logs.

See `outpost_worker.container.witness`: a container that ended without a word (its memory, a
deadline) has its end written there by this side, and one that still runs finds itself superseded.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from outpost_cloudrun.server import bucketrecord
from outpost_cloudrun.server.bucket import Bucket, PreconditionError
from outpost_core import wire
from outpost_core.errors import OutpostError, SpawnRefusedError, UsageError
from outpost_core.names import check_rig
from outpost_worker.container import witness
from outpost_worker.record.places import pushed_to
from outpost_worker.record.segments import KeptLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from outpost_cloudrun.admin.client import Tokens
    from outpost_core.types import Order
    from outpost_worker.record.kinds import Record

T = TypeVar("T")

#: Seconds until an access token must be there.
_ANSWER: Final = 60.0


class Witness(witness.Witness):
    """Reads records, and says the last word of who cannot.

    Args:
        root: the outpost's own state folder.
        bucket: where records and logs are; "" for records on the rig, which is asked with the git
            of this user.
        tokens: whose access tokens the bucket is asked with; None for none.
    """

    def __init__(self, root: Path, bucket: str = "", tokens: Tokens | None = None) -> None:
        super().__init__(root / "records")
        self._bucket = f"gs://{bucket}" if bucket else ""
        self._tokens = tokens
        self._loop: asyncio.AbstractEventLoop | None = None

    def has_place(self, order: Order) -> bool:
        """Whether a worker of an order has a record that can be seen from here."""
        return bool(self._bucket) or super().has_place(order)

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

        await self.thread(put)
        return f"{self._bucket}/{name}"

    async def forget(self, order: Order) -> None:
        """Remove the record of a worker, and what is kept of its log.

        Raises:
            UnreachableError: it cannot be asked.
            RecordRefusedError: its place keeps it.
        """
        if self._bucket:
            await self.thread(lambda: self._forget_objects(order))
        await super().forget(order)

    def _forget_objects(self, order: Order) -> None:
        objects = bucketrecord.logs(self._bucket, None, self._access)
        KeptLog(objects, order.worker, order.owner).forget()
        bucket = Bucket(self._bucket, None, self._access)
        bucket.delete(_order_object(order, wire.digest(order)))

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

        return await self.thread(read)

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

    def place(self, order: Order) -> Record:
        """Return where the record of a worker is."""
        if self._bucket:
            return bucketrecord.records(self._bucket, order.owner, None, self._access)
        return super().place(order)

    async def thread(self, work: Callable[[], T]) -> T:
        """Do what blocks, which may ask for an access token meanwhile."""
        self._loop = asyncio.get_running_loop()
        return await super().thread(work)


def _order_object(order: Order, digest: str) -> str:
    folder = f"{order.owner}/orders" if order.owner else "orders"
    return f"{folder}/{order.worker}-{digest[:32]}"
