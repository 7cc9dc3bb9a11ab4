"""Catches what blocks an event loop: the ledger, programs and folders that are used on it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any
from unittest.mock import patch

from outpost_manager.ledger.store import Store
from outpost_manager.offloop import running_loop

#: What may wait for a lock, a disk or a program.
WAITING = (
    (Store, "__init__"), (Store, "read"), (Store, "write"),
    (subprocess.Popen, "__init__"),
    (os, "listdir"), (os, "scandir"),
)  # fmt: skip


@contextmanager
def caught() -> Iterator[list[str]]:
    """Collect the stack of every call of these in a thread whose event loop runs."""
    found: list[str] = []
    with ExitStack() as stack:
        for owner, name in WAITING:
            stack.enter_context(patch.object(owner, name, _guarded(owner, name, found)))
        yield found


def _guarded(owner: Any, name: str, found: list[str]) -> Any:
    original = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if running_loop() is not None:
            stack = traceback.extract_stack(limit=25)
            if not any("/importlib/" in frame.filename for frame in stack):  # once, as imports are
                found.append(f"{owner.__name__}.{name}\n" + "".join(stack.format()))
        return original(*args, **kwargs)

    return call


@asynccontextmanager
async def beating(every: float = 0.01) -> AsyncIterator[list[float]]:
    """Keep a heart beating in the loop; collects the seconds between two beats."""
    gaps: list[float] = []

    async def beat() -> None:
        clock = asyncio.get_running_loop().time
        last = clock()
        while True:
            await asyncio.sleep(every)
            now = clock()
            gaps.append(now - last)
            last = now

    heart = asyncio.create_task(beat())
    try:
        yield gaps
    finally:
        heart.cancel()
        with suppress(asyncio.CancelledError):
            await heart
