"""What the tests of the manager share: orders, a run of a manager, and what a crash leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from outpost_core.errors import UnreachableError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Agent, Issue, Order, WorkerStatus
from outpost_core.wire import digest
from outpost_manager.ledger import Reservation
from outpost_manager.manager import Manager
from outpost_testing import FakeOutpost

Make = Callable[..., Manager]


def order(issue: str = "gt-1", **more: Any) -> Order:
    return Order(issue=Issue(id=issue), agent=Agent(argv=("true",)), **more)


def run(manager: Manager, coroutine: Callable[[Manager], Any]) -> Any:
    async def body() -> Any:
        async with manager:
            return await coroutine(manager)

    return asyncio.run(body())


class Riddle(FakeOutpost):
    """Starts the worker, and then its answer is lost."""

    error: Exception | None = UnreachableError("the line dropped")
    starts = True

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        if self.starts:
            status = await super().outpost_spawn(order)
        if self.error is None:
            return status
        raise self.error


def dead_reservation(manager: Manager, wanted: Order, outpost: str) -> None:
    """Leave the row that a killed process leaves after `manager.reserved`."""
    manager.ledger.direct.reserve(
        [
            Reservation(
                order=wanted, outpost=outpost, digest=digest(wanted), owner="other-boot:1:1/x"
            )
        ]
    )


async def until(true: Callable[[], Any], within: float = 30.0) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, "it did not become true"
        await asyncio.sleep(0.01)
