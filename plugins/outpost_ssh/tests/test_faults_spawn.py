"""Faults while workers are started: each order runs exactly once, and no slot is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faultkit import World, ended, read, until, working

from outpost_core import wire
from outpost_core.errors import OutpostError, PlacementError, UnreachableError
from outpost_core.types import Delivery, Health, Order, State
from outpost_testing.gitrig import GitRig

PACKAGES = ".cache/outpost/far"


def test_a_worker_whose_reply_was_lost_is_found_by_the_same_call(w: World) -> None:
    host = w.net.host("vm1")
    line = w.relay(host)

    async def main() -> None:
        async with w.manager(w.entry(host, line)) as manager:
            await manager.ping()
            line.hold("down")
            spawning = asyncio.create_task(manager.spawn(w.order("gt-1", w.waiting())))
            await until(lambda: w.ran("gt-1") == 1)
            line.cut()
            line.release()
            assert (await spawning).worker.outpost == "vm1"
            assert (await manager.outposts())[0].active == 1
            w.go.touch()
            assert (await ended(manager, "gt-1"))[0].state is State.DONE
            assert (await manager.outposts())[0].active == 0

    asyncio.run(main())
    assert w.ran("gt-1") == 1


def test_a_worker_whose_reply_was_lost_for_long_is_in_doubt_and_then_adopted(w: World) -> None:
    """It goes to no other outpost: the first may run it, and does."""
    one, two = w.net.host("vm1"), w.net.host("vm2")
    line = w.relay(one)

    async def main() -> None:
        async with w.manager(w.entry(one, line), w.entry(two)) as manager:
            await manager.ping()
            line.hold("down")
            spawning = asyncio.create_task(manager.spawn(w.order("gt-1", w.waiting())))
            await until(lambda: w.ran("gt-1") == 1)
            line.refuse()
            line.cut()
            line.release()
            with pytest.raises(UnreachableError) as caught:
                await spawning
            assert caught.value.sent
            assert (await manager.find("gt-1")).outpost == "vm1"
            with pytest.raises(UnreachableError):
                await manager.spawn(w.order("gt-1", w.waiting()))
            line.refuse(False)
            again = await manager.spawn(w.order("gt-1", w.waiting()))
            assert again.worker.outpost == "vm1"
            w.go.touch()
            assert (await ended(manager, "gt-1"))[0].state is State.DONE
            assert (await manager.outposts())[0].active == 0

    asyncio.run(main())
    assert w.ran("gt-1") == 1


def test_an_order_that_a_dead_line_swallowed_is_handed_over_again(w: World) -> None:
    host = w.net.host("vm1")
    line = w.relay(host)

    async def main() -> None:
        async with w.manager(w.entry(host, line)) as manager:
            await manager.ping()
            line.freeze()
            spawned = await manager.spawn(w.order("gt-1", "true"))
            assert spawned.worker.outpost == "vm1"
            assert (await ended(manager, "gt-1"))[0].state is State.DONE
            assert (await manager.outposts())[0].active == 0

    asyncio.run(main())
    assert w.ran("gt-1") == 1
    assert line.lines == 2


def test_work_on_a_repository_of_this_machine_gets_there_and_back_over_a_flapping_line(
    w: World,
) -> None:
    host = w.net.host("vm1")
    line = w.relay(host, rate=300_000)
    (w.folder / "git").mkdir()
    rig = GitRig(w.folder / "git", {"big.bin": os.urandom(150_000).hex()})
    orders = [
        w.order(
            f"gt-{i}",
            f"echo {i} > {i}.txt; head -c 100000 /dev/urandom > {i}.bin",
            rig=str(rig.path),
            delivery=Delivery(branch=f"polecat/gt-{i}", message="m"),
        )
        for i in range(3)
    ]

    async def flap() -> None:
        for lasted in range(1, 9):  # at last long enough for the whole repository
            await asyncio.sleep(0.25 * lasted)
            await asyncio.to_thread(line.cut)

    async def main() -> None:
        async with w.manager(w.entry(host, line)) as manager:
            await manager.ping()
            flapping = asyncio.create_task(flap())
            pending = orders
            for _ in range(20):
                answers = await manager.spawn_many(pending, on="vm1")
                pending = [
                    order for order, answer in zip(pending, answers, strict=True)
                    if isinstance(answer, OutpostError)
                ]  # fmt: skip
                if not pending:
                    break
                await until(lambda: _answers(manager))
                # each cut counts for all that were on their way
                await manager.reset_breaker("outpost", "vm1")
            assert not pending
            workers = await ended(manager, *(order.worker for order in orders))
            flapping.cancel()
            assert [worker.state for worker in workers] == [State.DONE] * 3

    asyncio.run(main())
    assert [w.ran(order.issue.id) for order in orders] == [1] * 3
    for i in range(3):
        assert rig.show(f"polecat/gt-{i}", f"{i}.txt") == str(i)
    assert line.lines >= 2


_SPAWNER = """
import asyncio, json, sys
from pathlib import Path
from outpost_core import wire
from outpost_manager.manager import Manager
from outpost_core.types import Order

async def main():
    order = wire.from_json(Order, json.loads(sys.argv[3]))
    async with Manager.open(config=Path(sys.argv[1]), state=Path(sys.argv[2])) as manager:
        await manager.ping()
        print("ready", flush=True)
        sys.stdin.readline()
        await manager.spawn(order)

