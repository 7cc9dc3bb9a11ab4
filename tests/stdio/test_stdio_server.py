"""The server: what it answers, what it refuses, what it finishes when nobody listens any more."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from stdiokit import Bare, Peer, order, pair

from outpost_core import wire
from outpost_core.backend import Outpost
from outpost_core.errors import ConflictError, UnreachableError
from outpost_core.stdio import server
from outpost_core.stdio.methods import Handler
from outpost_core.stdio.protocol import FrameError
from outpost_core.stdio.remote import spawn_params
from outpost_core.stdio.server import INFLIGHT, serve
from outpost_core.types import Health, Json, Message, Order, Secrets, State, WorkerStatus

HELLO = {"outpost": 1, "hello": {"nonce": "n", "name": "vm1", "options": {}}}


class Recorder(Bare):
    """Answers everything, and keeps what it was asked."""

    capabilities = frozenset({"clean", "peek", "nudge", "mail", "inbox", "secrets"})

    def __init__(self) -> None:
        super().__init__()
        self.hold = asyncio.Event()
        self.held = 0
        self.finished = 0
        self.broken_off = 0
        self.closed = False
        self.log: list[bytes] = []

    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        self.asked.append(("spawn", {"order": order}))
        return WorkerStatus(id=order.worker, state=State.WORKING, digest=wire.digest(order))

    async def outpost_ping(self) -> Health:
        return Health(ok=True, detail="fine")

    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        for piece in self.log:
            yield piece
        try:
            self.held += 1
            await self.hold.wait()
        except asyncio.CancelledError:
            self.broken_off += 1
            raise

    async def outpost_stop(self, worker: str, grace: float) -> None:
        self.held += 1
        await self.hold.wait()
        self.finished += 1

    async def outpost_peek(self, worker: str, lines: int) -> str:
        raise ValueError("a defect")

    async def outpost_mail(self, message: Message) -> None:
        self.asked.append(("mail", {"message": message}))

    async def outpost_inbox(self, identity: str) -> list[Message]:
        return []

    async def outpost_close(self) -> None:
        self.closed = True


@contextlib.asynccontextmanager
async def talking(
    outpost: Outpost, extra: Mapping[str, Handler] | None = None, **hello: Any
) -> AsyncIterator[tuple[Peer, asyncio.Task[None]]]:
    """A peer that was greeted by a server of the outpost."""
    near, far = await pair()
    peer = Peer(near)
    task = asyncio.create_task(serve(lambda *_: outpost, *far, server="s 1", extra=extra))
    await peer.say({"outpost": 1, "hello": {**HELLO["hello"], **hello}})
    greeting = await peer.heard()
    assert greeting["hello"]["nonce"] == "n"
    peer.hello = greeting["hello"]  # type: ignore[attr-defined]
    try:
        yield peer, task
    finally:
        peer.close()
        with contextlib.suppress(FrameError):
            await asyncio.wait_for(task, 20)


async def ask(peer: Peer, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
    await peer.say({"id": 1, "method": method, "params": {**(params or {})}})
    return await asyncio.wait_for(peer.heard(), 5)


async def until(true: Any) -> None:
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not come to that")


# --- hello ----------------------------------------------------------------------------------------


def answer_to(*lines: bytes) -> dict[str, Any]:
    """What a server answers to a beginning, and that it ends then."""

    async def run() -> dict[str, Any]:
        near, far = await pair()
        peer = Peer(near)
        task = asyncio.create_task(serve(lambda *_: Recorder(), *far, server="s 1"))
        for line in lines:
            await peer.raw(line)
        peer.writer.write_eof()
        said = await asyncio.wait_for(peer.reader.read(), 5)
        with contextlib.suppress(FrameError):
            await task
        peer.close()
        return json.loads(said.splitlines()[-1])

    return asyncio.run(run())


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n",
        b"[]\n",
        b"{}\n",
        b'{"outpost":"1","hello":{}}\n',
        b'{"outpost":1,"hello":[]}\n',
        b'{"outpost":1,"hello":{}}\n',
        b'{"outpost":1,"hello":{"nonce":7}}\n',
        b'{"outpost":1,"hello":{"nonce":"n","options":[]}}\n',
        b'{"outpost":1,"hello":{"nonce":"n","max_frame":10}}\n',
        b'{"outpost":1,"hello":{"nonce":"n","max_frame":true}}\n',
    ],
    ids=repr,
)
def test_a_wrong_beginning_is_answered_with_an_error(line: bytes) -> None:
    answer = answer_to(line)
    assert answer["outpost"] == 1
    assert answer["error"]["kind"] == "usage"


def test_another_version_is_answered_with_ours() -> None:
    error = answer_to(b'{"outpost":9,"hello":{"nonce":"n"}}\n')["error"]
    assert error["kind"] == "unsupported"
    assert "version 1 of the protocol, not 9" in error["message"]


def test_what_the_builder_refuses_is_the_answer_to_the_hello() -> None:
    def build(name: str, options: Mapping[str, Json]) -> Outpost:
        raise ConflictError(f"{name} is taken", mend="another name")

    async def run() -> None:
        near, far = await pair()
        peer = Peer(near)
        await peer.say(HELLO)
        await serve(build, *far, server="s 1")
        error = (await peer.heard())["error"]
        assert error == {"kind": "conflict", "message": "vm1 is taken", "mend": "another name"}
        peer.close()

    asyncio.run(run())


def test_methods_are_those_of_its_capabilities_and_the_extra_ones() -> None:
    async def echo(outpost: Outpost, params: Mapping[str, Json]) -> Json:
        return {**params}

    async def run() -> None:
        async with talking(Recorder(), {"x-echo": echo}) as (peer, _):
            offered = set(peer.hello["methods"])  # type: ignore[attr-defined]
            assert {"spawn", "list", "ping", "logs", "stop", "bye", "x-echo"} <= offered
            assert "viewer" not in offered
            assert "doctor" not in offered
            assert (await ask(peer, "x-echo", {"a": [1]}))["result"] == {"a": [1]}
            assert (await ask(peer, "x-other"))["error"]["kind"] == "unsupported"

    asyncio.run(run())


# --- spawn ----------------------------------------------------------------------------------------


def test_an_order_arrives_with_its_secrets_and_as_it_was() -> None:
    sent = order(
        "gt-1", "sh", "-c", "x",
        secrets=Secrets({"TOKEN": "s3cret-value"}),
        context={"n": [1, 2.5, None]},
        prompt="π \udc80",
        env={"A": "\x01"},
    )  # fmt: skip

    async def run() -> None:
        outpost = Recorder()
        async with talking(outpost) as (peer, _):
            answer = await ask(peer, "spawn", spawn_params(sent))
        (_, asked) = outpost.asked[0]
        assert asked["order"] == sent or wire.dumps(asked["order"]) == wire.dumps(sent)
        assert dict(asked["order"].secrets) == {"TOKEN": "s3cret-value"}
        assert answer["result"]["digest"] == wire.digest(sent)
        assert "s3cret-value" not in json.dumps(answer)

    asyncio.run(run())


def test_an_order_that_is_understood_differently_is_refused_and_not_spawned() -> None:
    async def run() -> None:
        outpost = Recorder()
        async with talking(outpost) as (peer, _):
            newer = spawn_params(order())
            newer["order"]["colour"] = "blue"  # what this version does not know
            newer["digest"] = wire.digest_of(
                json.dumps(newer["order"], sort_keys=True, separators=(",", ":"))
            )
            error = (await ask(peer, "spawn", newer))["error"]
        assert error["kind"] == "refused"
        assert "versions of Outpost" in error["mend"]
        assert outpost.asked == []

    asyncio.run(run())


@pytest.mark.parametrize(
    "changed",
    [
        {"order": None},
        {"order": []},
        {"order": {"issue": {"id": "../etc"}, "agent": {"argv": ["x"]}}},
        {"order": {"issue": {"id": "a"}, "agent": {"argv": "x"}}},
        {"order": {"issue": {"id": "a", "priority": 9}, "agent": {"argv": ["x"]}}},
        {"digest": 7},
        {"digest": None},
        {"secrets": {"EXTRA": "x"}},
        {"secrets": ["EXTRA"]},
        {"secrets": {"A": 7}},
    ],
    ids=repr,
)
def test_a_spawn_of_the_wrong_shape_is_refused_before_the_outpost(changed: dict[str, Any]) -> None:
    async def run() -> None:
        outpost = Recorder()
        async with talking(outpost) as (peer, _):
            error = (await ask(peer, "spawn", spawn_params(order()) | changed))["error"]
        assert error["kind"] in ("usage", "refused")
        assert outpost.asked == []

    asyncio.run(run())


def test_no_answer_repeats_a_secret_whoever_puts_it_in() -> None:
    class Leaky(Recorder):
        async def outpost_spawn(self, order: Order) -> WorkerStatus:
            values = " ".join(order.secrets.values())
            if order.attempt == 1:
                raise UnreachableError(f"failed with {values}", mend=values)
            raise ValueError(values)

    async def run() -> None:
        async with talking(Leaky()) as (peer, _):
            for attempt in (1, 2):
                secret = order(attempt=attempt, secrets=Secrets({"T": "s3cret-value"}))
                answer = await ask(peer, "spawn", spawn_params(secret))
                assert "s3cret-value" not in json.dumps(answer)
                assert "***" in answer["error"]["message"]

    asyncio.run(run())


# --- params ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("logs", {}),
        ("logs", {"worker": "a.1", "offset": -1}),
        ("logs", {"worker": "a.1", "offset": "0"}),
        ("logs", {"worker": "a.1", "offset": True}),
        ("logs", {"worker": "a.1", "offset": 10**40}),
        ("logs", {"worker": 7, "offset": 0}),
        ("logs", {"worker": "a.1", "offset": 0, "wait": -1}),
        ("logs", {"worker": "a.1", "offset": 0, "max": "all"}),
        ("stop", {"worker": "a.1", "grace": "now"}),
        ("stop", {"worker": ["a.1"], "grace": 1}),
        ("clean", {"worker": "a.1", "force": 1}),
        ("peek", {"worker": "a.1", "lines": 1e9}),
        ("nudge", {"worker": "a.1"}),
        ("mail", {"message": "hello"}),
        ("mail", {"message": {"to": "x"}}),
        ("list", {"after": 7}),
        ("list", {"limit": -1}),
        ("inbox", {"identity": 7}),
    ],
    ids=str,
)
def test_params_of_the_wrong_shape_are_a_usage_error(method: str, params: dict[str, Any]) -> None:
    async def run() -> None:
        async with talking(Recorder()) as (peer, _):
            assert (await ask(peer, method, params))["error"]["kind"] == "usage"
            assert (await ask(peer, "ping"))["result"]["ok"]  # and it goes on

    asyncio.run(run())


def test_a_defect_of_the_outpost_is_told_and_the_channel_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def run() -> None:
        async with talking(Recorder()) as (peer, _):
            error = (await ask(peer, "peek", {"worker": "a.1", "lines": 3}))["error"]
            assert error["kind"] == "internal"
            assert "ValueError: a defect" in error["message"]
            assert (await ask(peer, "ping"))["result"]["ok"]

    asyncio.run(run())
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        b"what\n",
        b"[]\n",
        b'{"method":"ping"}\n',
        b'{"id":"1","method":"ping"}\n',
        b'{"id":true,"method":"ping"}\n',
        b'{"id":2}\n',
        b'{"id":2,"method":7}\n',
        b'{"id":2,"method":"ping","params":[]}\n',
        b'{"id":2,"method":"ping","params":{"a":NaN}}\n',
        b'{"id":1,"method":"ping"}\n',  # asked already, and not answered
        b"x" * (server.TAKES + 1),
    ],
    ids=lambda line: repr(line[:45]),
)
def test_a_client_that_breaks_the_protocol_is_told_and_left(line: bytes) -> None:
    async def run() -> None:
        outpost = Recorder()
        async with talking(outpost) as (peer, task):
            await peer.say({"id": 1, "method": "stop", "params": {"worker": "a.1", "grace": 1}})
            await until(lambda: outpost.held)
            with contextlib.suppress(ConnectionError):
                await peer.raw(line)
            said = await asyncio.wait_for(peer.heard(), 5)
            assert said["outpost"] == 1
            assert said["error"]["kind"] == "usage"
            outpost.hold.set()
            with pytest.raises(FrameError):
                await asyncio.wait_for(task, 5)
        assert outpost.finished == 1  # what was begun came to its end
        assert outpost.closed

    asyncio.run(run())


# --- many at once ---------------------------------------------------------------------------------


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
            answer = await asyncio.wait_for(peer.heard(), 5)
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
            await asyncio.wait_for(task, 5)
        assert outpost.finished == 1
        assert outpost.closed

    asyncio.run(run())


def test_goodbye_is_answered_and_ends_it() -> None:
    async def run() -> None:
        outpost = Recorder()
        async with talking(outpost) as (peer, task):
            assert await ask(peer, "bye") == {"id": 1, "result": None}
            await asyncio.wait_for(task, 5)
            assert await peer.reader.read() == b""
        assert outpost.closed

    asyncio.run(run())


# --- logs and lists -------------------------------------------------------------------------------


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


# --- as a process ---------------------------------------------------------------------------------

PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
from stdiokit import Bare
from outpost_core.stdio.server import main
from outpost_core.types import Health

class Printing(Bare):
    async def outpost_ping(self):
        print("printed into the protocol?")
        os.system("echo a child too; cat")
        return Health(ok=True)

sys.exit(main(lambda *_: Printing(), server="printing 1"))
"""


