"""The event log as observers and programs that stay see it, across processes, also dead ones."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from managerkit import Make, order, run, until

from outpost_core.discovery import PluginReport, Plugins
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Event
from outpost_manager.ledger import Ledger
from outpost_manager.manager import Manager
from outpost_shared import faults
from outpost_testing import FakeOutpost


class Observer:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[Event] = []

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.told]

    @hookimpl
    def outpost_event(self, event: Event) -> None:
        self.told.append(event)


class Sleeper(Observer):
    """Sleeps at each event until it is woken."""

    def __init__(self) -> None:
        super().__init__()
        self.wake = threading.Event()

    @hookimpl
    def outpost_event(self, event: Event) -> None:
        super().outpost_event(event)
        self.wake.wait(60)


def test_an_observer_that_sleeps_delays_no_spawn_and_no_other_observer(make: Make) -> None:
    sleeper, awake = Sleeper(), Observer()
    took = []

    async def body(manager: Manager) -> None:
        begun = time.monotonic()
        await manager.spawn_many([order(f"gt-{n}") for n in range(5)])
        took.append(time.monotonic() - begun)
        await until(lambda: awake.kinds.count("spawned") == 5)

    manager = make(FakeOutpost("a"), plugin=sleeper)
    manager.plugins.add(awake, PluginReport(entry_point="awake"))
    begun = time.monotonic()
    run(manager, body)
    assert took[0] < 10, "each event would sleep for a minute"
    assert time.monotonic() - begun < 30, "the end waits a second for it, and not for ever"
    assert len(sleeper.told) == 1
    sleeper.wake.set()


def test_what_one_program_has_no_time_for_is_told_by_the_next(make: Make) -> None:
    async def spawn(manager: Manager) -> None:
        await manager.spawn(order())
        manager.leave_observers = True
        manager.finish_observers(0.0)

    observer = Observer()

    async def look(manager: Manager) -> None:
        await manager.ledger.worker("gt-1.1")

    run(make(FakeOutpost("a"), plugin=observer), spawn)
    run(make(FakeOutpost("a"), plugin=observer), look)
    assert observer.kinds == ["reserved", "spawned", "state"] or observer.kinds == [
        "reserved", "spawned",
    ]  # fmt: skip
    ids = [event.id for event in observer.told]
    assert ids == sorted(set(ids)), "each once, in the order of the log"


def test_observers_of_two_programs_hear_what_either_does_each_event_once(make: Make) -> None:
    one, other = Observer(), Observer()

    async def body(first: Manager) -> None:
        second = make(FakeOutpost("b"), plugin=other)
        async with second:
            await asyncio.gather(
                *(first.spawn(order(f"one-{n}")) for n in range(5)),
                *(second.spawn(order(f"other-{n}")) for n in range(5)),
            )
            await until(lambda: (one.kinds + other.kinds).count("spawned") == 10)

    run(make(FakeOutpost("a"), FakeOutpost("b"), plugin=one), body)
    ids = [event.id for event in one.told + other.told]
    assert len(ids) == len(set(ids))


def test_what_an_observer_raised_is_shown_by_the_next_program(make: Make) -> None:
    class Raises:
        @hookimpl
        def outpost_event(self, event: Event) -> None:
            raise RuntimeError("no network")

    async def spawn(manager: Manager) -> None:
        await manager.spawn(order())

    run(make(FakeOutpost("a"), plugin=Raises()), spawn)
    manager = make(FakeOutpost("a"))
    (kept,) = manager.failures.read()
    assert (kept.hook, kept.reason) == ("outpost_event", "RuntimeError: no network")
    assert "outpost_event" in kept.traceback
    manager.close()


PROGRAM = """
import sys
from pathlib import Path
from outpost_core import hookimpl
from outpost_core.discovery import PluginReport, Plugins
from outpost_manager.events.observers import Observers
from outpost_manager.ledger import Ledger
from outpost_core.types import Event
import time

class Observer:
    @hookimpl
    def outpost_event(self, event):
        with open(sys.argv[2], "a") as out:
            out.write(f"{event.kind}\\n")

plugins = Plugins.load([])
plugins.add(Observer(), PluginReport(entry_point="mine"))
observers = Observers(plugins, Path(sys.argv[1]), print)
ledger = Ledger(Path(sys.argv[1]))
observers.start(ledger)
for kind in sys.argv[3:]:
    ledger.note(Event(kind=kind, at=time.time()))
observers.finish(30)
ledger.close()
"""


def program(folder: Path, *kinds: str, fault: str = "") -> tuple[int, list[str]]:
    """Run a program with an observer that notes events; return its exit and what it was told."""
    out = folder / "told"
    out.write_text("")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "state"), str(out), *kinds],
        env={"OUTPOST_FAULT": fault, "PATH": "/usr/bin:/bin"},
        check=False,
        timeout=120,
    )
    return done.returncode, out.read_text().split()


@pytest.mark.parametrize("fault", faults.OBSERVERS)
def test_an_event_that_a_killed_program_was_telling_is_told_once_more(
    tmp_path: Path, fault: str
) -> None:
    assert program(tmp_path, "first") == (0, ["first"])
    code, told = program(tmp_path, "one", "two", fault=fault)
    assert code == -9
    assert told == (["one"] if fault == "observer.told" else [])
    ledger = Ledger(tmp_path / "state")
    waiting = [event.kind for event in ledger.events_after(1)]
    (note,) = ledger.cursors.notes()
    assert (note.told, note.waiting) == (1, len(waiting))
    ledger.close()
    assert program(tmp_path, "three") == (0, [*waiting, "three"])
    assert program(tmp_path) == (0, [])


def test_an_observer_that_kills_its_program_each_time_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path)
    assert program(tmp_path, "deadly", fault="observer.begun")[0] == -9
    assert program(tmp_path, fault="observer.begun")[0] == -9
    assert program(tmp_path, "next") == (0, ["next"])


def test_programs_that_stay_follow_the_log_across_processes(make: Make, tmp_path: Path) -> None:
    async def body(manager: Manager) -> None:
        await manager.spawn(order("gt-1"))
        last = await manager.ledger.last_event()
        heard: list[Event] = []

        async def follow(after: int | None) -> None:
            async for event in manager.events(after):
                heard.append(event)

        from_start = asyncio.create_task(follow(0))
        await until(lambda: len(heard) == last)
        from_start.cancel()
        heard.clear()
        from_now = asyncio.create_task(follow(last))
        await asyncio.to_thread(program, tmp_path, "elsewhere")
        await until(lambda: heard)
        assert [event.kind for event in heard] == ["elsewhere"]
        assert heard[0].id == last + 1
        from_now.cancel()
        await asyncio.gather(from_start, from_now, return_exceptions=True)

    run(make(FakeOutpost("a")), body)


def test_without_an_observer_there_is_no_thread(make: Make) -> None:
    async def body(manager: Manager) -> Any:
        await manager.spawn(order())
        return [thread.name for thread in threading.enumerate()]

    assert not [name for name in run(make(FakeOutpost("a")), body) if name.startswith("observer")]
    assert isinstance(Plugins.load([]), Plugins)
