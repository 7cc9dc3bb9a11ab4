"""Our HTTP/2 through a real front, nghttpx with TLS, as Google's stands before a container."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fronts import Certificate, certificate, front
from h2peer import Call, h2peer, looped, until
from peers.relay import Relay

from outpost_cloudrun.connection.limits import Limits
from outpost_cloudrun.connection.transport import H2Transport, NotSentError

TIMEOUT = httpx.Timeout(60.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("front"))


@asynccontextmanager
async def client_of(
    files: Certificate, limits: Limits | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    transport = H2Transport(limits=limits, tls=files.trusting)
    async with httpx.AsyncClient(transport=transport, timeout=TIMEOUT) as client:
        yield client


def lines_of(client: httpx.AsyncClient) -> int:
    assert isinstance(client._transport, H2Transport)
    return client._transport.lines()


class Service:
    """A server of streams that say a line when `beat` is called, and end with `end`."""

    def __init__(self) -> None:
        self.streams: list[Call] = []

    async def __call__(self, call: Call) -> None:
        await call.complete.wait()
        call.answer(200, ("content-type", "application/x-ndjson"))
        if call.path == "/echo":
            await call.send(bytes(call.body))
            call.end()
            return
        self.streams.append(call)
        await call.send(b"0\n")
        await call.reset.wait()

    async def beat(self, text: str) -> None:
        for call in self.streams:
            await call.send(f"{text}\n".encode())

    def end(self) -> None:
        for call in self.streams:
            call.end()
        self.streams.clear()


@looped
async def test_twenty_streams_survive_a_graceful_restart_of_the_front(files) -> None:
    service = Service()
    async with (
        h2peer(service, streams=1000) as peer,
        front(peer.port, files) as nghttpx,
        client_of(files) as client,
    ):
        streams = [asyncio.create_task(client.get(nghttpx.url)) for _ in range(20)]
        await until(lambda: len(service.streams) == 20)
        transport = client._transport
        assert isinstance(transport, H2Transport)
        (line,) = next(iter(transport._pools.values()))._lines
        nghttpx.restart_gracefully()
        await until(lambda: line.draining)
        assert (await client.post(nghttpx.url + "/echo", content=b"new")).content == b"new"
        assert lines_of(client) == 2
        await service.beat("1")
        service.end()
        for stream in streams:
            answer = await stream
            assert (answer.http_version, answer.text) == ("HTTP/2", "0\n1\n")
        await until(lambda: lines_of(client) == 1)
        assert not peer.faults


@looped
async def test_a_killed_front_is_an_error_at_once_and_the_next_request_is_fine(files) -> None:
    service = Service()
    async with (
        h2peer(service, streams=1000) as peer,
        front(peer.port, files) as nghttpx,
        client_of(files) as client,
    ):
        streams = [asyncio.create_task(client.get(nghttpx.url)) for _ in range(20)]
        await until(lambda: len(service.streams) == 20)
        await nghttpx.kill()
        for stream in streams:
            with pytest.raises(httpx.ReadError):
                await stream
        with pytest.raises(NotSentError, match="no connection"):
            await client.get(nghttpx.url)
        await nghttpx.start()
        assert (await client.post(nghttpx.url + "/echo", content=b"back")).content == b"back"


@looped
async def test_a_reset_is_seen_behind_the_front(files) -> None:
    service = Service()
    async with (
        h2peer(service) as peer,
        front(peer.port, files) as nghttpx,
        client_of(files) as client,
    ):
        async with client.stream("GET", nghttpx.url) as answer:
            assert await anext(answer.aiter_lines()) == "0"
        await asyncio.wait_for(service.streams[0].reset.wait(), 20)
        assert not peer.clients[0].lost.is_set()


@looped
async def test_350_streams_at_a_limit_of_100_are_four_connections(files) -> None:
    service = Service()
    limit = "--frontend-http2-max-concurrent-streams=100"
    async with (
        h2peer(service, streams=1000) as peer,
        front(peer.port, files, limit) as nghttpx,
        client_of(files) as client,
    ):
        streams = [asyncio.create_task(client.get(nghttpx.url)) for _ in range(350)]
        await until(lambda: len(service.streams) == 350, 60)
        assert lines_of(client) == 4
        answer = await client.post(nghttpx.url + "/echo", content=b"stop")  # none waits behind them
        assert answer.content == b"stop"
        service.end()
        assert {(await stream).text for stream in streams} == {"0\n"}


@looped
async def test_500_streams_at_once_all_end_well(files) -> None:
    service = Service()
    limit = "--frontend-http2-max-concurrent-streams=1000"
    async with (
        h2peer(service, streams=1000) as peer,
        front(peer.port, files, limit) as nghttpx,
        client_of(files) as client,
    ):
        began = time.monotonic()
        streams = [asyncio.create_task(client.get(nghttpx.url)) for _ in range(500)]
        await until(lambda: len(service.streams) == 500, 60)
        for number in range(1, 4):
            await service.beat(str(number))
        service.end()
        assert {(await stream).text for stream in streams} == {"0\n1\n2\n3\n"}
        assert lines_of(client) == 1
        print(f"500 streams: {time.monotonic() - began:.1f} s")


@looped
async def test_a_half_open_line_is_found_and_the_next_request_takes_another(files) -> None:
    service = Service()
    async with h2peer(service) as peer, front(peer.port, files) as nghttpx:
        with Relay("127.0.0.1", nghttpx.port) as relay:
            limits = Limits(ping=0.5, ping_timeout=0.5)
            async with client_of(files, limits) as client:
                url = f"https://127.0.0.1:{relay.port}"
                stream = asyncio.create_task(client.get(url, timeout=None))
                await until(lambda: service.streams)
                await asyncio.to_thread(relay.freeze)
                with pytest.raises(httpx.ReadError, match="the line is dead"):
                    await asyncio.wait_for(stream, 20)
                assert (await client.post(url + "/echo", content=b"x")).content == b"x"
                assert relay.lines == 2


@looped
async def test_a_quiet_stream_ended_by_the_front_is_that_stream_s_error(files) -> None:
    service = Service()
    async with (
        h2peer(service) as peer,
        front(peer.port, files, "--backend-read-timeout=1") as nghttpx,
        client_of(files) as client,
    ):
        stream = asyncio.create_task(client.get(nghttpx.url, timeout=None))
        await until(lambda: service.streams)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await asyncio.wait_for(stream, 30)
        assert (await client.post(nghttpx.url + "/echo", content=b"x")).content == b"x"
        assert lines_of(client) == 1


@looped
async def test_64_mib_there_and_back_are_exact(files) -> None:
    data = random.Random(7).randbytes(1 << 20) * 64

    async def handler(call: Call) -> None:
        await call.complete.wait()
        call.answer()
        await call.send(data)
        call.end()

    async with (
        h2peer(handler, window=1 << 20) as peer,
        front(peer.port, files) as nghttpx,
        client_of(files) as client,
    ):
        seen = hashlib.sha256()
        async with client.stream("POST", nghttpx.url, content=data) as answer:
            async for piece in answer.aiter_raw():
                seen.update(piece)
        wanted = hashlib.sha256(data).digest()
        assert seen.digest() == wanted
        assert hashlib.sha256(peer.calls[0].body).digest() == wanted


@looped
async def test_a_slow_reader_behind_the_front_holds_a_window_and_nobody_up(files) -> None:
    async def handler(call: Call) -> None:
        call.answer()
        await call.send(b"x" * (8 << 20))
        call.end()

    limits = Limits(window=1 << 16)
    async with (
        h2peer(handler) as peer,
        front(peer.port, files) as nghttpx,
        client_of(files, limits) as client,
    ):
        async with client.stream("GET", nghttpx.url) as slow:
            pieces = slow.aiter_raw()
            assert len(await anext(pieces)) <= 1 << 16
            assert len((await client.get(nghttpx.url)).content) == 8 << 20
            transport = client._transport
            assert isinstance(transport, H2Transport)
            (line,) = next(iter(transport._pools.values()))._lines
            assert all(len(held._unread) <= 1 << 16 for held in line._held)
        assert not peer.faults


@looped
async def test_a_certificate_that_is_not_trusted_is_named_and_nothing_is_sent(files) -> None:
    async with h2peer(Service()) as peer, front(peer.port, files) as nghttpx:
        async with httpx.AsyncClient(transport=H2Transport()) as client:
            with pytest.raises(NotSentError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.post(nghttpx.url, content=b"secret")
        assert not peer.calls


@looped
async def test_a_front_without_http2_is_spoken_to_in_http1(files) -> None:
    async with (
        h2peer(Service()) as peer,
        front(peer.port, files, "--npn-list=http/1.1") as nghttpx,
        client_of(files) as client,
    ):
        for _ in range(2):
            answer = await client.post(nghttpx.url + "/echo", content=b"x")
            assert (answer.http_version, answer.content) == ("HTTP/1.1", b"x")
        assert lines_of(client) == 0
