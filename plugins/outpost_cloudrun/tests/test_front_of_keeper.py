"""The keeper through a real front: restarts, cuts, and a token that ends, with a worker at work.

The container's program is real, and so is the front, nghttpx with TLS. What counts: the agent ran
once, and every byte of its output is here.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from farkit import far
from fronts import Front, certificate, front
from h2peer import Call
from keeperkit import Desk, order, runtime, until
from liarkit import Hostile, begin, ended, hostile, line
from peers.relay import relay

from outpost_cloudrun.testing.metadata import token_server
from outpost_core.errors import UnreachableError
from outpost_core.types import State

#: Says a line every so often, and marks that it began; ends once `stop` is there.
TALK = (
    'echo x >> "{mark}"; n=0; while [ ! -e "{stop}" ]; do'
    ' n=$((n+1)); echo "line $n"; sleep 0.05; done'
)


class Loop:
    """A loop on a thread, for what is asynchronous in a test that blocks."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def do(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(60)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def fronted(port: int, folder: Path, *options: str) -> Iterator[tuple[Front, Loop]]:
    loop = Loop()
    made = front(port, certificate(folder), *options)
    try:
        nghttpx = loop.do(made.__aenter__())
        try:
            yield nghttpx, loop
        finally:
            loop.do(made.__aexit__(None, None, None))
    finally:
        loop.close()


class Talker:
    """A worker that talks until it is told to end."""

    def __init__(self, desk: Desk, folder: Path) -> None:
        self.desk = desk
        self.mark, self.stop = folder / "mark", folder / "stop"
        self.order = order("gt-1", TALK.format(mark=self.mark, stop=self.stop))
        self.worker = self.order.worker

    def begin(self) -> None:
        self.desk.spawn(self.order)
        self.more()

    def more(self) -> None:
        """Wait until something new has come."""
        had = len(self.desk.log(self.worker))
        until(lambda: len(self.desk.log(self.worker)) > had + 20, "the stream goes on")

    def end(self) -> None:
        """End it, and look whether all of it is here, once."""
        self.stop.touch()
        result = self.desk.result(self.worker)
        assert result.state is State.DONE, result
        lines = self.desk.log(self.worker).decode().splitlines()
        assert lines == [f"line {n}" for n in range(1, len(lines) + 1)]
        assert len(lines) > 3
        assert self.mark.read_text() == "x\n"


#: The agent marks a file of the test, which a fence would not let it.
UNFENCED = {"OUTPOST_FENCE": "off"}


def test_a_worker_outlives_restarts_of_the_front(tmp_path, monkeypatch) -> None:
    with far(tmp_path, **UNFENCED) as program, fronted(program.port, tmp_path) as (f, loop):
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "front.crt"))
        with runtime(monkeypatch) as run:
            talker = Talker(Desk(f.url, tmp_path, run), tmp_path)
            talker.begin()
            for _ in range(2):
                f.restart_gracefully()
                talker.more()
            loop.do(f.kill())
            time.sleep(0.5)
            loop.do(f.start())
            talker.more()
            talker.end()


def test_a_worker_outlives_lines_that_are_cut(tmp_path, monkeypatch) -> None:
    with (
        far(tmp_path, **UNFENCED) as program,
        relay("127.0.0.1", program.port) as line_,
        runtime(monkeypatch) as run,
    ):
        talker = Talker(Desk(f"http://127.0.0.1:{line_.port}", tmp_path, run), tmp_path)
        talker.begin()
        for _ in range(3):
            assert line_.cut()
            talker.more()
        line_.cut_after["down"] = 700  # in the middle of lines
        line_.cut()
        time.sleep(1)
        line_.cut_after["down"] = None
        talker.more()
        talker.end()


def test_a_front_that_ends_quiet_streams_loses_nothing(tmp_path, monkeypatch) -> None:
    """Shorter than a heartbeat: each second the front ends what is quiet."""
    quiet = "--backend-read-timeout=1"
    with far(tmp_path) as program, fronted(program.port, tmp_path, quiet) as (f, _):
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "front.crt"))
        with runtime(monkeypatch) as run:
            desk = Desk(f.url, tmp_path, run)
            desk.spawn(order("gt-1", "echo began; sleep 4; echo ended"))
            assert desk.result("gt-1.1").state is State.DONE
            assert desk.log("gt-1.1") == b"began\nended\n"


