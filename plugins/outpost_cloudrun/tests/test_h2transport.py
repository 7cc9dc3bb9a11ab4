"""Our HTTP/2 against a server that is right: what a caller sees, what the server sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h2.errors
import httpx
import pytest
from h2peer import Call, goaway, h2peer, looped, until

from outpost_cloudrun.connection.limits import Limits
from outpost_cloudrun.connection.transport import H2Transport, NotSentError, was_sent

TIMEOUT = httpx.Timeout(20.0)


@asynccontextmanager
async def client_of(limits: Limits | None = None) -> AsyncIterator[httpx.AsyncClient]:
    transport = H2Transport(limits=limits)
    async with httpx.AsyncClient(transport=transport, timeout=TIMEOUT) as client:
        yield client


def transport_of(client: httpx.AsyncClient) -> H2Transport:
    transport = client._transport
    assert isinstance(transport, H2Transport)
    return transport


async def echo(call: Call) -> None:
    await call.complete.wait()
    call.answer(200, ("x-method", call.headers[":method"]))
    await call.send(bytes(call.body))
    call.end()


async def held(call: Call) -> None:
    """Answer, say a word, and keep the stream open until it is reset."""
    call.answer()
    await call.send(b"on\n")
    await call.reset.wait()


@looped
async def test_request_and_answer_go_through() -> None:
    async with h2peer(echo) as peer, client_of() as client:
        answer = await client.post(peer.url + "/a?b=c", content=b"hello", headers={"X-Y": "z"})
        assert (answer.status_code, answer.content) == (200, b"hello")
        assert answer.http_version == "HTTP/2"
        assert answer.headers["x-method"] == "POST"
        call = peer.calls[0]
        assert (call.path, call.headers["x-y"]) == ("/a?b=c", "z")
        assert call.headers[":authority"] == f"127.0.0.1:{peer.port}"
        assert (await client.get(peer.url)).content == b""
        assert (await client.head(peer.url)).status_code == 200
        assert len(peer.clients) == 1
        assert not peer.faults
        assert not peer.errors


@looped
async def test_body_of_unknown_length_and_host_of_the_caller() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(5):
            yield b"%d" % number * 30_000

    async with h2peer(echo) as peer, client_of() as client:
        answer = await client.post(peer.url, content=pieces(), headers={"Host": "w.example"})
        assert answer.content == b"".join([b"%d" % number * 30_000 for number in range(5)])
        assert peer.calls[0].headers[":authority"] == "w.example"


@looped
async def test_streams_survive_a_goaway_and_new_requests_take_another_connection() -> None:
    async def slow(call: Call) -> None:
        call.answer()
        for number in range(3):
            await call.send(b"%d\n" % number)
            if number == 0:
                await going.wait()
        call.end()

    going = asyncio.Event()
    async with h2peer(slow) as peer, client_of() as client:
        streams = [asyncio.create_task(client.get(peer.url)) for _ in range(20)]
        await until(lambda: len(peer.calls) == 20)
        peer.clients[0].raw(goaway(2**31 - 1), goaway(39))
        other = asyncio.create_task(client.get(peer.url))
        await until(lambda: len(peer.clients) == 2)
        going.set()
        for stream in [*streams, other]:
            assert (await stream).content == b"0\n1\n2\n"
        await asyncio.wait_for(peer.clients[0].lost.wait(), 20)  # drained, so closed by us
        assert transport_of(client).lines() == 1


@looped
async def test_what_a_goaway_leaves_out_is_sent_again_on_another_connection() -> None:
    async def handler(call: Call) -> None:
        if call.client is peer.clients[0]:
            call.client.raw(goaway(0))
            return
        await echo(call)

    async with h2peer(handler) as peer, client_of() as client:
        assert (await client.post(peer.url, content=b"x")).content == b"x"
        assert len(peer.clients) == 2


@looped
async def test_refused_is_told_apart_from_perhaps_acted_upon() -> None:
    async def handler(call: Call) -> None:
        call.refuse(
            h2.errors.ErrorCodes.REFUSED_STREAM
            if call.path == "/refused"
            else h2.errors.ErrorCodes.INTERNAL_ERROR
        )

    async with h2peer(handler) as peer, client_of(Limits(replays=1)) as client:
        with pytest.raises(NotSentError) as refused:
            await client.get(peer.url + "/refused")
        assert not was_sent(refused.value)
        assert len(peer.calls) == 2
        with pytest.raises(httpx.RemoteProtocolError, match="INTERNAL_ERROR") as broken:
            await client.get(peer.url + "/broken")
        assert was_sent(broken.value)
        assert len(peer.calls) == 3
        assert len(peer.clients) == 1


@looped
async def test_a_body_that_cannot_be_repeated_is_not() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"once"

    async def handler(call: Call) -> None:
        call.refuse()

    async with h2peer(handler) as peer, client_of() as client:
        with pytest.raises(NotSentError):
            await client.post(peer.url, content=pieces())
        assert len(peer.calls) == 1


@looped
async def test_nobody_there_is_not_sent() -> None:
    async with h2peer(echo) as peer:
        url = peer.url
    async with client_of() as client:
        with pytest.raises(NotSentError, match=r"no connection to 127\.0\.0\.1") as refused:
            await client.get(url)
        assert str(refused.value).endswith(": Connection refused")


@looped
async def test_an_early_close_resets_the_stream() -> None:
    async with h2peer(held) as peer, client_of() as client:
        async with client.stream("GET", peer.url) as answer:
            assert await anext(answer.aiter_bytes()) == b"on\n"
        await asyncio.wait_for(peer.calls[0].reset.wait(), 20)
        assert not peer.clients[0].lost.is_set()


@pytest.mark.parametrize("moment", ["waiting", "reading", "uploading", "queued"])
@looped
async def test_a_cancelled_task_leaves_nothing(moment: str) -> None:
    async def handler(call: Call) -> None:
        if call.path == "/fine":
            await echo(call)
        elif call.path == "/reading":
            await held(call)
        elif call.path == "/uploading":
            call.reading.clear()

    streams = 1 if moment == "queued" else 100
    async with h2peer(handler, streams=streams) as peer:
        async with client_of(Limits(lines=1)) as client:
            before = asyncio.create_task(client.get(peer.url + "/waiting"))
            await until(lambda: len(peer.calls) == 1)
            content = b"x" * 1_000_000 if moment == "uploading" else None
            task = asyncio.create_task(client.post(f"{peer.url}/{moment}", content=content))
            if moment != "queued":
                await until(lambda: len(peer.calls) == 2)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if moment != "queued":
                await asyncio.wait_for(peer.calls[1].reset.wait(), 20)
            before.cancel()
            await asyncio.gather(before, return_exceptions=True)
            assert (await client.post(peer.url + "/fine", content=b"y")).content == b"y"
            (line,) = next(iter(transport_of(client)._pools.values()))._lines
            assert line.held == 0
        await until(lambda: len(asyncio.all_tasks()) - len(peer.tasks) == 1)
        await asyncio.wait_for(peer.clients[0].lost.wait(), 20)


@looped
async def test_a_task_cancelled_while_it_connects_leaves_nothing() -> None:
    async with h2peer(echo) as peer:
        peer.greeting = b""
        async with client_of() as client:
            task = asyncio.create_task(client.get(peer.url))
            other = asyncio.create_task(client.get(peer.url))
            await until(lambda: peer.clients)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not other.done()
            await client.aclose()
            with pytest.raises(NotSentError, match="client was closed"):
                await other
        await until(lambda: len(asyncio.all_tasks()) == 1)
        await asyncio.wait_for(peer.clients[0].lost.wait(), 20)


@looped
async def test_a_time_out_is_the_stream_s_own() -> None:
    async with h2peer(held) as peer, client_of() as client:
        async with client.stream("GET", peer.url, timeout=None) as patient:
            lines = patient.aiter_lines()
            assert await anext(lines) == "on"
            with pytest.raises(httpx.ReadTimeout, match="within 0"):
                await client.get(peer.url, timeout=httpx.Timeout(20, read=0.1))
            await asyncio.wait_for(peer.calls[1].reset.wait(), 20)
            await peer.calls[0].send(b"still\n")
            assert await anext(lines) == "still"
        assert len(peer.clients) == 1


@looped
async def test_a_full_connection_is_joined_by_another_within_bounds() -> None:
    async with h2peer(held, streams=10) as peer, client_of(Limits(lines=3)) as client:
        streams = [client.stream("GET", peer.url) for _ in range(30)]
        answers = await asyncio.gather(*(stream.__aenter__() for stream in streams))
        assert [len(connection.calls) for connection in peer.clients] == [10, 10, 10]
        with pytest.raises(httpx.PoolTimeout, match=r"3 connections to .* are full") as full:
            await client.get(peer.url, timeout=httpx.Timeout(20, pool=0.1))
        assert not was_sent(full.value)
        waiting = asyncio.create_task(client.get(peer.url))
        await asyncio.sleep(0.05)
        await answers[0].aclose()
        await until(lambda: len(peer.calls) == 31)
        peer.calls[-1].end()
        assert (await waiting).content == b"on\n"
        for answer in answers:
            await answer.aclose()


@looped
async def test_a_server_that_allows_more_wakes_who_waits() -> None:
    async with h2peer(held, streams=1) as peer, client_of(Limits(lines=1)) as client:
        first = asyncio.create_task(client.get(peer.url))
        await until(lambda: peer.calls)
        second = asyncio.create_task(client.get(peer.url))
        await asyncio.sleep(0.05)
        assert len(peer.calls) == 1
        peer.clients[0].h2.update_settings({3: 5})
        peer.clients[0].flush()
        await until(lambda: len(peer.calls) == 2)
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)


@looped
async def test_a_silent_line_is_pinged_and_a_dead_one_found() -> None:
    limits = Limits(ping=0.2, ping_timeout=0.2)
    async with (
        h2peer(held) as peer,
        client_of(limits) as client,
        client.stream("GET", peer.url, timeout=None) as answer,
    ):
        lines = answer.aiter_lines()
        await anext(lines)
        await asyncio.sleep(1.0)  # five times the silence: the answers to pings hold it
        await peer.calls[0].send(b"alive\n")
        assert await anext(lines) == "alive"
        peer.clients[0].transport.pause_reading()
        with pytest.raises(httpx.ReadError, match="the line is dead"):
            await anext(lines)


@looped
async def test_an_idle_line_is_closed() -> None:
    async with h2peer(echo) as peer, client_of(Limits(ping=0.1, idle=0.2)) as client:
        await client.get(peer.url)
        await asyncio.wait_for(peer.clients[0].lost.wait(), 20)
        await until(lambda: transport_of(client).lines() == 0)
        assert (await client.post(peer.url, content=b"again")).content == b"again"


@looped
async def test_a_line_closed_by_the_server_while_idle_hurts_nobody() -> None:
    async with h2peer(echo) as peer, client_of() as client:
        await client.get(peer.url)
        peer.clients[0].transport.close()
        await until(lambda: transport_of(client).lines() == 0)
        assert (await client.post(peer.url, content=b"x")).content == b"x"


@looped
async def test_a_slow_reader_holds_no_more_than_a_window_and_nobody_up() -> None:
    sent = 0

    async def handler(call: Call) -> None:
        nonlocal sent
        call.answer()
        if call.path == "/quick":
            await call.send(b"q" * 1_000_000)
        else:
            for _ in range(1000):
                await call.send(b"s" * 10_000)
                sent += 10_000
        call.end()

    async with h2peer(handler) as peer, client_of(Limits(window=100_000)) as client:
        async with client.stream("GET", peer.url + "/slow") as slow:
            for _ in range(3):
                assert len((await client.get(peer.url + "/quick")).content) == 1_000_000
            assert sent <= 100_000
            total = 0
            async for piece in slow.aiter_raw():
                assert len(piece) <= 100_000
                total += len(piece)
            assert total == 10_000_000
        assert not peer.errors


@looped
async def test_an_upload_waits_for_the_window_and_times_out_alone() -> None:
    async def handler(call: Call) -> None:
        if call.path == "/deaf":
            call.reading.clear()
            await call.reset.wait()
        else:
            await echo(call)

    async with h2peer(handler, window=1000) as peer, client_of() as client:
        body = bytes(range(256)) * 4000
        deaf = client.post(
            peer.url + "/deaf", content=b"x" * 5000, timeout=httpx.Timeout(20, write=0.2)
        )
        with pytest.raises(httpx.WriteTimeout, match="takes no more"):
            await deaf
        assert len(peer.calls[0].body) <= 2000  # the second window was asked for before `clear`
        assert (await client.post(peer.url + "/fine", content=body)).content == body
        assert len(peer.clients) == 1


@looped
async def test_an_answer_before_the_whole_upload_is_the_answer() -> None:
    async def handler(call: Call) -> None:
        call.reading.clear()
        call.answer(413)
        await call.send(b"too much")
        call.end()
        call.client.h2.reset_stream(call.number, h2.errors.ErrorCodes.NO_ERROR)
        call.client.flush()

    async with h2peer(handler) as peer, client_of() as client:
        answer = await client.post(peer.url, content=b"x" * 1_000_000)
        assert (answer.status_code, answer.content) == (413, b"too much")


@looped
async def test_trailers_and_information_are_passed_over() -> None:
    async def handler(call: Call) -> None:
        call.client.h2.send_headers(call.number, [(":status", "103"), ("link", "x")])
        call.answer()
        await call.send(b"body")
        call.end(("x-trailer", "t"))

    async with h2peer(handler) as peer, client_of() as client:
        assert (await client.get(peer.url)).content == b"body"
        assert not peer.errors


@looped
async def test_a_lost_connection_fails_all_streams_and_the_next_request_is_fine() -> None:
    async with h2peer(held) as peer, client_of() as client:
        tasks = [asyncio.create_task(client.get(peer.url)) for _ in range(5)]
        await until(lambda: len(peer.calls) == 5)
        peer.clients[0].raw(goaway(9, 11, b"too many\x1b[31m pings"))
        await asyncio.sleep(0.05)
        peer.clients[0].transport.close()
        for task in tasks:
            with pytest.raises(httpx.ReadError, match=r"ENHANCE_YOUR_CALM too many\\x1b"):
                await task
        peer.handler = echo
        assert (await client.post(peer.url, content=b"x")).content == b"x"


@looped
async def test_closing_the_client_ends_streams_with_an_error() -> None:
    async with h2peer(held) as peer, client_of() as client:
        task = asyncio.create_task(client.get(peer.url))
        await until(lambda: peer.calls)
        await client.aclose()
        with pytest.raises(httpx.ReadError, match="closed here"):
            await task
        await asyncio.wait_for(peer.clients[0].lost.wait(), 20)


@looped
async def test_a_server_without_http2_is_spoken_to_in_http1() -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head.split(b"\r\n")[0])
        if head.startswith(b"PRI"):
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, client_of() as client:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        for _ in range(2):
            answer = await client.post(url, content=b"x")
            assert (answer.content, answer.http_version) == (b"ok", "HTTP/1.1")
    assert seen == [b"PRI * HTTP/2.0", b"POST / HTTP/1.1", b"POST / HTTP/1.1"]


@looped
async def test_ids_of_streams_run_out_and_another_connection_is_taken() -> None:
    async with h2peer(echo) as peer, client_of() as client:
        await client.get(peer.url)
        (line,) = next(iter(transport_of(client)._pools.values()))._lines
        line._h2.highest_outbound_stream_id = 2**31 - 3
        assert (await client.post(peer.url, content=b"x")).content == b"x"
        assert (await client.post(peer.url, content=b"x")).content == b"x"
        assert len(peer.clients) >= 2


@looped
async def test_headers_that_http2_does_not_have_are_left_out() -> None:
    async with h2peer(echo) as peer, client_of() as client:
        await client.get(
            peer.url, headers={"Connection": "keep-alive, x", "Upgrade": "h", "TE": "trailers"}
        )
        assert not {"connection", "upgrade", "host"} & set(peer.calls[0].headers)
        assert not peer.faults
