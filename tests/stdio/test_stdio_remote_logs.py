"""Logs that are read and followed over lines that break."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing

import pytest
from remotekit import Inner, Scripted, answers, read
from stdiokit import PATIENCE, Peer, Served, served

from outpost_core.errors import NotFoundError, UnreachableError
from outpost_core.types import Health
from outpost_shared.backoff import Backoff


def test_a_log_is_byte_exact_across_lines_that_break_at_random(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Backoff, "wait", lambda self: asyncio.sleep(0.001))
    chance = random.Random(7)
    whole = chance.randbytes(3_000_000)

    async def grow(inner: Inner) -> None:
        while len(inner.text) < len(whole):
            inner.text = whole[: len(inner.text) + chance.randrange(1, 60_000)]
            await asyncio.sleep(0.001)
        inner.over = True

    async def cut(outpost: Served) -> None:
        while True:
            await asyncio.sleep(chance.random() * 0.01)
            outpost.break_line()

    async def run() -> None:
        inner = Inner()
        async with served(inner) as outpost:
            growing = asyncio.create_task(grow(inner))
            cutting = asyncio.create_task(cut(outpost))
            got = await asyncio.wait_for(read(outpost, follow=True), PATIENCE)
            cutting.cancel()
            await growing
            assert got == whole
            assert outpost.connects > 3

    asyncio.run(run())


def test_a_follower_waits_for_an_outpost_that_is_away_and_a_reader_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Backoff, "wait", lambda self: asyncio.sleep(0.001))

    async def run() -> None:
        outpost = Scripted()
        with pytest.raises(UnreachableError):
            await read(outpost)
        following = asyncio.create_task(read(outpost, follow=True))
        await asyncio.sleep(0.05)
        assert not following.done()
        outpost.plays = [answers({"data": "", "end": True})]
        assert await asyncio.wait_for(following, PATIENCE) == b""
        await outpost.end()

    asyncio.run(run())


def test_an_outpost_that_was_closed_is_not_opened_again_by_those_who_still_follow_or_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Backoff, "wait", lambda self: asyncio.sleep(0.001))

    asked = asyncio.Event()

    class Slow(Inner):
        async def outpost_ping(self) -> Health:
            asked.set()
            await asyncio.Event().wait()
            return Health(ok=True)

    async def run() -> None:
        async with served(Slow()) as outpost:
            tasks = [
                asyncio.create_task(read(outpost, follow=True)),
                asyncio.create_task(outpost.outpost_ping()),
            ]
            await asyncio.wait_for(asked.wait(), PATIENCE)
            await outpost.outpost_close()
            for end in await asyncio.wait_for(
                asyncio.gather(*tasks, return_exceptions=True), PATIENCE
            ):
                assert isinstance(end, UnreachableError)
            assert outpost.connects == 1

    asyncio.run(run())


def test_a_log_of_nobody_is_not_found_followed_or_not() -> None:
    async def run() -> None:
        async with served(Inner()) as outpost:
            for follow in (False, True):
                with pytest.raises(NotFoundError):
                    async for _ in outpost.outpost_logs(worker="x.1", offset=0, follow=follow):
                        pass

    asyncio.run(run())


def test_more_followers_than_places_leave_room_for_other_calls() -> None:
    async def run() -> None:
        inner = Inner()
        async with served(inner) as outpost:
            followers = [asyncio.create_task(read(outpost, follow=True)) for _ in range(80)]
            await asyncio.sleep(0.1)
            assert (await asyncio.wait_for(outpost.outpost_ping(), PATIENCE)).ok
            inner.text, inner.over = b"the end", True
            assert set(await asyncio.wait_for(asyncio.gather(*followers), PATIENCE)) == {b"the end"}

    asyncio.run(run())


def test_a_server_that_takes_one_request_at_a_time_is_polled() -> None:
    waits = []

    async def one_by_one(peer: Peer) -> None:
        async for asked in peer.requests():
            if asked.get("method") == "logs":
                waits.append(asked["params"]["wait"])
                over = len(waits) > 3
                await peer.say({"id": asked["id"], "result": {"data": "", "end": over}})

    async def run() -> None:
        outpost = Scripted(one_by_one, inflight=1)
        assert await read(outpost, follow=True) == b""
        assert waits == [0.0] * 4
        await outpost.end()

    asyncio.run(run())


def test_a_follower_that_leaves_breaks_its_request_off() -> None:
    async def run() -> None:
        inner = Inner()
        inner.text = b"early"
        async with served(inner) as outpost:
            stream = outpost.outpost_logs(worker="gt-1.1", offset=0, follow=True)
            async with aclosing(stream):
                assert await anext(stream) == b"early"
            client = await outpost.client()
            await asyncio.wait_for(client.call("ping"), PATIENCE)
            for _ in range(500):
                if not client._waiting:
                    break
                await asyncio.sleep(0.01)
            assert not client._waiting

    asyncio.run(run())
