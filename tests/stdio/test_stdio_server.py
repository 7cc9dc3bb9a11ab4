"""The server: what it answers, and what it refuses before the outpost hears of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from serverkit import HELLO, Recorder, ask, talking, until
from stdiokit import PATIENCE, Peer, order, pair

from outpost_core import wire
from outpost_core.backend import Outpost
from outpost_core.errors import ConflictError, UnreachableError
from outpost_core.types import Json, Order, Secrets, WorkerStatus
from outpost_exec.stdio.remote import spawn_params
from outpost_shared.protocol import FrameError
from outpost_worker.serving import server
from outpost_worker.serving.server import serve


def answer_to(*lines: bytes) -> dict[str, Any]:
    """What a server answers to a beginning, and that it ends then."""

    async def run() -> dict[str, Any]:
        near, far = await pair()
        peer = Peer(near)
        task = asyncio.create_task(serve(lambda *_: Recorder(), *far, server="s 1"))
        for line in lines:
            await peer.raw(line)
        peer.writer.write_eof()
        said = await asyncio.wait_for(peer.reader.read(), PATIENCE)
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
        raise ConflictError(f"{name} is taken", hint="another name")

    async def run() -> None:
        near, far = await pair()
        peer = Peer(near)
        await peer.say(HELLO)
        await serve(build, *far, server="s 1")
        error = (await peer.heard())["error"]
        assert error == {"kind": "conflict", "message": "vm1 is taken", "hint": "another name"}
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
        assert "versions of Outpost" in error["hint"]
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
                raise UnreachableError(f"failed with {values}", hint=values)
            raise ValueError(values)

    async def run() -> None:
        async with talking(Leaky()) as (peer, _):
            for attempt in (1, 2):
                secret = order(attempt=attempt, secrets=Secrets({"T": "s3cret-value"}))
                answer = await ask(peer, "spawn", spawn_params(secret))
                assert "s3cret-value" not in json.dumps(answer)
                assert "***" in answer["error"]["message"]

    asyncio.run(run())


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
            assert (await ask(peer, "ping"))["result"]["ok"]  # and it continues

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
            said = await asyncio.wait_for(peer.heard(), PATIENCE)
            assert said["outpost"] == 1
            assert said["error"]["kind"] == "usage"
            outpost.hold.set()
            with pytest.raises(FrameError):
                await asyncio.wait_for(task, PATIENCE)
        assert outpost.finished == 1  # what was begun came to its end
        assert outpost.closed

    asyncio.run(run())
