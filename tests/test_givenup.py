"""A stop gives up a spawn that nobody knows of, and then the worker is there after all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outpost_core.discovery import PluginReport, Plugins
from outpost_core.errors import UnreachableError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Agent, Issue, Order, State, WorkerStatus
from outpost_core.wire import digest
from outpost_manager.manager import Manager
from outpost_testing import FakeOutpost, fake_backend

ORDER = Order(issue=Issue(id="gt-1"), agent=Agent(argv=("true",)))


class Slow(FakeOutpost):
    """An outpost that a request reaches long after its sender has given up."""

    deaf = 0

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        raise UnreachableError("no answer")

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:
        if worker in self._world.statuses and self.deaf:
            self.deaf -= 1
            raise UnreachableError("no answer")
        await super().outpost_stop(worker, grace)

    def arrives(self, of: str = digest(ORDER)) -> None:
        now = time.time()
        self.put(
            WorkerStatus(
                id="gt-1.1", state=State.WORKING, digest=of, started_at=now, updated_at=now
            )
        )

    def stops(self) -> int:
        return self.calls.count(("outpost_stop", "gt-1.1"))

    def state(self) -> State:
        return self._world.statuses["gt-1.1"].state


@pytest.fixture
def given_up(tmp_path: Path) -> Callable[..., None]:
    """Run something with a manager that has given gt-1.1 up at a slow outpost."""

    def run(outpost: Slow, then: Callable[[Manager], Any]) -> None:
        plugins = Plugins.load([])
        plugins.backends["fake"] = fake_backend({outpost.name: outpost})
        plugins.homes["fake"] = PluginReport(entry_point="fake", package="fake", version="1")
        file = tmp_path / "outposts.yaml"
        file.write_text("outposts:\n  - {name: a, type: fake}\n")

        async def body() -> None:
            async with Manager.open(
                config=file, state=tmp_path / "state", environ={}, cwd=tmp_path, plugins=plugins
            ) as manager:
                with pytest.raises(UnreachableError):
                    await manager.spawn(ORDER)
                assert (await manager.stop("gt-1")).state is State.STOPPED
                outpost.calls.clear()
                await then(manager)
                row = await manager.ledger.worker("gt-1.1")
                assert row is not None
                assert row.result is not None
                assert (row.state, row.result.reason) == (State.STOPPED, "never_started")
                assert (await manager.ledger.active()) == {}

        asyncio.run(body())

    return run


def test_a_worker_that_was_given_up_and_started_after_all_is_stopped(given_up) -> None:
    outpost = Slow("a")

    async def then(manager: Manager) -> None:
        await manager.refresh()
        assert outpost.stops() == 0
        outpost.arrives()
        await manager.refresh()
        assert outpost.state() is State.STOPPED
        await manager.refresh()
        assert outpost.stops() == 1
        (event,) = [
            e
            for e in (await manager.ledger.events("gt-1.1"))
            if e.kind == "stop" and "reason" in e.data
        ]
        assert "started it after all" in str(event.data["reason"])

    given_up(outpost, then)


def test_what_cannot_be_told_now_is_told_at_the_next_look(given_up) -> None:
    outpost = Slow("a")
    outpost.deaf = 2

    async def then(manager: Manager) -> None:
        outpost.arrives()
        for _ in range(3):
            assert outpost.state() is State.WORKING
            await manager.refresh()
        assert outpost.state() is State.STOPPED

    given_up(outpost, then)


def test_a_worker_of_another_order_is_left_alone(given_up) -> None:
    outpost = Slow("a")

    async def then(manager: Manager) -> None:
        outpost.arrives(of="0" * 64)
        await manager.refresh()
        assert outpost.stops() == 0
        assert outpost.state() is State.WORKING

    given_up(outpost, then)


def test_a_worker_that_takes_its_time_to_end_is_not_told_at_every_look(given_up) -> None:
    class Calm(Slow):
        @hookimpl
        async def outpost_stop(self, worker: str, grace: float) -> None:
            self.calls.append(("outpost_stop", worker))

    outpost = Calm("a")

    async def then(manager: Manager) -> None:
        outpost.arrives()
        for _ in range(20):
            await manager.refresh()
        assert outpost.stops() == 1

    given_up(outpost, then)
