"""(h) How long the near side's event loop stands still while another process holds the ledger.

A heart beats in the loop every few milliseconds while workers are placed, listed and mailed to at
outposts in memory, and a second process holds SQLite's write lock the whole time. The floor is the
same loop that does nothing. The gap is the longest time between two beats.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.harness import Row, ms
from benchmarks.status import fleet
from outpost_core.errors import OutpostError
from outpost_core.types import Agent, Issue, Message, Order
from outpost_manager.manager import Manager

#: Seconds that the lock is held, seconds between two beats, and the goal for the gap.
HOLD, BEAT, GOAL = 3.0, 0.002, 0.05

_HOLDER = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
db.execute("COMMIT")
"""


async def _gap(work: Callable[[], Awaitable[object]]) -> float:
    """Return the longest time between two beats while something is done, in seconds."""
    clock = asyncio.get_running_loop().time
    gaps: list[float] = []

    async def beat() -> None:
        last = clock()
        while True:
            await asyncio.sleep(BEAT)
            now = clock()
            gaps.append(now - last - BEAT)
            last = now

    heart = asyncio.create_task(beat())
    try:
        await work()
    finally:
        heart.cancel()
        with suppress(asyncio.CancelledError):
            await heart
    return max(gaps)


async def _verbs(manager: Manager) -> None:
    """Do side by side what a near side does that lives for months."""

    async def orders() -> None:
        await manager.spawn_many(
            [Order(issue=Issue(id=f"l-{n}"), agent=Agent(argv=("true",))) for n in range(100)]
        )

    async def looks() -> None:
        for _ in range(20):
            await manager.workers()
            await manager.outposts()

    async def letters() -> None:
        for n in range(20):
            with suppress(OutpostError):
                await manager.send_mail("o1", Message(to="mayor", subject=f"{n}", body="-"))

    await asyncio.gather(orders(), looks(), letters())


async def _held(folder: Path) -> tuple[float, float]:
    """Return the gap of an idle loop and of a busy one while the lock is held, in seconds."""
    async with fleet(folder, 1) as manager:
        await manager.refresh()
        idle = await _gap(lambda: asyncio.sleep(HOLD))
        argv = [sys.executable, "-c", _HOLDER, str(manager.state / "ledger.db"), str(HOLD)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            await asyncio.to_thread(holder.stdout.readline)
            busy = await _gap(lambda: _verbs(manager))
    return idle, busy


def measure() -> list[Row]:
    """Measure it three times; the middle one counts."""
    rounds = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as name:
            rounds.append(asyncio.run(_held(Path(name))))
    idle, busy = sorted(rounds, key=lambda both: both[1])[1]
    return [
        Row(
            what=f"the loop stands still while the ledger is locked for {HOLD:g} s",
            ours=ms(busy),
            against=f"a loop that does nothing {ms(idle)}",
            goal=f"≤ {GOAL * 1000:.0f} ms",
            met=busy <= GOAL,
        )
    ]
