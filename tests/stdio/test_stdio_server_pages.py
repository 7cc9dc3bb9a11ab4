"""The server's long answers: logs in pieces, lists in pages."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping

from serverkit import Recorder, ask, talking

from outpost_core.backend import Outpost
from outpost_core.types import Json, State, WorkerStatus


def test_a_log_comes_at_once_in_large_pieces_up_to_what_was_asked_for() -> None:
    async def run() -> None:
        outpost = Recorder()
        outpost.log = [bytes([n]) * 1000 for n in range(100)]
        whole = b"".join(outpost.log)
        async with talking(outpost) as (peer, _):
            for most, length in ((10, 10), (2500, 2500), (1 << 20, 100_000)):
                params = {"worker": "a.1", "offset": 0, "max": most, "wait": 60}
                result = (await ask(peer, "logs", params))["result"]
                assert base64.b64decode(result["data"]) == whole[:length]
                assert result["end"] is False

    asyncio.run(run())


def test_a_piece_of_a_log_fits_the_line_that_the_client_takes() -> None:
    async def run() -> None:
        outpost = Recorder()
        outpost.log = [b"x" * 100_000]
        async with talking(outpost, max_frame=8192) as (peer, _):
            params = {"worker": "a.1", "offset": 0, "max": 1 << 30, "wait": 1}
            await peer.say({"id": 1, "method": "logs", "params": params})
            line = await peer.reader.readuntil(b"\n")
            assert 7000 < len(line) <= 8192

    asyncio.run(run())


def test_a_log_without_news_is_answered_after_the_wait() -> None:
    async def run() -> None:
        outpost = Recorder()
        async with talking(outpost) as (peer, _):
            params = {"worker": "a.1", "offset": 0, "wait": 0.05}
            assert (await ask(peer, "logs", params))["result"] == {"data": "", "end": False}
            assert outpost.broken_off == 1

    asyncio.run(run())


def workers(count: int) -> list[WorkerStatus]:
    return [
        WorkerStatus(id=f"gt-{n}.1", state=State.WORKING, digest="d" * 64, detail="ü" * 30)
        for n in range(count)
    ]


def test_ten_thousand_workers_come_in_pages_none_twice_and_none_missing() -> None:
    async def run() -> None:
        outpost = Recorder()
        outpost.statuses = workers(10_000)
        async with talking(outpost) as (peer, _):
            found: list[str] = []
            cursor, pages = None, 0
            while pages == 0 or cursor is not None:
                await peer.say({"id": 1, "method": "list", "params": {"after": cursor}})
                line = await peer.reader.readuntil(b"\n")
                assert len(line) <= 1 << 20
                page = json.loads(line)["result"]
                found += [worker["id"] for worker in page["workers"]]
                cursor, pages = page["next"], pages + 1
                outpost.statuses = outpost.statuses[7:] + workers(3)  # it changes meanwhile
            assert found == [status.id for status in workers(10_000)]
            assert pages > 1
            assert len(outpost.asked) == 1

    asyncio.run(run())


def test_a_limit_and_a_small_line_make_more_pages() -> None:
    async def run() -> None:
        outpost = Recorder()
        outpost.statuses = workers(30)
        async with talking(outpost, max_frame=4096) as (peer, _):
            page = (await ask(peer, "list", {"limit": 4}))["result"]
            assert len(page["workers"]) == 4
            page = (await ask(peer, "list", {"after": page["next"]}))["result"]
            assert page["workers"][0]["id"] == "gt-4.1"
            assert 4 < len(page["workers"]) < 26

    asyncio.run(run())


def test_a_forgotten_cursor_is_not_found() -> None:
    async def run() -> None:
        async with talking(Recorder()) as (peer, _):
            for cursor in ("1:5", "", ":", "x:y", "1:-1", "1:²"):
                assert (await ask(peer, "list", {"after": cursor}))["error"]["kind"] == "not_found"

    asyncio.run(run())


def test_an_answer_longer_than_the_client_takes_is_an_error_and_not_sent() -> None:
    async def long(outpost: Outpost, params: Mapping[str, Json]) -> Json:
        return "x" * 10_000

    async def run() -> None:
        async with talking(Recorder(), {"x-long": long}, max_frame=5000) as (peer, _):
            error = (await ask(peer, "x-long"))["error"]
            assert error["kind"] == "internal"
            assert "bytes" in error["message"]

    asyncio.run(run())