def test_a_token_that_ends_while_a_stream_is_open_is_another_one_for_the_next(
    tmp_path, monkeypatch
) -> None:
    async def work(one: Hostile, call: Call, body: dict[str, Any]) -> None:
        token = call.headers.get("authorization", "").removeprefix("Bearer ")
        if not google.check_id(token, one.url):
            call.answer(401, end=True)
            return
        shown.append(token)
        begin(call)
        await call.send(line(body))
        if len(shown) < 3:
            google.ahead += 3600  # the front finds that it is over, and ends the stream
            call.refuse(8)
        else:
            await call.send(line(body, seq=2, **ended()))
            call.end()

    shown: list[str] = []
    with token_server() as google:
        for name, value in google.environment.items():
            monkeypatch.setenv(name, value)
        with hostile(work) as one, runtime(monkeypatch) as run:
            desk = Desk(one.url, tmp_path, run, auth="metadata")
            desk.spawn(order("gt-1", "true"))
            assert desk.result("gt-1.1").state is State.DONE
    assert len(set(shown)) == 3


def test_who_may_not_call_is_told_by_name(tmp_path, monkeypatch) -> None:
    async def forbid(one: Hostile, call: Call, body: dict[str, Any]) -> None:
        call.answer(403, ("content-type", "text/html"))
        await call.send(b"<html>Your client does not have permission</html>")
        call.end()

    with token_server() as google:
        for name, value in google.environment.items():
            monkeypatch.setenv(name, value)
        with hostile(forbid) as one, runtime(monkeypatch) as run:
            desk = Desk(one.url, tmp_path, run, auth="metadata")
            with pytest.raises(UnreachableError) as refused:
                desk.spawn(order("gt-1", "true"))
            assert google.email in refused.value.message
            assert "roles/run.invoker" in refused.value.hint
            assert not refused.value.sent
            assert one.count("POST /work") == 1


@pytest.mark.slow
def test_a_worker_outlives_a_line_that_is_half_open(tmp_path, monkeypatch) -> None:
    """Nobody says that the connection is gone: it is found by its silence, within a minute."""
    with (
        far(tmp_path, **UNFENCED) as program,
        relay("127.0.0.1", program.port) as line_,
        runtime(monkeypatch) as run,
    ):
        talker = Talker(Desk(f"http://127.0.0.1:{line_.port}", tmp_path, run), tmp_path)
        talker.begin()
        line_.freeze()
        had, end = len(talker.desk.log(talker.worker)), time.monotonic() + 150
        while len(talker.desk.log(talker.worker)) < had + 500:
            assert time.monotonic() < end
            time.sleep(1)
        assert line_.lines == 2
        talker.end()


@pytest.mark.slow
def test_five_hundred_workers_at_once_and_none_is_lost(tmp_path, monkeypatch) -> None:
    """Five connections of a hundred streams; the front restarts, is killed, and comes back."""

    async def work(one: Hostile, call: Call, body: dict[str, Any]) -> None:
        name, offset = body["issue_id"], body["offset"]
        whole = "".join(f"{name} says {n}\n" for n in range(20))
        begin(call)
        while offset < len(whole) or not over.is_set():
            step = min(offset + 20, len(whole) if over.is_set() else len(whole) - 40)
            await call.send(line(body, logs=whole[offset:step], offset=offset))
            offset = max(offset, step)
            await asyncio.sleep(0.25)
            if call.reset.is_set():
                return
        await call.send(line(body, seq=2, logs="", offset=offset, **ended()))
        call.end()

    async def spawn(outpost: Any) -> None:
        for at in range(0, len(orders), 100):
            some = orders[at : at + 100]
            await asyncio.gather(*(outpost.outpost_spawn(order=one) for one in some))

    over = threading.Event()
    orders = [order(f"gt-{n}", "true") for n in range(500)]
    limit = "--frontend-http2-max-concurrent-streams=100"
    with hostile(work) as one:
        assert one.peer is not None
        one.peer.streams = 1000
        with fronted(one.peer.port, tmp_path, limit) as (f, loop), runtime(monkeypatch) as run:
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "front.crt"))
            desk = Desk(f.url, tmp_path, run)
            desk.asked(spawn)
            f.restart_gracefully()
            time.sleep(1)
            loop.do(f.kill())
            loop.do(f.start())
            over.set()
            until(lambda: all(s.result for s in desk.asked(lambda o: o.outpost_list())), "all end")
            found = desk.asked(lambda o: o.outpost_list())
            assert {status.state for status in found} == {State.DONE}
            assert len(found) == 500
            for n in (0, 99, 250, 499):
                whole = "".join(f"gt-{n} says {m}\n" for m in range(20))
                assert desk.log(f"gt-{n}.1").decode() == whole
            for status in found:
                name = status.id.removesuffix(".1")
                wanted = sum(len(f"{name} says {m}\n") for m in range(20))
                assert status.result is not None
                assert status.result.log_bytes == wanted
