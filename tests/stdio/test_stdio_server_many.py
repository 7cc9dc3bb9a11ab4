"""The server with many requests under way: its bounds, what it breaks off, what it finishes."""

from __future__ import annotations

import asyncio

from serverkit import Recorder, ask, talking, until
from stdiokit import PATIENCE

from outpost_core.types import State, WorkerStatus
from outpost_worker.serving.server import INFLIGHT


def test_no_more_run_at_once_than_it_said_and_further_ones_are_not_read() -> None:
    async def run() -> None:
        outpost = Recorder()
        async with talking(outpost) as (peer, _):
            for number in range(INFLIGHT + 10):
                params = {"worker": "a.1", "grace": 1}
                await peer.say({"id": number, "method": "stop", "params": params})
            await until(lambda: outpost.held == INFLIGHT)
            for _ in range(50):
                await asyncio.sleep(0)
            assert outpost.held == INFLIGHT
            outpost.hold.set()
            numbers = {(await peer.heard())["id"] for _ in range(INFLIGHT + 10)}
            assert numbers == {*range(INFLIGHT + 10)}

    asyncio.run(run())


def test_a_client_that_reads_nothing_is_not_written_to_without_end() -> None:
    class Chatty(Recorder):
        answered = 0

        async def outpost_list(self) -> list[WorkerStatus]:
            self.answered += 1
            return [WorkerStatus(id="a.1", state=State.WORKING, detail="x" * 500_000)]

    async def run() -> None:
        outpost = Chatty()
        async with talking(outpost) as (peer, _):
            peer.reader._limit = 1  # type: ignore[attr-defined]
            for number in range(500):
                await peer.say({"id": number, "method": "list"})
                if number > 3 * INFLIGHT:
                    break
            before = -1
            while before != outpost.answered:
                before = outpost.answered
                await asyncio.sleep(0.1)
            assert outpost.answered <= INFLIGHT + 4

    asyncio.run(run())


def test_a_cancelled_look_is_broken_off_and_answered() -> None:
    async def run() -> None:
        outpost = Recorder()
        async with talking(outpost) as (peer, _):
            params = {"worker": "a.1", "offset": 0, "wait": 60}
            await peer.say({"id": 5, "method": "logs", "params": params})
            await until(lambda: outpost.held)
            await peer.say({"cancel": 5})
            answer = await asyncio.wait_for(peer.heard(), PATIENCE)
            assert answer["id"] == 5
            assert answer["error"]["kind"] == "cancelled"
            assert outpost.broken_off == 1

    asyncio.run(run())


def test_what_changes_something_is_not_broken_off() -> None:
    async def run() -> None:
        outpost = Recorder()
        async with talking(outpost) as (peer, _):
            params = {"worker": "a.1", "grace": 1}
            await peer.say({"id": 5, "method": "stop", "params": params})
            await until(lambda: outpost.held)
            await peer.say({"cancel": 5})
            await peer.say({"cancel": 99})
            await peer.say({"cancel": {"odd": True}})
            assert (await ask(peer, "ping"))["result"]["ok"]
            outpost.hold.set()
            assert await peer.heard() == {"id": 5, "result": None}

    asyncio.run(run())


def test_at_the_clients_end_looks_are_broken_off_and_the_rest_is_finished() -> None:
    async def run() -> None:
        outpost = Recorder()
        async with talking(outpost) as (peer, task):
            for number, method in enumerate(["stop", "logs"]):
                params = {"worker": "a.1", "grace": 1, "offset": 0, "wait": 60}
                await peer.say({"id": number, "method": method, "params": params})
            await until(lambda: outpost.held == 2)
            peer.close()
            await until(lambda: outpost.broken_off)
            assert not outpost.closed
            outpost.hold.set()
            await asyncio.wait_for(task, PATIENCE)
        assert outpost.finished == 1
        assert outpost.closed

    asyncio.run(run())


def test_goodbye_is_answered_and_ends_it() -> None:
    async def run() -> None:
        outpost = Recorder()
        async with talking(outpost) as (peer, task):
            assert await ask(peer, "bye") == {"id": 1, "result": None}
            await asyncio.wait_for(task, PATIENCE)
            assert await peer.reader.read() == b""
        assert outpost.closed

    asyncio.run(run())
