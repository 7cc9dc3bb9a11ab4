"""(g) How late and how fast a worker's log arrives."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Row, ms
from outpost_core.types import Agent, Issue, Limits, Order
from outpost_manager.manager import Manager

SIZE = 200 * 1024 * 1024
LINES = 60


def measure() -> list[Row]:
    """Measure both with workers on the local outpost."""
    folder = Path(tempfile.mkdtemp())
    try:
        return asyncio.run(_measure(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _measure(folder: Path) -> list[Row]:
    (folder / "outposts.yaml").write_text("outposts:\n  - {name: local, type: local}\n")
    async with Manager.open(config=folder / "outposts.yaml", state=folder / "state") as manager:
        late = await _latency(manager)
        write, read, floor = await _throughput(manager, folder)
        plain = _plain_write(folder)
    median = statistics.median(late)
    return [
        Row(
            what="log follow: a line printed → received, median and worst",
            ours=f"{ms(median)}, {ms(max(late))}",
            goal="median ≤ 50 ms",
            met=median <= 0.05,
        ),
        Row(
            what="log throughput, agent → file",
            ours=f"{SIZE / write / 1e6:.0f} MB/s",
            against=f"a shell into a file {SIZE / plain / 1e6:.0f} MB/s",
            ratio=write / plain,
            goal="≤ 2 ×",
            met=write <= 2 * plain,
        ),
        Row(
            what="log throughput, file → reader",
            ours=f"{SIZE / read / 1e6:.0f} MB/s",
            against=f"plain read {SIZE / floor / 1e6:.0f} MB/s",
            ratio=read / floor,
            goal="≤ 3 ×",
            met=read <= 3 * floor,
        ),
    ]


def _plain_write(folder: Path) -> float:
    """Return the seconds of the same program without us."""
    begun = time.perf_counter()
    with (folder / "plain").open("wb") as out:
        subprocess.run(["/bin/sh", "-c", f"head -c {SIZE} /dev/zero"], stdout=out, check=True)
    return time.perf_counter() - begun


async def _latency(manager: Manager) -> list[float]:
    script = f"i=0; while [ $i -lt {LINES} ]; do date +%s.%N; sleep 0.05; i=$((i+1)); done"
    order = Order(issue=Issue(id="late"), agent=Agent(argv=("/bin/sh", "-c", script)))
    await manager.spawn(order)
    late = []
    async for chunk in manager.logs("late.1", follow=True):
        now = time.time()
        late += [now - float(line) for line in chunk.split()]
    return late


async def _throughput(manager: Manager, folder: Path) -> tuple[float, float, float]:
    argv = ("/bin/sh", "-c", f"head -c {SIZE} /dev/zero")
    order = Order(issue=Issue(id="big"), agent=Agent(argv=argv), limits=Limits(log_bytes=2 * SIZE))
    begun = time.perf_counter()
    await manager.spawn(order)
    await manager.wait(["big.1"])
    write = time.perf_counter() - begun
    begun = time.perf_counter()
    total = 0
    async for chunk in manager.logs("big.1"):
        total += len(chunk)
    read = time.perf_counter() - begun
    if total != SIZE:
        raise RuntimeError(f"{total} of {SIZE} bytes arrived")
    path = next(p for p in folder.rglob("output.log") if p.stat().st_size == SIZE)
    begun = time.perf_counter()
    with path.open("rb") as file:
        while file.read(1 << 18):
            pass
    return write, read, time.perf_counter() - begun
