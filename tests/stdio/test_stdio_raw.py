"""Bytes as they are, behind a line: with those who take them, and never with those who do not."""

from __future__ import annotations

import asyncio
import base64
import random
from typing import Any

import pytest
from remotekit import REQUIRED, Inner, Scripted, read
from serverkit import HELLO, Recorder, ask, talking
from stdiokit import PATIENCE, Peer, connected, pair, served, start

from outpost_core.backend import Outpost
from outpost_core.errors import OutpostError, UsageError
from outpost_exec.stdio import pieces
from outpost_shared.protocol import (
    MAX_RAW,
    BrokenChannelError,
    FrameError,
    Lines,
    data_of,
    decode,
    frame,
    packed,
    read_data,
)
from outpost_worker.serving.methods import Params
from outpost_worker.serving.server import serve

WHOLE = random.Random(11).randbytes(5_000_000)


class Counting(Scripted):
    """A program that knows raw bytes or does not, and has one log."""

    def __init__(self, *, raw: int, whole: bytes = WHOLE, inflight: int = 32) -> None:
        self.asked: list[dict[str, Any]] = []
        self.most = 0
        more = {"raw": raw} if raw else {}
        super().__init__(self.serve, inflight=inflight, methods=REQUIRED, **more)
        self.whole = whole
        self.raw = raw

    async def serve(self, peer: Peer) -> None:
        under_way = 0
        async for said in peer.requests():
            if said.get("method") != "logs":
                continue
            self.asked.append(said["params"])
            under_way += 1
            self.most = max(self.most, under_way)
            offset, most = said["params"]["offset"], said["params"]["max"]
            data = self.whole[offset : offset + most]
            end = offset >= len(self.whole)
            if self.raw:
                await peer.say({"id": said["id"], "result": {"end": end}, "raw": len(data)})
                await peer.raw(data)
            else:
                text = base64.b64encode(data).decode()
                await peer.say({"id": said["id"], "result": {"data": text, "end": end}})
            under_way -= 1


def test_a_log_is_the_same_raw_and_in_lines() -> None:
    async def run() -> None:
        for raw in (MAX_RAW, 0):
            outpost = Counting(raw=raw)
            assert await asyncio.wait_for(read(outpost), PATIENCE) == WHOLE
            assert all(asked["max"] <= MAX_RAW for asked in outpost.asked)
            assert all(asked["wait"] == 0 for asked in outpost.asked)
            await outpost.end()

    asyncio.run(run())


def test_a_program_that_knows_only_lines_is_asked_for_what_fits_one_and_one_at_a_time() -> None:
    async def run() -> None:
        outpost = Counting(raw=0)
        assert await asyncio.wait_for(read(outpost), PATIENCE) == WHOLE
        assert max(asked["max"] for asked in outpost.asked) * 4 // 3 < 1 << 20
        offsets = [asked["offset"] for asked in outpost.asked]
        assert offsets == sorted({*offsets})
        await outpost.end()

    asyncio.run(run())


def test_our_own_server_sends_raw_bytes_only_to_those_who_take_them() -> None:
    async def run() -> None:
        outpost = Recorder()
        outpost.log = [b"\n{}\n\x00\xff" * 3]
        params = {"worker": "a.1", "offset": 0, "max": 1000, "wait": 60}
        async with talking(outpost) as (peer, _):
            assert base64.b64decode((await ask(peer, "logs", params))["result"]["data"])
        async with talking(outpost, raw=1 << 20) as (peer, _):
            for _ in range(2):
                said = await ask(peer, "logs", params)
                assert said["result"] == {"end": False}
                assert await peer.reader.readexactly(said["raw"]) == outpost.log[0]
        async with talking(outpost, raw=10) as (peer, _):
            said = await ask(peer, "logs", params)
            assert said["raw"] == 10
            assert await peer.reader.readexactly(10) == outpost.log[0][:10]

    asyncio.run(run())


