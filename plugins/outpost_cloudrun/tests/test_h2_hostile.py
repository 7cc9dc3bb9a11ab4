"""Servers that break HTTP/2, lie, or flood: that connection ends with a typed error, no more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hpack
import httpx
import pytest
from h2peer import Call, Client, frame, goaway, h2peer, looped, until

from outpost_cloudrun.connection import frames
from outpost_cloudrun.connection.frames import FrameError, OtherProtocolError, Splitter
from outpost_cloudrun.connection.limits import Limits
from outpost_cloudrun.connection.transport import H2Transport, NotSentError

SETTINGS = frame(4, 0, 0)
HEADERS, DATA, RST, PING, CONTINUATION = 1, 0, 3, 6, 9


@asynccontextmanager
async def client_of(limits: Limits | None = None) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=H2Transport(limits=limits), timeout=20) as client:
        yield client


def block(*headers: tuple[str, str]) -> bytes:
    return hpack.Encoder().encode(list(headers))


def answered(number: int, *headers: tuple[str, str], end: bool = False) -> bytes:
    return frame(HEADERS, 0x4 | end, number, block((":status", "200"), *headers))


HOSTILE = {
    "data before headers": lambda n: frame(DATA, 0, n, b"x"),
    "data on stream 0": lambda n: frame(DATA, 0, 0, b"x"),
    "a frame that is too large": lambda n: frame(DATA, 0, n, b"x" * 20_000),
    "a length that never comes": lambda n: b"\xff\xff\xff" + bytes((0, 0)) + n.to_bytes(4, "big"),
    "headers that are no hpack": lambda n: frame(HEADERS, 0x4, n, b"\xff" * 40),
    "headers of 100 kB": lambda n: big_headers(n),
    "an endless block of headers": lambda n: (
        frame(HEADERS, 0, n, b"") + frame(CONTINUATION, 0, n, b"\x00") * 70
    ),
    "another frame within a block": lambda n: (
        frame(HEADERS, 0, n, b"") + frame(PING, 0, 0, b"x" * 8)
    ),
    "a pushed stream": lambda n: frame(5, 4, n, (2).to_bytes(4, "big") + block((":method", "GET"))),
    "a stream of the server's own": lambda n: answered(2),
    "an answer to nothing": lambda n: answered(n + 100),
    "a malformed goaway": lambda n: frame(7, 0, 0, b"\0\0"),
    "a goaway on a stream": lambda n: frame(7, 0, n, bytes(8)),
    "a wrong ping": lambda n: frame(PING, 0, 0, b"1"),
    "settings of 5 bytes": lambda n: frame(4, 0, 0, b"12345"),
    "a window of nothing": lambda n: frame(8, 0, 0, bytes(4)),
    "a window that is too large": lambda n: frame(8, 0, 0, b"\x7f\xff\xff\xff") * 2,
    "a frame size that is not allowed": lambda n: frame(4, 0, 0, b"\0\5\0\0\0\1"),
    "a reset of 3 bytes": lambda n: frame(RST, 0, n, b"123"),
    "padding longer than the frame": lambda n: answered(n) + frame(DATA, 8, n, b"\xffabc"),
    "more than it said": lambda n: answered(n, ("content-length", "1")) + frame(DATA, 0, n, b"xx"),
    "less than it said": lambda n: answered(n, ("content-length", "9")) + frame(DATA, 1, n, b"x"),
    "two lengths": lambda n: answered(n, ("content-length", "1"), ("content-length", "2")),
    "upper case": lambda n: frame(HEADERS, 4, n, block((":status", "200"), ("X-Y", "z"))),
    "a header of the connection": lambda n: answered(n, ("connection", "close")),
    "no status": lambda n: frame(HEADERS, 4, n, block(("x", "y"))),
    "two statuses": lambda n: answered(n, (":status", "200")),
    "trailers twice": lambda n: (
        answered(n)
        + frame(HEADERS, 5, n, block(("a", "b")))
        + frame(HEADERS, 5, n, block(("a", "b")))
    ),
    "a flood of pings": lambda n: frame(PING, 0, 0, b"x" * 8) * 40_000,
    "a flood of settings": lambda n: SETTINGS * 40_000,
    "a flood of nothing": lambda n: answered(n) + frame(DATA, 0, n) * 40_000,
    "a flood of resets": lambda n: frame(RST, 0, n, bytes(4)) * 40_000,
    "a flood of unknown frames": lambda n: frame(77, 0, n, b"?") * 40_000,
}


def big_headers(number: int) -> bytes:
    """A block that is small on the line and 100 times as large when it is read."""
    encoder = hpack.Encoder()
    data = encoder.encode([(":status", "200"), *(("a" * 200, "b" * 800) for _ in range(100))])
    parts = [data[at : at + 16_000] for at in range(0, len(data), 16_000)]
    return frame(HEADERS, 4 if len(parts) == 1 else 0, number, parts[0]) + b"".join(
        frame(CONTINUATION, 4 if part is parts[-1] else 0, number, part) for part in parts[1:]
    )


@pytest.mark.parametrize("what", list(HOSTILE))
@looped
async def test_a_hostile_frame_ends_that_connection_with_an_error(what, caplog) -> None:
    async def handler(call: Call) -> None:
        if call.path == "/fine":
            call.answer(200, end=True)
        elif call.path == "/hostile":
            call.client.raw(HOSTILE[what](call.number))
            await asyncio.sleep(0.05)
            call.client.raw(frame(DATA, 1, call.number))  # so that none only waits

    async with h2peer(handler) as peer, client_of() as client:
        bystander = asyncio.create_task(client.get(peer.url + "/wait"))
        await until(lambda: peer.calls)
        with pytest.raises(httpx.TransportError) as broken:
            await client.get(peer.url + "/hostile", timeout=10)
        assert not isinstance(broken.value, httpx.TimeoutException)
        assert str(broken.value)
        with pytest.raises(httpx.TransportError):
            await asyncio.wait_for(bystander, 10)
        assert (await client.get(peer.url + "/fine")).status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("status", ["abc", "99", "1000", "600", "20", "2 0", "²00"])
@looped
async def test_a_status_that_is_none_is_that_request_s_error(status) -> None:
    async def handler(call: Call) -> None:
        if call.path == "/fine":
            call.answer(200, end=True)
        else:
            call.client.raw(frame(HEADERS, 5, call.number, block((":status", status))))

    async with h2peer(handler) as peer, client_of() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(peer.url)
        assert (await client.get(peer.url + "/fine")).status_code == 200


@pytest.mark.parametrize(
    "greeting", [b"SSH-2.0-x\r\n", b"\0" * 100, b"220 mail\r\n", b"\x16\x03\x01\x02\x00" * 20]
)
@looped
async def test_a_server_of_something_else_is_an_error(greeting) -> None:
    async with h2peer(asyncio.sleep) as peer, client_of() as client:  # type: ignore[arg-type]
        peer.greeting = greeting
        with pytest.raises(httpx.TransportError):
            await client.get(peer.url, timeout=1)


@looped
async def test_a_server_that_says_nothing_is_a_connect_time_out() -> None:
    async with h2peer(asyncio.sleep) as peer, client_of() as client:  # type: ignore[arg-type]
        peer.greeting = b"\0\0"
        with pytest.raises(httpx.ConnectTimeout, match=r"no connection to 127"):
            await client.get(peer.url, timeout=0.3)
        assert isinstance(client._transport, H2Transport)
        assert client._transport.lines() == 0
        await asyncio.wait_for(peer.clients[0].lost.wait(), 20)


@looped
async def test_a_server_that_refuses_for_ever_is_not_asked_for_ever() -> None:
    async def handler(call: Call) -> None:
        call.refuse()

    async with h2peer(handler) as peer, client_of() as client:
        with pytest.raises(NotSentError):
            await client.get(peer.url)
        assert len(peer.calls) == 1 + Limits().replays


@looped
async def test_a_server_that_goes_away_for_ever_is_not_asked_for_ever() -> None:
    async def handler(call: Call) -> None:
        call.client.raw(goaway(0))

    async with h2peer(handler) as peer, client_of() as client:
        with pytest.raises(NotSentError, match="goes away"):
            await client.get(peer.url)
        assert len(peer.clients) == 1 + Limits().replays
        await until(lambda: client._transport.lines() == 0)  # type: ignore[attr-defined]


@looped
async def test_a_server_that_allows_no_stream_is_a_full_pool() -> None:
    async with h2peer(asyncio.sleep, streams=0) as peer, client_of(Limits(lines=2)) as client:  # type: ignore[arg-type]
        with pytest.raises(httpx.PoolTimeout, match=r"2 connections to .* are full"):
            await client.get(peer.url, timeout=0.3)


@looped
async def test_slow_headers_of_one_stream_hold_up_nobody() -> None:
    async def handler(call: Call) -> None:
        if call.path == "/fine":
            call.answer(200, end=True)

    async with h2peer(handler) as peer, client_of() as client:
        slow = asyncio.create_task(client.get(peer.url, timeout=httpx.Timeout(20, read=1)))
        for _ in range(3):
            assert (await client.get(peer.url + "/fine")).status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            await slow


@looped
async def test_a_million_bytes_nobody_reads_are_a_window_of_memory() -> None:
    """Single bytes, each in a frame: what is held must not grow by what a frame costs."""

    async def handler(call: Call) -> None:
        call.answer(200)
        piece = frame(DATA, 0, call.number, b"x")
        for _ in range(60):
            call.client.raw(piece * 1000)
            await call.client.writable.wait()
            await asyncio.sleep(0)
        call.body += b"done"

    async with (
        h2peer(handler) as peer,
        client_of() as client,
        client.stream("GET", peer.url) as answer,
    ):
        tracemalloc.start()
        await until(lambda: peer.calls[0].body)
        await asyncio.sleep(0.3)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8_000_000
        total = 0
        async for data in answer.aiter_raw():
            total += len(data)
            if total == 60_000:
                break


@looped
async def test_more_than_the_window_is_a_broken_server() -> None:
    async def handler(call: Call) -> None:
        call.answer(200)
        call.client.raw(frame(DATA, 0, call.number, b"x" * 16_000) * 20)

    async with h2peer(handler) as peer, client_of(Limits(window=100_000)) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="broke HTTP/2"):
            await client.get(peer.url)


@pytest.mark.parametrize("seed", range(12))
@looped
async def test_random_changes_of_right_frames_never_do_more_than_end_the_connection(
    seed, caplog
) -> None:
    """50 connections a seed, 600 in all."""
    dice = random.Random(seed)

    async def handler(call: Call) -> None:
        if call.path == "/fine":
            call.answer(200, end=True)
            return
        right = (
            answered(call.number, ("x-a", "b"), ("content-type", "text/plain"))
            + frame(DATA, 0, call.number, b"hello")
            + frame(8, 0, 0, (1000).to_bytes(4, "big"))
            + frame(PING, 0, 0, bytes(8))
            + frame(4, 0, 0, b"\0\3\0\0\0\x64")
            + frame(HEADERS, 5, call.number, block(("x-trailer", "c")))
        )
        wrong = bytearray(right)
        for _ in range(dice.randint(1, 6)):
            at = dice.randrange(len(wrong))
            way = dice.randrange(4)
            if way == 0:
                wrong[at] ^= 1 << dice.randrange(8)
            elif way == 1:
                wrong[at] = dice.randrange(256)
            elif way == 2:
                del wrong[at : at + dice.randint(1, 12)]
            else:
                wrong[at:at] = dice.randbytes(dice.randint(1, 12))
            if not wrong:
                break
        wrong += frame(RST, 0, call.number, bytes(4))
        while wrong:
            size = dice.randint(1, len(wrong))
            call.client.raw(bytes(wrong[:size]))
            del wrong[:size]
            await asyncio.sleep(0)
        call.client.transport.close()

    async with h2peer(handler) as peer, client_of() as client:
        for _ in range(50):
            with contextlib.suppress(httpx.NetworkError, httpx.ProtocolError):
                await client.get(peer.url, timeout=10)
        await until(lambda: all(one.lost.is_set() for one in peer.clients))
        assert (await client.get(peer.url + "/fine")).status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_random_bytes_are_cut_into_the_same_frames_whatever_their_pieces() -> None:
    dice = random.Random(1)
    for _ in range(2000):
        whole = SETTINGS
        wanted = SETTINGS
        goaways = 0
        for _ in range(dice.randint(0, 8)):
            if dice.random() < 0.3:
                whole += goaway(dice.randrange(2**31), dice.randrange(20), dice.randbytes(5))
                goaways += 1
            else:
                kind = dice.choice([0, 1, 2, 3, 4, 5, 6, 8, 9, 200])
                made = frame(kind, dice.randrange(256), dice.randrange(99), dice.randbytes(9))
                whole += made
                wanted += made
        splitter, through, seen = Splitter(), b"", 0
        while whole:
            size = dice.randint(1, len(whole))
            part, found = splitter.split(whole[:size])
            through, seen, whole = through + part, seen + len(found), whole[size:]
        assert (through, seen) == (wanted, goaways)


def test_a_splitter_has_patience_and_it_comes_back(monkeypatch) -> None:
    now = 100.0
    monkeypatch.setattr(frames.time, "monotonic", lambda: now)
    splitter = Splitter()
    splitter.split(SETTINGS * 9_999)
    now += 5
    splitter.split(SETTINGS * 1000)
    splitter.earned(500)
    splitter.split(SETTINGS * 500)
    with pytest.raises(FrameError, match="flood"):
        splitter.split(SETTINGS * 100)
    with pytest.raises(OtherProtocolError, match=r"HTTP/1\.1 400"):
        Splitter().split(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@looped
async def test_a_server_that_does_not_read_its_answers_is_left() -> None:
    async def handler(call: Call) -> None:
        client: Client = call.client
        client.transport.pause_reading()
        while not client.transport.is_closing():
            client.raw(frame(PING, 0, 0, b"x" * 8) * 100)
            await asyncio.sleep(0.001)

    async with h2peer(handler) as peer, client_of(Limits(backlog=50_000)) as client:
        with pytest.raises(httpx.RemoteProtocolError, match=r"flood|does not read"):
            await client.get(peer.url, timeout=30)
