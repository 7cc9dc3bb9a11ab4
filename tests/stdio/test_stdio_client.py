"""A client believes no peer: hostile, broken and noisy ones are named, and nothing hangs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import pytest
from stdiokit import HELLO, PATIENCE, Peer, connected, pair, start

from outpost_core.errors import ConflictError, OutpostError, UnreachableError
from outpost_exec.stdio.client import Client
from outpost_shared.protocol import BrokenChannelError, FrameTooLargeError

# --- hello ----------------------------------------------------------------------------------------


def greeted(
    *said: bytes, early: bytes = b"", timeout: float = PATIENCE, end: bool = False
) -> OutpostError | Client:
    """What a client makes of a peer that sends these bytes, `early` ones before it listens."""

    async def run() -> OutpostError | Client:
        near, far = await pair()
        peer = Peer(far)
        nonce = b""

        async def play() -> None:
            nonlocal nonce
            nonce = (await peer.heard())["hello"]["nonce"].encode()
            with contextlib.suppress(ConnectionError):
                for data in said:
                    await peer.raw(data.replace(b"NONCE", nonce))
                if end:
                    peer.close()

        if early:
            await peer.raw(early)
            while not near[0]._buffer:  # type: ignore[attr-defined]
                await asyncio.sleep(0)
        playing = asyncio.create_task(play())
        try:
            client = await start(near, timeout=timeout)
        except OutpostError as error:
            return error
        else:
            await client.aclose()
            return client
        finally:
            await playing
            peer.close()

    return asyncio.run(run())


def hello(**changed: Any) -> bytes:
    said = {"nonce": "NONCE", **HELLO} | changed
    return json.dumps({"outpost": 1, "hello": said}).encode() + b"\n"


def refused(*said: bytes, early: bytes = b"", timeout: float = PATIENCE, end: bool = False) -> str:
    error = greeted(*said, early=early, timeout=timeout, end=end)
    assert isinstance(error, UnreachableError), error
    assert not error.sent
    assert error.message.startswith("peer ")
    return error.message


def test_what_a_login_shell_prints_first_is_skipped() -> None:
    client = greeted(b"Welcome to vm1!\n\x1b[1mNews:\x1b[0m\n\n", hello())
    assert isinstance(client, Client)


def test_noise_without_a_line_end_before_the_hello_is_skipped() -> None:
    assert isinstance(greeted(b"loading... " + hello()), Client)


def test_our_own_hello_echoed_by_a_terminal_is_skipped() -> None:
    echo = b'{"outpost":1,"hello":{"nonce":"NONCE","max_frame":1048576,"name":"x"}}\r\n'
    assert isinstance(greeted(echo, hello()), Client)


def test_too_much_noise_ends_it_and_is_quoted() -> None:
    message = refused(*[b"yes, we have no bananas\n"] * 3000)
    assert "65536 bytes" in message
    assert "bananas" in message
    assert len(message) < 600


def test_one_endless_line_of_noise_ends_it() -> None:
    assert "said no hello" in refused(b"y" * 100_000)


def test_an_end_without_a_hello_quotes_what_came() -> None:
    message = refused(b"sh: outpost: not found\n\x1b[0m", end=True)
    assert "ended without a hello" in message
    assert "sh: outpost: not found" in message
    assert "\x1b" not in message


def test_silence_ends_with_the_timeout() -> None:
    assert "did not say hello within 0.1 s" in refused(timeout=0.1)


def test_noise_and_then_silence_is_quoted() -> None:
    assert "Password:" in refused(early=b"Password: \n", timeout=0.1)


def test_a_hello_for_somebody_else_is_refused() -> None:
    assert "nonce" in refused(hello(nonce="0" * 32))


def test_a_newer_protocol_is_named_with_its_hint() -> None:
    error = greeted(hello().replace(b'"outpost": 1', b'"outpost": 2').replace(b": 2", b":2"))
    assert isinstance(error, UnreachableError)
    assert "version 2" in error.message
    assert "versions of Outpost" in error.hint


@pytest.mark.parametrize("version", [b"1.0", b"true", b'"1"', b"null", b"[1]"])
def test_a_version_that_is_no_whole_number_is_refused(version: bytes) -> None:
    assert "version" in refused(hello().replace(b'"outpost": 1', b'"outpost":' + version))


@pytest.mark.parametrize(
    "changed",
    [
        {"inflight": 0},
        {"inflight": True},
        {"inflight": "4"},
        {"inflight": 1.5},
        {"max_frame": 10},
        {"max_frame": None},
        {"capabilities": "clean"},
        {"capabilities": [1]},
        {"methods": {"spawn": 1}},
        {"methods": None},
        {"time": "now"},
        {"time": -1},
        {"time": 1e300},
        {"time": True},
    ],
    ids=repr,
)
def test_a_hello_of_the_wrong_shape_is_refused(changed: dict[str, Any]) -> None:
    assert next(iter(changed)) in refused(hello(**changed))


def test_a_servers_own_reason_not_to_serve_is_raised_as_it_is() -> None:
    error = greeted(
        b'{"outpost":1,"error":{"kind":"conflict","message":"busy","hint":"wait"}}\n', end=True
    )
    assert isinstance(error, ConflictError)
    assert (error.message, error.hint) == ("busy", "wait")


def test_many_requests_at_once_are_cut_to_what_we_keep_track_of() -> None:
    client = greeted(hello(inflight=10**9))
    assert isinstance(client, Client)
    assert client.hello.inflight == 1024


def test_a_clock_that_is_off_is_seen() -> None:
    client = greeted(hello(time=time.time() + 86_400))
    assert isinstance(client, Client)
    assert 86_390 < client.hello.skew < 86_401


def test_options_and_name_reach_the_server_and_no_other_place() -> None:
    async def run() -> None:
        near, far = await pair()
        peer = Peer(far)
        client, asked = await asyncio.gather(
            start(near, options={"token": "s3cret", "deep": [1, None]}), peer.greet()
        )
        assert asked["hello"]["options"] == {"token": "s3cret", "deep": [1, None]}
        assert asked["hello"]["name"] == "vm1"
        assert "s3cret" not in repr(client.hello)
        assert "s3cret" not in repr(vars(client))
        await client.aclose()
        peer.close()

    asyncio.run(run())


# --- calls ----------------------------------------------------------------------------------------


def test_many_calls_are_answered_out_of_order() -> None:
    async def run() -> None:
        client, peer = await connected(inflight=100)
        calls = [asyncio.create_task(client.call("ping", {"n": n})) for n in range(100)]
        asked = [await peer.heard() for _ in range(100)]
        for one in reversed(asked):
            await peer.say({"id": one["id"], "result": one["params"]["n"]})
        assert await asyncio.gather(*calls) == [*range(100)]
        await client.aclose()
        peer.close()

    asyncio.run(run())


def test_no_more_are_asked_at_once_than_the_server_takes() -> None:
    async def run() -> None:
        client, peer = await connected(inflight=3)
        calls = [asyncio.create_task(client.call("ping")) for _ in range(10)]
        out: list[dict[str, Any]] = []
        for unanswered in range(10, 0, -1):
            while len(out) < min(3, unanswered):
                out.append(await asyncio.wait_for(peer.heard(), PATIENCE))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peer.reader.read(1), 0.005)
            await peer.say({"id": out.pop(0)["id"], "result": None})
        await asyncio.gather(*calls)
        await client.aclose()
        peer.close()

    asyncio.run(run())


BROKEN = {
    "no JSON": b"what?\n",
    "no object": b"[]\n",
    "NaN": b'{"id":1,"result":NaN}\n',
    "a huge number": b'{"id":1,"result":1e999}\n',
    "deep nesting": b'{"id":1,"result":' + b"[" * 50_000 + b"\n",
    "no UTF-8": b'{"id":1,"result":"\xff"}\n',
    "an unknown id": b'{"id":99,"result":null}\n',
    "no id": b'{"result":null}\n',
    "an id that is text": b'{"id":"1","result":null}\n',
    "an id that is true": b'{"id":true,"result":null}\n',
    "an id that is a list": b'{"id":[1],"result":null}\n',
    "neither result nor error": b'{"id":1}\n',
    "both result and error": b'{"id":1,"result":1,"error":{}}\n',
    "a second hello": b'{"outpost":1,"hello":{}}\n',
    "a frame too long": b'{"id":1,"result":"' + b"x" * (1 << 20) + b'"}\n',
    "an endless line": b"x" * (1 << 21),
    "an end in the middle of a frame": b'{"id":1,"resu',
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=[*BROKEN])
def test_a_peer_that_breaks_the_protocol_is_named_and_dropped(data: bytes) -> None:
    async def run() -> None:
        client, peer = await connected()
        calls = [asyncio.create_task(client.call("list")) for _ in range(2)]
        await peer.heard()
        with contextlib.suppress(ConnectionError):
            await peer.raw(data)
            if not data.endswith(b"\n") and len(data) < 100:
                peer.close()
        for call in calls:
            with pytest.raises(BrokenChannelError, match="peer broke the protocol: ") as raised:
                await asyncio.wait_for(call, PATIENCE)
            assert raised.value.sent
            assert len(raised.value.message) < 300
        assert client.closed.is_set()
        with pytest.raises(BrokenChannelError, match="broke the protocol") as raised:
            await client.call("ping")
        assert not raised.value.sent
        await client.aclose()
        peer.close()

    asyncio.run(run())


def test_the_same_answer_twice_is_a_broken_protocol() -> None:
    async def run() -> None:
        client, peer = await connected()
        call = asyncio.create_task(client.call("ping"))
        asked = await peer.heard()
        for _ in range(2):
            await peer.say({"id": asked["id"], "result": None})
        await call
        await asyncio.wait_for(client.closed.wait(), PATIENCE)
        await client.aclose()
        peer.close()

    asyncio.run(run())


def test_blank_lines_and_further_keys_are_fine() -> None:
    async def run() -> None:
        client, peer = await connected()
        call = asyncio.create_task(client.call("ping"))
        asked = await peer.heard()
        await peer.raw(b"\n\n")
        await peer.say({"id": asked["id"], "result": 7, "took": 3})
        assert await call == 7
        await client.aclose()
        peer.close()

    asyncio.run(run())


def test_an_end_fails_all_that_is_under_way_and_all_that_waits() -> None:
    async def run() -> None:
        client, peer = await connected(inflight=1)
        first, second = (asyncio.create_task(client.call("list")) for _ in range(2))
        await peer.heard()
        peer.close()
        with pytest.raises(BrokenChannelError) as sent:
            await asyncio.wait_for(first, PATIENCE)
        with pytest.raises(BrokenChannelError) as unsent:
            await asyncio.wait_for(second, PATIENCE)
        assert (sent.value.sent, unsent.value.sent) == (True, False)
        await client.aclose()

    asyncio.run(run())


def test_an_end_fails_all_that_wait_however_many_they_are() -> None:
    async def run() -> None:
        client, peer = await connected(inflight=1)
        calls = [asyncio.create_task(client.call("list")) for _ in range(3000)]
        await peer.heard()
        peer.close()
        ends = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), PATIENCE)
        assert {type(end) for end in ends} == {BrokenChannelError}
        await client.aclose()

    asyncio.run(run())


def test_a_cancelled_call_says_so_and_its_answer_is_dropped() -> None:
    async def run() -> None:
        client, peer = await connected(inflight=1)
        call = asyncio.create_task(client.call("logs"))
        asked = await peer.heard()
        call.cancel()
        assert await peer.heard() == {"cancel": asked["id"]}
        following = asyncio.create_task(client.call("ping"))
        with pytest.raises(TimeoutError):  # the place is taken until the server has answered
            await asyncio.wait_for(peer.reader.read(1), 0.02)
        await peer.say({"id": asked["id"], "error": {"kind": "cancelled", "message": "so"}})
        await peer.say({"id": (await peer.heard())["id"], "result": 1})
        assert await following == 1
        assert call.cancelled()
        await client.aclose()
        peer.close()

    asyncio.run(run())


def test_a_call_cancelled_before_its_turn_is_never_sent() -> None:
    async def run() -> None:
        client, peer = await connected(inflight=1)
        first = asyncio.create_task(client.call("list"))
        second = asyncio.create_task(client.call("spawn"))
        asked = await peer.heard()
        second.cancel()
        await peer.say({"id": asked["id"], "result": 1})
        await first
        third = asyncio.create_task(client.call("ping"))
        assert (await peer.heard())["method"] == "ping"
        await client.aclose()
        with pytest.raises(BrokenChannelError):
            await third
        peer.close()

    asyncio.run(run())


def test_a_request_that_is_too_long_is_not_sent() -> None:
    async def run() -> None:
        client, peer = await connected(max_frame=5000)
        with pytest.raises(FrameTooLargeError, match="takes 5000"):
            await client.call("spawn", {"prompt": "x" * 5000})
        call = asyncio.create_task(client.call("ping"))
        assert (await peer.heard())["method"] == "ping"
        call.cancel()
        await client.aclose()
        peer.close()

    asyncio.run(run())


def test_a_server_may_say_why_it_leaves() -> None:
    async def run() -> None:
        client, peer = await connected()
        call = asyncio.create_task(client.call("ping"))
        await peer.heard()
        await peer.say({"outpost": 1, "error": {"kind": "usage", "message": "that was odd"}})
        with pytest.raises(BrokenChannelError, match="that was odd"):
            await call
        await client.aclose()
        peer.close()

    asyncio.run(run())


def test_closing_says_goodbye_where_the_server_knows_the_word() -> None:
    async def run() -> None:
        client, peer = await connected(methods=[*HELLO["methods"], "bye"])
        await client.aclose()
        await client.aclose()
        assert (await peer.heard())["method"] == "bye"
        assert await peer.reader.read() == b""
        peer.close()

    asyncio.run(run())


def test_a_peer_that_reads_nothing_holds_up_the_caller_and_fills_no_memory() -> None:
    async def run() -> None:
        client, peer = await connected(inflight=1000)
        big = {"text": "x" * 500_000}
        calls = [asyncio.create_task(client.call("spawn", big)) for _ in range(50)]
        for _ in range(20):
            await asyncio.sleep(0)
        before = client.heard
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert client.heard == before
        client.drop("was given up")
        await asyncio.wait_for(client.closed.wait(), PATIENCE)
        peer.close()

    asyncio.run(run())


def test_a_server_that_ends_in_silence_is_told_that_somebody_is_here() -> None:
    async def run() -> None:
        client, peer = await connected(silence=1)
        assert await asyncio.wait_for(peer.heard(), PATIENCE) == {"cancel": 0}
        peer.close()
        await client.aclose()

    asyncio.run(run())


def test_a_server_that_does_not_care_for_silence_hears_nothing_of_it() -> None:
    async def run() -> None:
        client, peer = await connected()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(peer.heard(), 0.5)
        peer.close()
        await client.aclose()

    asyncio.run(run())