def test_bytes_go_to_a_server_raw_or_as_base64_and_arrive_the_same() -> None:
    async def length(_outpost: Outpost, params: Params) -> Any:
        data = data_of(params)
        return {"size": len(data), "data": data[::-1]}

    async def run() -> None:
        async with served(Inner(), x_turn=length) as outpost:
            for data in (b"", b"\n", WHOLE[:MAX_RAW]):
                told = await outpost.call("x-turn", {"data": data})
                assert isinstance(told, dict)
                assert (told["size"], data_of(told)) == (len(data), data[::-1])
            # longer than goes behind a line: in the line, as before
            data = WHOLE[: MAX_RAW + 1]
            with pytest.raises(OutpostError, match="bytes"):  # the answer is too long for a line
                await outpost.call("x-turn", {"data": data})

    asyncio.run(run())


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"result": {"end": True}, "raw": MAX_RAW + 1}, "are allowed"),
        ({"result": {"end": True}, "raw": 10**30}, "are allowed"),
        ({"result": {"end": True}, "raw": -1}, "`raw`"),
        ({"result": {"end": True}, "raw": True}, "`raw`"),
        ({"result": {"end": True}, "raw": 1.0}, "`raw`"),
        ({"result": {"end": True}, "raw": None}, "`raw`"),
        ({"result": {"end": True}, "raw": "7"}, "`raw`"),
        ({"result": {"data": "", "end": True}, "raw": 7}, "no `result`"),
        ({"result": None, "raw": 7}, "no `result`"),
        ({"result": [], "raw": 7}, "no `result`"),
        ({"error": {"kind": "usage", "message": "x"}, "raw": 7}, "no `result`"),
    ],
    ids=repr,
)
def test_a_server_that_says_something_odd_of_its_bytes_is_not_listened_to(
    said: dict[str, Any], why: str
) -> None:
    async def run() -> None:
        client, peer = await connected(raw=MAX_RAW)
        asking = asyncio.create_task(client.call("ping"))
        asked = await peer.heard()
        await peer.say({"id": asked["id"], **said})
        with pytest.raises(BrokenChannelError, match=why):
            await asyncio.wait_for(asking, PATIENCE)
        peer.close()
        await client.aclose()

    asyncio.run(run())


def test_bytes_that_end_too_soon_break_the_channel() -> None:
    async def run() -> None:
        client, peer = await connected(raw=MAX_RAW)
        asking = asyncio.create_task(client.call("ping"))
        asked = await peer.heard()
        await peer.say({"id": asked["id"], "result": {}, "raw": 100})
        await peer.raw(b"x" * 99)
        peer.close()
        with pytest.raises(BrokenChannelError, match="1 bytes before the end of 100"):
            await asyncio.wait_for(asking, PATIENCE)
        await client.aclose()

    asyncio.run(run())


def test_the_bytes_of_a_call_that_was_cancelled_are_passed_over() -> None:
    async def run() -> None:
        client, peer = await connected(raw=MAX_RAW)
        asking = asyncio.create_task(client.call("logs"))
        asked = await peer.heard()
        await peer.say({"id": asked["id"], "result": {"end": False}, "raw": 300_000})
        await peer.raw(b"\n" * 100_000)
        asking.cancel()
        await asyncio.wait({asking})
        assert await peer.heard() == {"cancel": asked["id"]}
        await peer.raw(b'{"id":9}' * 25_000)
        pinging = asyncio.create_task(client.call("ping"))
        asked = await peer.heard()
        await peer.say({"id": asked["id"], "result": "fine"})
        assert await asyncio.wait_for(pinging, PATIENCE) == "fine"
        peer.close()
        await client.aclose()

    asyncio.run(run())


@pytest.mark.parametrize(
    "said",
    [
        {"params": {}, "raw": MAX_RAW + 1},
        {"params": {}, "raw": -1},
        {"params": {"data": ""}, "raw": 3},
        {"params": None, "raw": 3},
        {"raw": 3},
    ],
    ids=repr,
)
def test_a_client_that_says_something_odd_of_its_bytes_is_told_and_left(
    said: dict[str, Any],
) -> None:
    async def run() -> None:
        near, far = await pair()
        peer = Peer(near)
        serving = asyncio.create_task(serve(lambda *_: Recorder(), *far, server="s 1"))
        await peer.say(HELLO)
        await peer.heard()
        await peer.say({"id": 1, "method": "ping", **said})
        with pytest.raises(FrameError):
            await asyncio.wait_for(serving, PATIENCE)
        assert (await peer.heard())["error"]["kind"] == "usage"
        peer.close()

    asyncio.run(run())


