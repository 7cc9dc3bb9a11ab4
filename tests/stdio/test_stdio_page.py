"""The dialogue on the protocol's page is what a real server says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from stdiokit import PATIENCE, Bare, Peer, pair

from outpost_core.errors import NotFoundError
from outpost_core.types import Health, State, WorkerStatus
from outpost_shared.protocol import _KINDS
from outpost_worker.serving.server import serve

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "protocol.md"


class Example(Bare):
    async def outpost_list(self) -> list[WorkerStatus]:
        return [WorkerStatus(id="gt-1.1", state=State.WORKING, digest="d1")]

    async def outpost_ping(self) -> Health:
        return Health(ok=True, detail="all is well")

    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        if worker != "gt-1.1":
            raise NotFoundError(f"there is no worker {worker}")
        if data := b"hello\n"[offset:]:
            yield data
        if follow:
            await asyncio.Event().wait()


DIALOGUES = re.findall(r"```dialogue\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize(("number", "longer_than"), [(0, 10), (1, 5)], ids=["lines", "raw bytes"])
def test_the_dialogue_is_what_a_server_says(number: int, longer_than: int) -> None:
    assert len(DIALOGUES) == 2
    lines = [(line[0], json.loads(line[2:])) for line in DIALOGUES[number].splitlines()]
    assert len(lines) > longer_than

    async def run() -> None:
        near, far = await pair()
        peer = Peer(near)
        serving = asyncio.create_task(serve(lambda *_: Example(), *far, server="example 1"))
        for who, frame in lines:
            if who == ">":
                await peer.say(frame)
                continue
            if who == "=":
                assert await peer.reader.readexactly(len(frame)) == frame.encode()
                continue
            said: dict[str, Any] = await asyncio.wait_for(peer.heard(), PATIENCE)
            if "hello" in said:
                said["hello"]["time"] = frame["hello"]["time"]
                said["hello"]["methods"].sort()
            assert said == frame
        await serving
        peer.close()

    asyncio.run(run())


def test_the_page_names_every_kind_of_error_and_every_method() -> None:
    page = PAGE.read_text("utf-8")
    errors, methods = page.partition("## Errors")[2], page.partition("## Methods")[2]
    assert all(f"`{kind}`" in errors for kind in _KINDS)
    for method in ("spawn", "list", "ping", "logs", "stop", "clean", "viewer", "nudge", "peek",
                   "mail", "inbox", "doctor", "bye"):  # fmt: skip
        assert f"| `{method}` |" in methods