asyncio.run(main())
"""


def _spawner(w: World, order: Order, state: str = "state") -> subprocess.Popen[bytes]:
    import json

    return subprocess.Popen(
        [
            *(sys.executable, "-c", _SPAWNER, str(w.folder / f"outposts-{state}.yaml")),
            *(str(w.folder / state), json.dumps(wire.to_json(order))),
        ],
        env=w.environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_a_spawner_killed_before_the_reply_leaves_one_worker_that_the_next_program_finds(
    w: World,
) -> None:
    host = w.net.host("vm1")
    line = w.relay(host)
    order = w.order("gt-1", w.waiting())
    manager = w.manager(w.entry(host, line))

    async def main() -> None:
        with _spawner(w, order) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            assert await asyncio.to_thread(program.stdout.readline) == b"ready\n"
            line.hold("down")
            program.stdin.write(b"go\n")
            program.stdin.flush()
            await until(lambda: w.ran("gt-1") == 1)
            program.kill()
        line.release()
        async with manager:
            (worker,) = await working(manager, "gt-1")
            assert worker.outpost == "vm1"
            assert (await manager.outposts())[0].active == 1
            w.go.touch()
            assert (await ended(manager, "gt-1"))[0].state is State.DONE

    asyncio.run(main())
    assert w.ran("gt-1") == 1


@pytest.mark.parametrize("count", [2_500, 9_000, 40_000, 120_000])
def test_half_a_package_is_never_taken_for_a_whole_one(w: World, count: int) -> None:
    host = w.net.host("vm1")
    line = w.relay(host)
    line.cut_after["up"] = count

    async def main() -> None:
        async with w.manager(w.entry(host, line)) as manager:
            with pytest.raises((PlacementError, UnreachableError)):
                await manager.spawn(w.order("gt-1", "echo whole"))
            assert w.ran("gt-1") == 0
            assert (await manager.outposts())[0].active == 0
            assert _packages(host.home) == []
            line.cut_after["up"] = None
            assert isinstance((await manager.ping())["vm1"], Health)
            await manager.spawn(w.order("gt-1", "echo whole"), on="vm1")
            assert await read(manager, "gt-1", follow=True) == b"whole\n"
            await ended(manager, "gt-1")
            assert len(_packages(host.home)) == 1

    asyncio.run(main())
    assert w.ran("gt-1") == 1


def _packages(home: Path) -> list[str]:
    return [path.parent.name for path in (home / PACKAGES).glob("*/installed")]


def test_twenty_spawns_over_a_flapping_line_run_once_each(w: World) -> None:
    host = w.net.host("vm1")
    line = w.relay(host)
    orders = [w.order(f"gt-{i}", "sleep 0.2; echo ended") for i in range(20)]

    async def main() -> None:
        async with w.manager(w.entry(host, line, max_workers=20)) as manager:
            await manager.ping()
            before = line.passed("up")
            line.cut()
            await until(lambda: _answers(manager))
            # from here on each connection lasts for a few orders
            line.cut_after["up"] = line.passed("up") - before + 4000
            pending = orders
            for _ in range(20):
                answers = await manager.spawn_many(pending, on="vm1")
                pending = [
                    order for order, answer in zip(pending, answers, strict=True)
                    if isinstance(answer, OutpostError)
                ]  # fmt: skip
                if not pending:
                    break
                await until(lambda: _answers(manager))
                # each cut counts for all that were on their way
                await manager.reset_breaker("outpost", "vm1")
            assert not pending
            lines = line.lines
            workers = await ended(manager, *(order.worker for order in orders))
            assert [worker.state for worker in workers] == [State.DONE] * 20
            assert (await manager.outposts())[0].active == 0
            assert (await manager.ledger.unspawned(0.0)) == []
            assert lines >= 5

    asyncio.run(main())
    assert [w.ran(order.issue.id) for order in orders] == [1] * 20


async def _answers(manager):  # type: ignore[no-untyped-def]
    return isinstance((await manager.ping())["vm1"], Health)


def test_two_controllers_on_one_host_see_the_same_workers_and_run_nothing_twice(
    w: World,
) -> None:
    host = w.net.host("vm1")
    same = w.order("gt-1", w.waiting("echo once"))

    async def main() -> None:
        ours = w.manager(w.entry(host), state="ours")
        theirs = w.manager({**w.entry(host), "name": "their-vm"}, state="theirs")
        async with ours, theirs:
            answers = await asyncio.gather(
                ours.spawn(same), theirs.spawn(same), ours.spawn(w.order("gt-2", w.waiting()))
            )
            assert {answer.worker.id for answer in answers} == {"gt-1.1", "gt-2.1"}
            await working(ours, "gt-1", "gt-2")
            with pytest.raises(OutpostError, match="another order"):
                await theirs.spawn(w.order("gt-2", "echo other"))
            w.go.touch()
            for manager in (ours, theirs):
                assert (await ended(manager, "gt-1"))[0].state is State.DONE
                assert await read(manager, "gt-1") == b"once\n"

    asyncio.run(main())
    assert (w.ran("gt-1"), w.ran("gt-2")) == (1, 1)


def test_the_spawner_of_one_state_and_the_hosts_many_names_are_one_machine(w: World) -> None:
    """Two outposts of one configuration that are the same host share its workers, once each."""
    host = w.net.host("vm1")

    async def main() -> None:
        twice = [{**w.entry(host), "name": name} for name in ("a", "b")]
        async with w.manager(*twice) as manager:
            orders = [w.order(f"gt-{i}", "echo x") for i in range(4)]
            answers = await manager.spawn_many(orders)
            assert not [answer for answer in answers if isinstance(answer, OutpostError)]
            await ended(manager, *(order.worker for order in orders))

    asyncio.run(main())
    assert [w.ran(f"gt-{i}") for i in range(4)] == [1] * 4