def run_program(said: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)],
        input=said, capture_output=True, timeout=30, check=False, env={**os.environ},
    )  # fmt: skip


def test_nothing_that_is_printed_gets_into_the_protocol_and_no_child_reads_it() -> None:
    asked = [HELLO, *({"id": n, "method": "ping", "params": {}} for n in (1, 2))]
    done = run_program(b"".join(json.dumps(frame).encode() + b"\n" for frame in asked))
    frames = [json.loads(line) for line in done.stdout.splitlines() if line]
    assert sorted(frame["id"] for frame in frames[1:]) == [1, 2]
    assert done.stderr.count(b"printed into the protocol?") == 2
    assert done.stderr.count(b"a child too") == 2
    assert done.returncode == 0


def test_a_server_that_is_not_spoken_to_ends_with_its_input() -> None:
    done = run_program(b"")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_broken_client_is_told_on_both_streams() -> None:
    done = run_program(b"hello\n")
    assert b'"kind":"usage"' in done.stdout
    assert b"broke the protocol" in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.returncode == 2


def _ended_by_silence(hello: dict[str, Any], say: dict[str, Any] | None) -> bool:
    """Whether a server ends itself within a second, of a client that says no more than `say`."""

    async def run() -> bool:
        near, far = await pair()
        peer = Peer(near)
        serving = asyncio.create_task(serve(lambda *_: Bare(), *far, server="x", silence=0.2))
        await peer.say(hello)
        assert "hello" in await peer.heard()
        for _ in range(20):
            if say is not None and not serving.done():
                await peer.say(say)
            await asyncio.wait({serving}, timeout=0.05)
        ended = serving.done()
        peer.close()
        await asyncio.wait_for(serving, 5)
        return ended

    return asyncio.run(run())


BEATS = {"outpost": 1, "hello": {"nonce": "n", "name": "vm1", "options": {}, "beats": True}}


def test_a_client_that_promised_to_be_heard_and_is_not_is_taken_for_gone() -> None:
    assert _ended_by_silence(BEATS, None)


def test_a_client_that_keeps_its_promise_is_served_on() -> None:
    assert not _ended_by_silence(BEATS, {"cancel": 0})


def test_a_client_that_promised_nothing_may_be_silent() -> None:
    assert not _ended_by_silence(HELLO, None)


def test_a_server_that_is_greeted_by_nobody_ends() -> None:
    async def run() -> None:
        near, far = await pair()
        await asyncio.wait_for(serve(lambda *_: Bare(), *far, server="x", silence=0.1), 5)
        near[1].close()

    asyncio.run(run())
