"""Launches that wait are started together."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from outpost_core.errors import SpawnRefusedError
from outpost_worker.serving.launcher import Launcher


def test_what_is_asked_for_at_once_is_started_at_once():
    calls = []
    launcher = Launcher(lambda folders: (calls.append(list(folders)), [None] * len(folders))[1])

    async def many():
        await asyncio.gather(*(launcher.launch(Path(f"{i}")) for i in range(50)))

    asyncio.run(many())
    assert calls == [[Path(f"{i}") for i in range(50)]]


def test_what_arrives_meanwhile_waits_for_the_next_start():
    calls = []
    gate = threading.Event()

    def start(folders):
        calls.append(len(folders))
        assert gate.wait(20)
        return [None] * len(folders)

    async def many():
        launcher = Launcher(start)
        first = asyncio.create_task(launcher.launch(Path("first")))
        while not calls:
            await asyncio.sleep(0.001)
        rest = [asyncio.create_task(launcher.launch(Path(f"{i}"))) for i in range(9)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, *rest)

    asyncio.run(many())
    assert calls == [1, 9]


def test_a_launch_does_not_wait_for_what_else_is_done_in_threads():
    """As the folders of hundreds of other workers, which are published at the same time."""
    gate = threading.Event()

    async def launch():
        launcher = Launcher(lambda folders: [None] * len(folders))
        others = [asyncio.create_task(asyncio.to_thread(gate.wait, 60)) for _ in range(100)]
        await asyncio.sleep(0)
        try:
            await asyncio.wait_for(launcher.launch(Path("a")), 30)
        finally:
            gate.set()
        await asyncio.gather(*others)

    asyncio.run(launch())


def test_the_same_folder_twice_is_one_start_and_both_are_answered():
    launcher = Launcher(lambda folders: [None] * len(folders) if len(folders) == 1 else [])

    async def twice():
        await asyncio.gather(launcher.launch(Path("a")), launcher.launch(Path("a")))

    asyncio.run(twice())


def test_each_gets_its_own_error():
    def start(folders):
        return [SpawnRefusedError("no") if f.name == "bad" else None for f in folders]

    async def many():
        launcher = Launcher(start)
        names = ("good", "bad", "fine")
        return await asyncio.gather(
            *(launcher.launch(Path(name)) for name in names), return_exceptions=True
        )

    good, bad, fine = asyncio.run(many())
    assert (good, fine) == (None, None)
    assert isinstance(bad, SpawnRefusedError)


def test_a_start_that_breaks_answers_all_and_the_next_one_works():
    broken = [True]

    def start(folders):
        if broken.pop() if broken else False:
            raise OSError("no more processes")
        return [None] * len(folders)

    async def many():
        launcher = Launcher(start)
        with pytest.raises(OSError, match="no more processes"):
            await launcher.launch(Path("a"))
        await launcher.launch(Path("a"))

    asyncio.run(many())


def test_a_caller_that_gives_up_stops_nobody_else_and_not_its_own_launch():
    gate = threading.Event()
    started = []

    def start(folders):
        assert gate.wait(20)
        started.extend(folders)
        return [None] * len(folders)

    async def many():
        launcher = Launcher(start)
        tasks = [asyncio.create_task(launcher.launch(Path(name))) for name in "ab"]
        await asyncio.sleep(0.05)
        tasks[0].cancel()
        gate.set()
        assert await tasks[1] is None
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]

    asyncio.run(many())
    assert started == [Path("a"), Path("b")]


def test_one_launcher_serves_loop_after_loop():
    launcher = Launcher(lambda folders: [None] * len(folders))
    for name in "abc":
        asyncio.run(launcher.launch(Path(name)))
