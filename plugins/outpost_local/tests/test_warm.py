"""Many workers at once have their supervisors forked; the outpost keeps every promise that way."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from outpost_core.types import State
from outpost_local.options import Mode
from outpost_shared import faults

COUNT = 'echo ran >> "$0"; echo out'


def is_forked(place, worker: str) -> bool:
    """Whether a supervisor was forked: what is in its command line besides is emptied."""
    line = Path(f"/proc/{place.supervisor(worker)}/cmdline").read_bytes()
    return line.endswith(b"\0\0")


async def forked(place, outpost, script: str = "sleep 600") -> list[str]:
    """Spawn workers until some were forked by the warm process, and return those.

    On a slow machine the first may all be started before it is there.
    """
    deadline = time.monotonic() + 60
    count, found = 0, []
    while len(found) < 5:
        assert time.monotonic() < deadline
        orders = [
            place.order("/bin/sh", "-c", script, issue=f"gt-{i}") for i in range(count, count + 10)
        ]
        count += 10
        await asyncio.gather(*(outpost.outpost_spawn(order) for order in orders))
        workers = [order.worker for order in orders]
        await place.until(outpost, lambda status: status.state is State.WORKING, *workers)
        found += [worker for worker in workers if is_forked(place, worker)]
    return found


def test_forked_supervisors_can_be_stopped_and_read(place):
    async def main():
        outpost = place.make()
        workers = await forked(place, outpost, script="echo here; exec sleep 600")
        worker = workers[-1]
        await place.wait_for(lambda: place.log(worker) == b"here\n")
        assert await outpost.outpost_peek(worker, 3) == "here\n"
        assert all("terminal gone" not in status.detail for status in await outpost.outpost_list())
        for status in await outpost.outpost_list():
            await outpost.outpost_stop(status.id, 1)
        found = await place.end(outpost)
        assert {status.state for status in found.values()} == {State.STOPPED}
        assert all(place.log(name) == b"here\n" for name in found)

    asyncio.run(main())


def test_a_forked_supervisor_that_is_killed_is_recovered(place):
    async def main():
        outpost = place.make()
        workers = await forked(place, outpost)
        killed = workers[0]
        os.kill(place.supervisor(killed), signal.SIGKILL)
        found = await place.end(outpost, killed)
        assert found[killed].state is State.LOST
        for other in found.values():
            if other.id != killed:
                assert other.state is State.WORKING
                await outpost.outpost_stop(other.id, 1)
        await place.end(outpost)

    asyncio.run(main())


def test_the_warm_process_is_killed_again_and_again_and_each_runs_once(place):
    counts = place.root.parent

    async def main():
        outpost = place.make()
        orders = [
            place.order("/bin/sh", "-c", COUNT, str(counts / f"count{i}"), issue=f"gt-{i}")
            for i in range(60)
        ]
        spawned = asyncio.gather(*(outpost.outpost_spawn(order) for order in orders))
        killed = 0
        while not spawned.done():
            for pid in place.warm():
                os.kill(pid, signal.SIGKILL)
                killed += 1
            await asyncio.sleep(0.05)
        await spawned
        assert killed
        found = await place.end(outpost)
        assert [status.state for status in found.values()] == [State.DONE] * 60
        for i in range(60):
            assert (counts / f"count{i}").read_text() == "ran\n"

    asyncio.run(main())


@pytest.mark.parametrize("fault", faults.WARM)
def test_it_dies_at_each_step_of_each_of_several_programs(place, other_program, fault):
    counts = place.root.parent
    argvs = [["/bin/sh", "-c", COUNT, str(counts / f"count{i}")] for i in range(12)]

    async def main():
        env = os.environ | {"OUTPOST_FAULT": fault}
        programs = [other_program(place, argvs, env=env) for _ in range(2)]
        for program in programs:
            assert program.stdout.read() == b"spawned\n"
            assert program.wait(60) == 0
        found = await place.end(place.make())
        assert [status.state for status in found.values()] == [State.DONE] * 12
        for i in range(12):
            assert (counts / f"count{i}").read_text() == "ran\n"

    asyncio.run(main())


def test_one_worker_starts_nothing_besides(places):
    place = places(mode=Mode.PROCESS)

    async def main():
        outpost = place.make()
        for attempt in (1, 2):
            await place.run(outpost, place.order("/bin/true", attempt=attempt))
        assert place.warm() == []

    asyncio.run(main())


def test_it_ends_with_its_work_done(places):
    place = places(mode=Mode.PROCESS)

    async def main():
        outpost = place.make()
        orders = [place.order("/bin/true", issue=f"gt-{i}") for i in range(8)]
        await asyncio.gather(*(outpost.outpost_spawn(order) for order in orders))
        await place.end(outpost)
        deadline = time.monotonic() + 30
        while place.warm():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        await outpost.outpost_list()  # which collects it
        sockets = Path(place.socket).parent
        assert [name for name in os.listdir(sockets) if name != "warm"] == []

    asyncio.run(main())
