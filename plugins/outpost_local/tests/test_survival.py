"""Workers outlive whoever started them; crashes and races never run one twice."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from outpost_core.types import State
from outpost_local.options import Mode
from outpost_shared import faults

APPEND = 'echo ran >> "$0"; sleep 0.3; echo still here'


def test_the_spawners_sigkill_ends_no_worker(place, other_program):
    async def main():
        program = other_program(
            place, [["/bin/sh", "-c", "sleep 0.5; echo survived"]] * 3, "time.sleep(60)"
        )
        assert program.stdout.readline() == b"spawned\n"
        program.kill()
        program.wait()
        found = await place.end(place.make())
        assert [status.state for status in found.values()] == [State.DONE] * 3
        for i in (1, 2, 3):
            assert place.log(f"gt-{i}.1") == b"survived\n"

    asyncio.run(main())


def test_the_hangup_of_the_spawners_terminal_ends_no_worker(place, other_program):
    master, slave = os.openpty()

    async def main():
        program = other_program(
            place, [["/bin/sh", "-c", "sleep 0.5; echo survived"]], "time.sleep(60)",
            stdin=slave, stdout=slave, stderr=slave,
            preexec_fn=_own_terminal,
        )  # fmt: skip
        os.close(slave)
        said = b""
        while b"spawned" not in said:
            said += os.read(master, 1024)
        os.write(master, b"\x03")  # Ctrl-C first, to everybody in the foreground
        os.close(master)
        assert program.wait(30) != 0
        found = await place.end(place.make())
        assert found["gt-1.1"].state is State.DONE
        assert place.log("gt-1.1") == b"survived\n"

    asyncio.run(main())


def _own_terminal() -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_two_programs_that_spawn_the_same_orders_at_once_run_each_once(place, other_program):
    count = place.root.parent / "count"
    argvs = [["/bin/sh", "-c", APPEND, f"{count}{i}"] for i in range(8)]

    async def main():
        programs = [other_program(place, argvs) for _ in range(3)]
        for program in programs:
            assert program.stdout.read() == b"spawned\n"
            assert program.wait(30) == 0
        found = await place.end(place.make())
        assert [status.state for status in found.values()] == [State.DONE] * 8
        for i in range(8):
            assert (place.root.parent / f"count{i}").read_text() == "ran\n"

    asyncio.run(main())


@pytest.mark.parametrize("fault", faults.LOCAL)
def test_a_spawner_killed_at_any_write_leaves_one_worker_or_none(place, other_program, fault):
    count = place.root.parent / "count"
    argv = ["/bin/sh", "-c", APPEND, str(count)]

    async def main():
        program = other_program(place, [argv], env=os.environ | {"OUTPOST_FAULT": fault})
        assert program.wait(30) == -signal.SIGKILL
        again = other_program(place, [argv])
        assert again.wait(30) == 0
        found = await place.end(place.make())
        assert list(found) == ["gt-1.1"]
        assert found["gt-1.1"].state is State.DONE
        assert count.read_text() == "ran\n"

    asyncio.run(main())


@pytest.mark.parametrize("fault", ["worker.claimed", "worker.agent_started", "worker.agent_ended"])
def test_a_supervisor_killed_at_any_write_is_recovered_and_not_run_again(
    place, other_program, fault
):
    count = place.root.parent / "count"
    argv = ["/bin/sh", "-c", APPEND, str(count)]

    async def main():
        program = other_program(place, [argv], env=os.environ | {"OUTPOST_FAULT": fault})
        assert program.wait(30) == 0
        outpost = place.make()
        await place.end(outpost)
        await place.wait_for((place.folder("gt-1.1") / "result.json").exists)
        again = other_program(place, [argv])
        assert again.wait(30) == 0
        ended = (await place.end(outpost))["gt-1.1"]
        assert ended.state is (State.DONE if fault == "worker.agent_ended" else State.LOST)
        # the agent ends with its supervisor, perhaps just before it could write
        assert not count.exists() or count.read_text() in ("", "ran\n")

    asyncio.run(main())


def test_ended_children_do_not_stay_zombies(places):
    place = places(mode=Mode.PROCESS)

    async def main():
        outpost = place.make()
        for i in range(5):
            await place.run(outpost, place.order("/bin/true", issue=f"gt-{i}"))
        pids = [place.supervisor(f"gt-{i}.1") for i in range(5)]
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            await outpost.outpost_list()
            await asyncio.sleep(0.02)

    asyncio.run(main())
