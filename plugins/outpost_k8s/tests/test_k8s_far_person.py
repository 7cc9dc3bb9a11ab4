"""A person at a pod's worker: peek, nudge, and the command that shows its terminal."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import podkit
import pytest
from podkit import pod

from outpost_core.errors import UnsupportedError
from outpost_core.types import Agent, Order

CAPABILITIES = (*podkit.CAPABILITIES, "attach", "nudge", "peek")


def typed(script: str) -> Order:
    """An order of an interactive agent."""
    made = podkit.order("k-1", script, grace=1.0)
    agent = Agent(argv=("/bin/sh", "-c", script), interactive=True)
    return dataclasses.replace(made, agent=agent)


def test_an_interactive_worker_is_seen_and_typed_to(tmp_path: Path) -> None:
    script = "stty -echo; echo what; read word; echo you said $word; read more; exit 0"
    with pod(tmp_path / "p", typed(script)) as one:
        one.start()
        podkit.until(lambda: b"what" in one.log.read_bytes(), one.said)

        async def look() -> None:
            async with one.asked(CAPABILITIES) as place:
                assert "what" in await place.outpost_peek(worker="k-1.1", lines=10)
                await place.outpost_nudge(worker="k-1.1", text="hello there")
                while "you said hello there" not in await place.outpost_peek("k-1.1", 10):
                    await asyncio.sleep(0.05)
                program, *words = await place.viewer("k-1.1")
                assert program.endswith("/tmux")
                assert "attach-session" in words
                await place.outpost_nudge(worker="k-1.1", text="enough")

        asyncio.run(asyncio.wait_for(look(), podkit.PATIENCE))
        assert one.wait() == 0
        assert one.message()["result"]["state"] == "done"
        # as a terminal has it, and one more for a runtime that takes one away
        assert b"you said hello there\r\r\n" in one.log.read_bytes()


def test_a_headless_worker_is_shown_and_not_typed_to(tmp_path: Path) -> None:
    with pod(tmp_path / "p", podkit.order("k-1", "echo ready; sleep 600", grace=1.0)) as one:
        one.start()
        podkit.until(lambda: one.log.read_bytes() == b"ready\n", one.said)

        async def look() -> None:
            async with one.asked(CAPABILITIES) as place:
                assert await place.outpost_peek(worker="k-1.1", lines=3) == "ready\n"
                with pytest.raises(UnsupportedError, match="headless"):
                    await place.outpost_nudge(worker="k-1.1", text="hello")
                assert "-r" in await place.viewer("k-1.1")

        asyncio.run(asyncio.wait_for(look(), podkit.PATIENCE))
