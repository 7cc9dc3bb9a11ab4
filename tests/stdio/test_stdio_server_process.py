"""The server as a process: its streams, and how long it stays when its client is silent."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from serverkit import HELLO
from stdiokit import PATIENCE, Bare, Peer, pair

from outpost_worker.serving.server import serve

PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
from stdiokit import Bare
from outpost_worker.serving.server import main
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


def _ended_by_silence(
    hello: dict[str, Any], say: dict[str, Any] | None, within: float = 1.0
) -> bool:
    """Whether a server ends itself in time, of a client that says no more than `say`."""

    async def run() -> bool:
        near, far = await pair()
        peer = Peer(near)
        serving = asyncio.create_task(serve(lambda *_: Bare(), *far, server="x", silence=0.2))
        await peer.say(hello)
        assert "hello" in await peer.heard()
        until = time.monotonic() + within
        while not serving.done() and time.monotonic() < until:
            if say is not None:
                await peer.say(say)
            await asyncio.wait({serving}, timeout=0.05)
        ended = serving.done()
        peer.close()
        await asyncio.wait_for(serving, PATIENCE)
        return ended

    return asyncio.run(run())


BEATS = {"outpost": 1, "hello": {"nonce": "n", "name": "vm1", "options": {}, "beats": True}}


def test_a_client_that_promised_to_be_heard_and_is_not_is_taken_for_gone() -> None:
    assert _ended_by_silence(BEATS, None, within=PATIENCE)


def test_a_client_that_keeps_its_promise_is_served_on() -> None:
    assert not _ended_by_silence(BEATS, {"cancel": 0})


def test_time_in_which_the_server_itself_did_not_run_is_no_silence() -> None:
    """As on a machine that was suspended: what the client says arrives shortly after."""

    async def run() -> None:
        near, far = await pair()
        peer = Peer(near)
        serving = asyncio.create_task(serve(lambda *_: Bare(), *far, server="x", silence=0.2))
        await peer.say(BEATS)
        assert "hello" in await peer.heard()
        await asyncio.sleep(0.05)
        time.sleep(0.5)
        await asyncio.sleep(0.05)
        await peer.say({"id": 1, "method": "list", "params": {}})
        assert "result" in await asyncio.wait_for(peer.heard(), PATIENCE)
        assert not serving.done()
        peer.close()
        await asyncio.wait_for(serving, PATIENCE)

    asyncio.run(run())


def test_a_client_that_promised_nothing_may_be_silent() -> None:
    assert not _ended_by_silence(HELLO, None)


def test_a_server_that_is_greeted_by_nobody_ends() -> None:
    async def run() -> None:
        near, far = await pair()
        await asyncio.wait_for(serve(lambda *_: Bare(), *far, server="x", silence=0.1), PATIENCE)
        near[1].close()

    asyncio.run(run())