@pytest.mark.parametrize("raw", [-1, True, "much", 1.5, None])
def test_a_hello_with_an_odd_number_of_bytes_is_refused(raw: Any) -> None:
    async def run() -> None:
        near, far = await pair()
        peer = Peer(far)
        client, _ = await asyncio.gather(start(near), peer.greet(raw=raw), return_exceptions=True)
        assert isinstance(client, OutpostError)
        assert "`raw`" in client.message
        peer.close()
        near, far = await pair()
        peer = Peer(near)
        serving = asyncio.create_task(serve(lambda *_: Recorder(), *far, server="s 1"))
        await peer.say({"outpost": 1, "hello": {"nonce": "n", "raw": raw}})
        assert "`raw`" in (await peer.heard())["error"]["message"]
        with pytest.raises(FrameError):
            await serving
        peer.close()

    asyncio.run(run())


def test_who_reads_slowly_keeps_no_more_than_a_few_pieces_under_way() -> None:
    """However much a worker printed, and however fast its server is (back-pressure)."""

    async def run() -> None:
        whole = bytes(40 << 20)
        outpost = Counting(raw=MAX_RAW, whole=whole)
        size = 0
        async for piece in outpost.outpost_logs(worker="gt-1.1", offset=0, follow=False):
            size += len(piece)
            for _ in range(30):  # whoever could run ahead, would
                await asyncio.sleep(0)
            ahead = sum(asked["max"] for asked in outpost.asked if asked["offset"] >= size)
            assert ahead <= pieces.AHEAD * pieces.LONGEST
        assert size == len(whole)
        assert len(outpost.asked) < 50
        await outpost.end()

    asyncio.run(run())


def test_a_slow_line_is_asked_for_shorter_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that another answer does not wait behind a long piece."""
    monkeypatch.setattr(pieces, "_SLOW", 0.0)
    monkeypatch.setattr(pieces, "_FAST", 0.0)

    async def run() -> None:
        outpost = Counting(raw=MAX_RAW, whole=WHOLE[:600_000])
        assert await asyncio.wait_for(read(outpost), PATIENCE) == WHOLE[:600_000]
        sizes = [asked["max"] for asked in outpost.asked]
        assert sizes[0] == pieces.FIRST
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] <= pieces.FIRST // 4
        await outpost.end()

    asyncio.run(run())


def test_a_line_says_how_many_bytes_follow_it() -> None:
    said = {"id": 1, "result": {"end": True, "data": b"\xff\n"}}
    assert packed(said, "result", 2) == (b'{"id":1,"result":{"end":true},"raw":2}\n', b"\xff\n")
    assert packed(said, "result", 1) == (
        b'{"id":1,"result":{"end":true,"data":"/wo="}}\n',
        b"",
    )
    empty = {"id": 1, "result": {"data": b""}}
    assert packed(empty, "result", 0) == (b'{"id":1,"result":{"data":""}}\n', b"")
    assert packed({"id": 1, "result": None}, "result", 2) == (frame({"id": 1, "result": None}), b"")
    assert data_of({"data": "/wo="}) == data_of({"data": b"\xff\n"}) == b"\xff\n"
    for odd in (None, 1, "ä", "a", "not base64!"):
        with pytest.raises(
            ValueError, match=r"data|base|Invalid|discontinuous|Excess|Incorrect|ASCII"
        ):
            data_of({"data": odd})
    assert not issubclass(UsageError, ValueError)  # who catches the one does not catch the other


def test_lines_and_bytes_are_told_apart_wherever_the_stream_is_cut() -> None:
    class Pieces:
        """A stream that gives a few bytes at a time, or many."""

        def __init__(self, whole: bytes, chance: random.Random) -> None:
            self.whole, self.chance, self.at = whole, chance, 0

        async def read(self, n: int) -> bytes:
            size = min(n, self.chance.choice((1, 2, 7, 100, 5000, 1 << 18)))
            piece = self.whole[self.at : self.at + size]
            self.at += len(piece)
            return piece

    async def run(seed: int) -> None:
        chance = random.Random(seed)
        said: list[tuple[int, bytes | None]] = []
        whole = b""
        for number in range(40):
            data = None
            if chance.random() < 0.6:
                data = chance.randbytes(
                    chance.choice((0, 1, 10, 3000))
                ) + b"\n{" * chance.randrange(3)
            said.append((number, data))
            result: dict[str, Any] = {} if data is None else {"data": data}
            line, raw = packed({"id": number, "result": result}, "result", MAX_RAW)
            whole += line + raw
        lines = Lines(Pieces(whole, chance))
        heard: list[tuple[int, bytes | None]] = []
        while (line_ := await lines.next()) is not None:
            answer = decode(line_)
            await read_data(lines, answer, "result")
            heard.append((answer["id"], answer["result"].get("data")))
        assert heard == said

    for seed in range(60):
        asyncio.run(run(seed))
