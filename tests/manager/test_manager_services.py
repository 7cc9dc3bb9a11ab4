"""Services of plugins in a program that stays (`outpost_services`)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from managerkit import Make, order, run, until

from outpost_core.hookspecs import hookimpl
from outpost_manager.host import stay
from outpost_manager.manager import Manager
from outpost_manager.plugins.services import Services
from outpost_testing import FakeOutpost


class Feed:
    """Follows the event log for as long as the program stays."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.ended = False

    @hookimpl
    def outpost_services(self, manager: Manager) -> Mapping[str, Callable[[], Awaitable[None]]]:
        async def feed() -> None:
            try:
                async for event in manager.events(0):
                    self.kinds.append(event.kind)
            finally:
                await asyncio.sleep(0)
                self.ended = True

        return {"feed": feed}


def test_a_service_works_with_the_manager_and_ends_cleanly(make: Make) -> None:
    feed = Feed()

    async def body(manager: Manager) -> None:
        async with manager.services() as services:
            assert [(note.name, note.state) for note in services.notes] == [("feed", "running")]
            await manager.spawn(order())
            await until(lambda: "spawned" in feed.kinds)
            assert not feed.ended
        assert feed.ended, "all of it is waited for"

    run(make(FakeOutpost("a"), plugin=feed), body)


def test_a_service_that_fails_is_called_again_and_disturbs_nobody(make: Make) -> None:
    class Mixed:
        calls = 0
        steady = 0

        @hookimpl
        def outpost_services(self, manager: object) -> Mapping[str, object]:
            return {
                "fails": self.fails,
                "exits": self.exits,
                "steady": self.stay,
                "once": self.once,
                "plain": lambda: None,
                "no function": 7,
            }

        async def fails(self) -> None:
            self.calls += 1
            raise RuntimeError(f"call {self.calls}")

        async def exits(self) -> None:
            sys.exit(3)

        async def stay(self) -> None:
            while True:
                self.steady += 1
                await asyncio.sleep(0.01)

        async def once(self) -> None:
            return

    mixed = Mixed()

    async def body(manager: Manager) -> None:
        async with Services(manager.plugins, manager, pause_first=0.01, pause_most=0.1) as services:
            await until(lambda: mixed.calls >= 3 and mixed.steady >= 3)
            notes = {note.name: note for note in services.notes}
            assert notes["fails"].failures >= 2
            assert notes["fails"].error.startswith("RuntimeError: call ")
            assert "SystemExit" in notes["exits"].error
            assert (notes["steady"].state, notes["steady"].failures) == ("running", 0)
            assert (notes["once"].state, notes["once"].failures) == ("ended", 0)
            assert "no async function" in notes["plain"].error
            assert "no function" not in notes
        hooks = {one.hook for one in manager.failures.read()}
        assert {"outpost_services (fails)", "outpost_services (exits)", "outpost_services"} <= hooks

    run(make(FakeOutpost("a"), plugin=mixed), body)


def test_a_service_that_ignores_its_end_does_not_hold_the_program(
    make: Make,
) -> None:
    go = asyncio.Event()

    class Stubborn:
        @hookimpl
        def outpost_services(self, manager: object) -> Mapping[str, object]:
            async def stay() -> None:
                while not go.is_set():
                    try:
                        await go.wait()
                    except asyncio.CancelledError:
                        continue

            return {"stubborn": stay}

    async def body(manager: Manager) -> None:
        async with Services(manager.plugins, manager, end_timeout=0.1):
            await asyncio.sleep(0)
        go.set()

    run(make(FakeOutpost("a"), plugin=Stubborn()), body)


def test_a_program_that_stays_reloads_and_ends_when_it_is_told(make: Make, tmp_path: Path) -> None:
    feed = Feed()

    async def body(manager: Manager) -> None:
        staying = asyncio.create_task(stay(manager))
        (tmp_path / "outposts.yaml").write_text("outposts: 7\n")
        await asyncio.sleep(0)
        await manager.spawn(order())
        os.kill(os.getpid(), signal.SIGHUP)  # a mistake changes nothing
        (tmp_path / "outposts.yaml").write_text(
            "outposts:\n  - {name: a, type: fake}\n  - {name: b, type: fake}\n"
        )

        def reloaded() -> bool:
            os.kill(os.getpid(), signal.SIGHUP)
            return manager.fleet.names == ["a", "b"]

        await until(reloaded)
        await until(lambda: "spawned" in feed.kinds)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(staying, 30)
        assert feed.ended

    run(make(FakeOutpost("a"), FakeOutpost("b"), plugin=feed), body)
