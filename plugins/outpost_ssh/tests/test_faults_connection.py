"""Faults of the connection: whatever it does, workers keep running, and nothing is told wrongly."""

from __future__ import annotations

import asyncio
import subprocess
import time

import pytest
from faultkit import World, ended, read, until, working

from outpost_core.errors import UnreachableError
from outpost_core.types import Health, State, Worker

#: What a worker prints: 26 letters and a number, so that a byte lost or doubled shows.
COUNT = """i=0
while [ $i -lt {lines} ]; do
  echo "$i abcdefghijklmnopqrstuvwxyz"; i=$((i+1)); {then}
done"""


def counted(lines: int) -> bytes:
    return b"".join(b"%d abcdefghijklmnopqrstuvwxyz\n" % i for i in range(lines))


def test_a_killed_sshd_ends_no_worker_and_the_next_question_is_answered(w: World) -> None:
    host = w.net.host("vm1")

    async def main() -> None:
        async with w.manager(w.entry(host)) as manager:
            await manager.spawn(w.order("gt-1", w.waiting("echo after")))
            await working(manager, "gt-1")
            host.sshd.kill()
            (worker,) = await manager.workers()
            assert worker.state is State.WORKING
            assert worker.unreachable_since is not None
            assert "refused" in (await manager.outposts())[0].detail
            host.sshd.start()
            (worker,) = await manager.workers()
            assert (worker.state, worker.unreachable_since) == (State.WORKING, None)
            w.go.touch()
            (worker,) = await ended(manager, "gt-1")
            assert worker.state is State.DONE
            assert await read(manager, "gt-1") == b"after\n"

    asyncio.run(main())
    assert w.ran("gt-1") == 1


def test_a_connection_that_outlives_its_sshd_is_used_on(w: World) -> None:
    host = w.net.host("vm1")

    async def main() -> None:
        async with w.manager(w.entry(host)) as manager:
            await manager.spawn(w.order("gt-1", w.waiting()))
            await working(manager, "gt-1")
            host.sshd.kill(sessions=False)
            (worker,) = await manager.workers()
            assert (worker.state, worker.unreachable_since) == (State.WORKING, None)
            host.sshd.start()
            w.go.touch()
            await ended(manager, "gt-1")

    asyncio.run(main())


def test_a_cut_host_keeps_its_workers_as_last_known_and_the_policy_takes_the_next(
    w: World,
) -> None:
    one, two = w.net.host("vm1"), w.net.host("vm2")

    async def main() -> None:
        async with w.manager(w.entry(one), w.entry(two)) as manager:
            await manager.spawn(w.order("gt-1", w.waiting()))
            await working(manager, "gt-1")
            one.cut()
            begun = time.time()
            (worker,) = await manager.workers()
            assert worker.state is State.WORKING
            since = worker.unreachable_since
            assert since is not None
            assert begun - 1 <= since <= time.time()
            spawned = await manager.spawn(w.order("gt-2", w.waiting()))
            assert spawned.worker.outpost == "vm2"
            verdicts = {v.outpost: v for v in spawned.explanation.verdicts}
            assert "unreachable" in verdicts["vm1"].reason
            await manager.workers()
            assert (await manager.find("gt-1")).unreachable_since == since
            shown = await asyncio.to_thread(w.cli, "workers")
            assert shown.returncode == 0, shown
            line = next(line for line in shown.stdout.splitlines() if "gt-1.1" in line)
            assert "working" in line
            assert "unreachable" in line, shown.stdout
            one.restore()
            await until(lambda: _reachable(manager, "gt-1"))
            w.go.touch()
            workers = await ended(manager, "gt-1", "gt-2")
            assert [worker.state for worker in workers] == [State.DONE] * 2

    asyncio.run(main())


async def _reachable(manager, ref):  # type: ignore[no-untyped-def]
    return (await manager.worker(ref)).unreachable_since is None


@pytest.mark.slow
def test_a_long_while_without_the_link_is_waited_out(w: World) -> None:
    """Longer than every time-out; a follower and a waiter go through it."""
    host = w.net.host("vm1")
    entry = w.entry(host, keepalive="3s", connect_timeout="5s")
    said: list[Worker] = []

    async def main() -> None:
        async with w.manager(entry, answer_timeout="8s") as manager:
            await manager.spawn(
                w.order("gt-1", w.waiting(COUNT.format(lines=1000, then="") + "\nsleep 0.5"))
            )
            await working(manager, "gt-1")
            log = asyncio.create_task(read(manager, "gt-1", follow=True))
            end = asyncio.create_task(manager.wait(["gt-1"], on_change=said.append))
            await asyncio.sleep(1)
            host.cut()
            await asyncio.sleep(1)
            w.go.touch()  # it works and ends while nobody hears of it
            await asyncio.sleep(20)
            assert not log.done()
            assert not end.done()
            host.restore()
            assert await log == counted(1000)
            assert (await end)[0].state is State.DONE

    asyncio.run(main())
    assert w.ran("gt-1") == 1
    assert any(worker.unreachable_since for worker in said)
    assert {worker.state for worker in said} <= {
        State.QUEUED, State.STARTING, State.WORKING, State.DONE,
    }  # fmt: skip


