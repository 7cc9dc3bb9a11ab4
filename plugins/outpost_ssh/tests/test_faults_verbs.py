"""Faults in the middle of a verb: what may be done twice is done, what may not is done once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from faultkit import World, ended, read, until, working

from outpost_core.errors import OutpostError, PlacementError, UnreachableError
from outpost_core.types import Health, Message, State


def test_a_line_is_typed_once_though_its_reply_was_lost(w: World) -> None:
    host = w.net.host("vm1")
    line = w.relay(host)
    typed = w.folder / "typed"
    order = w.order("gt-1", f"while read a; do echo $a >> {typed}; [ $a != end ] || exit; done")
    order = replace(order, agent=replace(order.agent, interactive=True))

    async def main() -> None:
        async with w.manager(w.entry(host, line)) as manager:
            await manager.spawn(order)
            await working(manager, "gt-1")
            outpost = manager.fleet.outpost("vm1")
            line.hold("down")
            nudging = asyncio.create_task(outpost.outpost_nudge(worker="gt-1.1", text="once"))
            await until(typed.exists)
            line.cut()
            line.release()
            with pytest.raises(UnreachableError) as caught:
                await nudging
            assert caught.value.sent
            await manager.nudge("gt-1", "end")
            await ended(manager, "gt-1")

    asyncio.run(main())
    assert typed.read_text() == "once\nend\n"


def test_a_look_whose_reply_was_lost_is_taken_again(w: World) -> None:
    host = w.net.host("vm1")
    line = w.relay(host)
    order = w.order("gt-1", f"echo on the screen; {w.waiting()}")
    order = replace(order, agent=replace(order.agent, interactive=True))

    async def main() -> None:
        async with w.manager(w.entry(host, line)) as manager:
            await manager.spawn(order)
            await working(manager, "gt-1")
            before = line.passed("up")
            line.hold("down")
            peeking = asyncio.create_task(manager.peek("gt-1"))
            await until(lambda: line.passed("up") > before)
            line.cut()
            line.release()
            assert "on the screen" in await peeking
            w.go.touch()
            await ended(manager, "gt-1")

    asyncio.run(main())
    assert line.lines == 2


def test_a_stop_whose_reply_was_lost_is_a_stop(w: World) -> None:
    host = w.net.host("vm1")
    line = w.relay(host)

    async def main() -> None:
        async with w.manager(w.entry(host, line)) as manager:
            await manager.spawn(w.order("gt-1", w.waiting()))
            await working(manager, "gt-1")
            line.hold("down")
            stopping = asyncio.create_task(manager.stop("gt-1"))
            await until(lambda: not _agent(host))
            line.cut()
            line.release()
            await stopping
            (worker,) = await ended(manager, "gt-1")
            assert worker.state is State.STOPPED

    asyncio.run(main())


def _agent(host) -> list[str]:  # type: ignore[no-untyped-def]
    return [line for line in host.processes().values() if line.startswith("/bin/sh -c")]


def test_what_cannot_be_asked_is_not_said_to_be_stopped(w: World) -> None:
    host = w.net.host("vm1")

    async def main() -> None:
        async with w.manager(w.entry(host)) as manager:
            await manager.spawn(w.order("gt-1", w.waiting("echo whole")))
            await working(manager, "gt-1")
            host.cut()
            with pytest.raises(UnreachableError):
                await manager.stop("gt-1")
            assert (await manager.find("gt-1")).state is State.WORKING
            host.restore()
            w.go.touch()
            (worker,) = await ended(manager, "gt-1")
            assert worker.state is State.DONE
            assert await read(manager, "gt-1") == b"whole\n"

    asyncio.run(main())


def test_mail_whose_reply_was_lost_is_in_the_box_once(w: World) -> None:
    host = w.net.host("vm1")
    line = w.relay(host)
    town = w.folder / "town"
    town.mkdir()

    async def main() -> None:
        async with w.manager(w.entry(host, line, town_path=str(town))) as manager:
            await manager.ping()
            line.hold("down")
            letter = Message(to="gastown/polecat", subject="s", body="b", sender="mayor/")
            sending = asyncio.create_task(manager.send_mail("vm1", letter))
            await until(lambda: any(town.rglob("*.jsonl")))
            line.cut()
            line.release()
            await sending
            await until(lambda: _delivered(manager))
            inbox = (await manager.inbox(["vm1"], "gastown/polecat"))["vm1"]
            assert not isinstance(inbox, OutpostError)
            assert [message.subject for message in inbox] == ["s"]

    asyncio.run(main())


async def _delivered(manager):  # type: ignore[no-untyped-def]
    await manager.flush_mail()
    return not (await manager.outbox())


def test_a_host_that_dies_while_a_worker_starts_loses_it_and_starts_it_once(w: World) -> None:
    host = w.net.host("vm1")
    line = w.relay(host)

    async def main() -> None:
        async with w.manager(w.entry(host, line)) as manager:
            await manager.ping()
            line.hold("down")
            spawning = asyncio.create_task(manager.spawn(w.order("gt-1", w.waiting())))
            await until(lambda: w.ran("gt-1") == 1)
            await asyncio.to_thread(host.halt)
            line.cut()
            line.release()
            with pytest.raises(UnreachableError):
                await spawning
            await asyncio.to_thread(host.boot)
            (worker,) = await ended(manager, "gt-1")
            assert worker.state is State.LOST
            assert (await manager.outposts())[0].active == 0

    asyncio.run(main())
    assert w.ran("gt-1") == 1


def test_the_package_gets_through_a_narrow_line(w: World) -> None:
    """Connecting has a limit; what is on its way is not given up for being long."""
    host = w.net.host("vm1")
    line = w.relay(host, rate=53_000)

    async def main() -> None:
        entry = w.entry(host, line, connect_timeout="7s", keepalive="5s")
        async with w.manager(entry, answer_timeout="90s") as manager:
            answer = (await manager.ping())["vm1"]
            assert isinstance(answer, Health), answer

    asyncio.run(main())


def test_when_nobody_can_be_reached_each_is_named_with_its_cause(w: World) -> None:
    one, two = w.net.host("vm1"), w.net.host("vm2")
    one.sshd.stop()
    two.cut()

    async def main() -> None:
        quick = [w.entry(host, connect_timeout="1s") for host in (one, two)]
        async with w.manager(*quick) as manager:
            with pytest.raises(PlacementError) as caught:
                await manager.spawn(w.order("gt-1"))
            said = str(caught.value)
            assert "vm1: 10.77.0.10:22 refused the connection" in said
            assert "vm2: no answer from 10.77.0.11:22" in said
            assert (await manager.ledger.workers()) == []
            one.sshd.start()
            two.restore()
            await manager.ping()
            await manager.spawn(w.order("gt-1"))
            await ended(manager, "gt-1")

    asyncio.run(main())
    assert w.ran("gt-1") == 1


def test_three_hosts_are_each_on_their_own(w: World) -> None:
    """One cut, one rebooted, one well: each answers, or does not, for itself."""
    hosts = [w.net.host(f"vm{i}") for i in (1, 2, 3)]

    async def main() -> None:
        async with w.manager(*(w.entry(host) for host in hosts)) as manager:
            for i, host in enumerate(hosts):
                await manager.spawn(w.order(f"gt-{i}", w.waiting()), on=host.name)
            await working(manager, "gt-0", "gt-1", "gt-2")
            hosts[0].cut()
            await asyncio.to_thread(hosts[1].reboot)
            await until(lambda: _state(manager, "gt-1", State.LOST))
            await manager.refresh()
            cut, _, well = [await manager.find(f"gt-{i}") for i in range(3)]
            assert (cut.state, well.state) == (State.WORKING, State.WORKING)
            assert cut.unreachable_since is not None
            assert well.unreachable_since is None
            hosts[0].restore()
            w.go.touch()
            workers = await ended(manager, "gt-0", "gt-1", "gt-2")
            assert [x.state for x in workers] == [State.DONE, State.LOST, State.DONE]

    asyncio.run(main())
    assert [w.ran(f"gt-{i}") for i in range(3)] == [1, 1, 1]


async def _state(manager, ref, state):  # type: ignore[no-untyped-def]
    return (await manager.worker(ref)).state is state


def test_a_manager_closes_in_time_with_a_host_that_says_nothing(w: World) -> None:
    host = w.net.host("vm1")
    line = w.relay(host)

    async def main() -> None:
        manager = w.manager(w.entry(host, line, keepalive="10m"))
        assert isinstance((await manager.ping())["vm1"], Health)
        line.freeze()
        await asyncio.wait_for(manager.aclose(), 15)
        line.cut()

    asyncio.run(main())


def test_a_full_disk_is_told_in_words(w: World) -> None:
    host = w.net.host("vm1", home_size="1m")
    host.run("sh", "-c", 'cat /dev/zero > "$1"/filler', "sh", str(host.home), check=False)

    async def main() -> None:
        async with w.manager(w.entry(host)) as manager:
            answer = (await manager.ping())["vm1"]
            assert isinstance(answer, OutpostError)
            assert "No space left on device" in answer.message
            assert answer.hint

    asyncio.run(main())
