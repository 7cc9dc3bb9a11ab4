"""What observers are told, and that they break nothing."""

from __future__ import annotations

from managerkit import Make, dead_reservation, order, run, until

from outpost_core.hookspecs import hookimpl
from outpost_core.types import Event
from outpost_manager.doctor import examine
from outpost_manager.manager import Manager
from outpost_testing import FakeOutpost


def test_observers_hear_everything_and_break_nothing(make: Make) -> None:
    class Observer:
        def __init__(self) -> None:
            self.kinds: list[str] = []

        @hookimpl
        def outpost_event(self, event: Event) -> None:
            self.kinds.append(event.kind)
            raise RuntimeError("tired")

    observer = Observer()

    async def body(manager: Manager) -> None:
        await manager.spawn(order())
        await until(lambda: "spawned" in observer.kinds and manager.observer_errors)
        assert "tired" in manager.observer_errors[0]
        assert any("tired" in f.detail for _, f in await examine(manager))

    run(make(FakeOutpost("a"), plugin=observer), body)
    assert "spawned" in observer.kinds


def test_observers_hear_of_outposts_and_of_workers_that_never_were(make: Make) -> None:
    class Observer:
        def __init__(self) -> None:
            self.told: list[tuple[str, str]] = []

        @hookimpl
        def outpost_event(self, event: Event) -> None:
            self.told.append((event.kind, str(event.data.get("state", event.outpost))))

    observer = Observer()
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        a.cut("down")
        await manager.refresh()
        await manager.refresh()
        a.restore()
        a.refuse("full")
        dead_reservation(manager, order(), "a")
        await manager.refresh()
        kinds = [event.kind for event in (await manager.ledger.events("gt-1.1"))]
        assert "spawned" not in kinds, "it never was"

    run(make(a, plugin=observer), body)
    assert observer.told.count(("unreachable", "a")) == 1
    assert observer.told.count(("reachable", "a")) == 1
    assert ("state", "failed") in observer.told


def test_errors_of_observers_do_not_pile_up(make: Make) -> None:
    class Tired:
        @hookimpl
        def outpost_event(self, event: Event) -> None:
            raise RuntimeError("tired")

    async def body(manager: Manager) -> None:
        await manager.spawn_many([order(f"gt-{n}") for n in range(60)])
        await until(lambda: len(manager.observer_errors) == 100)

    run(make(FakeOutpost("a"), plugin=Tired()), body)