def test_dropped_packets_are_an_unreachable_host_until_they_arrive_again(w: World) -> None:
    host = w.net.host("vm1")

    async def main() -> None:
        async with w.manager(w.entry(host), answer_timeout="1s") as manager:
            await manager.spawn(w.order("gt-1", w.waiting()))
            await working(manager, "gt-1")
            host.drop()
            answer = (await manager.ping())["vm1"]
            assert isinstance(answer, UnreachableError)
            assert (await manager.find("gt-1")).state is State.WORKING
            host.undrop()
            await until(lambda: _healthy(manager))
            w.go.touch()
            assert (await ended(manager, "gt-1"))[0].state is State.DONE

    asyncio.run(main())


async def _healthy(manager):  # type: ignore[no-untyped-def]
    return isinstance((await manager.ping())["vm1"], Health)


def test_a_half_open_connection_is_replaced_by_a_new_one(w: World) -> None:
    """Nothing ever arrives on the old one again, and no end of it either."""
    host = w.net.host("vm1")
    line = w.relay(host)

    async def main() -> None:
        async with w.manager(w.entry(host, line), answer_timeout="6s") as manager:
            await manager.spawn(w.order("gt-1", w.waiting()))
            await working(manager, "gt-1")
            line.freeze()
            await until(lambda: _reachable(manager, "gt-1"))
            assert isinstance((await manager.ping())["vm1"], Health)
            w.go.touch()
            assert (await ended(manager, "gt-1"))[0].state is State.DONE

    asyncio.run(main())
    assert line.lines == 2


def test_a_half_open_connection_without_keepalive_is_given_up_by_who_waits_for_it(
    w: World,
) -> None:
    host = w.net.host("vm1")
    line = w.relay(host)

    async def main() -> None:
        entry = w.entry(host, line, keepalive="10m")
        async with w.manager(entry, answer_timeout="6s") as manager:
            assert isinstance((await manager.ping())["vm1"], Health)
            line.freeze()
            assert isinstance((await manager.ping())["vm1"], UnreachableError)
            assert isinstance((await manager.ping())["vm1"], Health)

    asyncio.run(main())
    assert line.lines == 2


@pytest.mark.parametrize("way", ["up", "down"])
def test_half_a_close_is_a_broken_line_and_no_more(w: World, way: str) -> None:
    host = w.net.host("vm1")
    line = w.relay(host)

    async def main() -> None:
        async with w.manager(w.entry(host, line)) as manager:
            await manager.spawn(w.order("gt-1", w.waiting()))
            await working(manager, "gt-1")
            line.half_close(way)
            await until(lambda: _reachable(manager, "gt-1"))
            assert isinstance((await manager.ping())["vm1"], Health)
            w.go.touch()
            assert (await ended(manager, "gt-1"))[0].state is State.DONE

    asyncio.run(main())


def test_a_followed_log_is_whole_however_often_its_line_breaks(w: World) -> None:
    host = w.net.host("vm1")
    line = w.relay(host)
    line.cut_after["down"] = 200_000
    script = w.waiting(COUNT.format(lines=40_000, then="[ $((i % 200)) != 0 ] || sleep 0.02"))

    async def main() -> None:
        async with w.manager(w.entry(host, line)) as manager:
            await manager.spawn(w.order("gt-1", script))
            w.go.touch()
            assert await read(manager, "gt-1", follow=True) == counted(40_000)

    asyncio.run(main())
    assert line.lines >= 5


def test_a_long_log_gets_through_a_line_that_never_lasts_for_one_piece_of_it(w: World) -> None:
    host = w.net.host("vm1")
    line = w.relay(host)

    async def main() -> None:
        async with w.manager(w.entry(host, line)) as manager:
            await manager.spawn(w.order("gt-1", COUNT.format(lines=30_000, then="")))
            await ended(manager, "gt-1")
            line.cut_after["down"] = 200_000
            assert await read(manager, "gt-1", follow=True) == counted(30_000)

    asyncio.run(main())


def test_the_command_line_follows_a_log_and_waits_across_a_restart_of_sshd(w: World) -> None:
    host = w.net.host("vm1")
    script = COUNT.format(lines=300, then="sleep 0.01")
    manager = w.manager(w.entry(host))
    environ = {**w.environ(), "OUTPOST_CONFIG": str(w.folder / "outposts-state.yaml"),
               "OUTPOST_STATE": str(w.folder / "state")}  # fmt: skip

    async def spawn() -> None:
        async with manager:
            await manager.spawn(w.order("gt-1", script))
            await working(manager, "gt-1")

    asyncio.run(spawn())
    programs = [
        subprocess.Popen(
            [str(w.outpost), *args], env=environ, cwd=w.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for args in (("logs", "--follow", "gt-1"), ("wait", "gt-1"))
    ]  # fmt: skip
    for _ in range(3):
        time.sleep(1)
        host.sshd.restart()
    said = [program.communicate(timeout=60) for program in programs]
    assert [program.returncode for program in programs] == [0, 0], said
    assert said[0][0] == counted(300)
    assert b"Traceback" not in said[0][1] + said[1][1]


def test_a_slow_line_only_takes_longer(w: World) -> None:
    host = w.net.host("vm1")
    line = w.relay(host, latency=0.15)

    async def main() -> None:
        async with w.manager(w.entry(host, line)) as manager:
            await manager.spawn(w.order("gt-1", COUNT.format(lines=1000, then="")))
            assert await read(manager, "gt-1", follow=True) == counted(1000)
            assert (await ended(manager, "gt-1"))[0].state is State.DONE

    asyncio.run(main())
    assert line.lines == 1
