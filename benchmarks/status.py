"""(d) The status of 10,000 workers at 100 outposts; (e) placement decisions."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from benchmarks.harness import Row, median_of, ms
from outpost_core.discovery import PluginReport, Plugins
from outpost_core.types import Agent, Issue, Order
from outpost_manager.config.policy import DefaultPolicy
from outpost_manager.manager import Manager
from outpost_manager.offloop import at_once
from outpost_testing import FakeOutpost, fake_backend

OUTPOSTS, WORKERS = 100, 10_000


def fleet(folder: Path, each: int) -> Manager:
    """Return a manager of 100 fake outposts that hold so many workers each."""
    names = [f"o{i}" for i in range(OUTPOSTS)]
    lines = "".join(f"  - {{name: {n}, type: fake, max_workers: 1000}}\n" for n in names)
    (folder / "outposts.yaml").write_text(
        f"outposts:\n{lines}policy:\n  default_preference: [{', '.join(names)}]\n"
        '  overrides:\n    - {condition: "priority >= P3", prefer: o50}\n'
        '    - {condition: "estimated_duration > 30m and \\"gpu\\" in labels", prefer: o60}\n'
    )
    backend = fake_backend({n: FakeOutpost.holding(n, each) for n in names})
    plugins = Plugins.load([])
    plugins.backends["fake"] = backend
    plugins.homes["fake"] = PluginReport(entry_point="fake", package="fake", version="1")
    return Manager.open(config=folder / "outposts.yaml", state=folder / "state", plugins=plugins)


def status() -> tuple[float, float, float]:
    """Return seconds for one refresh, the process's peak memory in MB, and seconds for the floor.

    The floor is SQLite alone, reading the rows that a refresh has to compare with.
    """
    with tempfile.TemporaryDirectory() as name:

        async def run() -> tuple[float, float]:
            async with fleet(Path(name), WORKERS // OUTPOSTS) as manager:
                await manager.refresh()
                times, floors = [], []
                for _ in range(7):
                    begun = time.perf_counter()
                    await manager.refresh()
                    times.append(time.perf_counter() - begun)
                    floors.append(read_raw(manager.state / "ledger.db"))
                return sorted(times)[3], sorted(floors)[3]

        took, floor = asyncio.run(run())
    return took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, floor


def read_raw(file: Path) -> float:
    """Return seconds for reading the rows of all workers, outpost by outpost, from an open file."""
    with closing(sqlite3.connect(file)) as db:
        for measured in (False, True):
            begun = time.perf_counter()
            rows = 0
            for number in range(OUTPOSTS):
                found = db.execute(
                    "SELECT id, state, detail, started_at, spawned_at, usage, missing_at"
                    " FROM workers WHERE outpost = ? AND ended_at IS NULL",
                    (f"o{number}",),
                )
                rows += len(found.fetchall())
            took = time.perf_counter() - begun
            assert rows == WORKERS or not measured
    return took


def decisions() -> tuple[float, float]:
    """Return placement decisions a second with 100 candidates, and those of the policy alone.

    The floor is the default policy as a plain function; a decision asks all policies by their hook,
    guards each of them and checks what it answers.
    """
    with tempfile.TemporaryDirectory() as name:
        manager = fleet(Path(name), 0)
        orders = [
            Order(
                issue=Issue(id=f"p-{i}", priority=i % 5, estimate=i * 60.0),
                agent=Agent(argv=("x",)),
            )
            for i in range(1000)
        ]
        (sheets,) = at_once(manager.overview.sheets(orders[:1], time.time()))
        places = manager.placement

        policy = DefaultPolicy(manager.config.policy)

        def run() -> None:
            for order in orders:
                assert places.assign(order, sheets, None).first

        def alone() -> None:
            for order in orders:
                assert policy.outpost_assign(order, sheets).first

        took, floor = median_of(run, 7), median_of(alone, 7)
        manager.close()
        return len(orders) / took, len(orders) / floor


def measure() -> list[Row]:
    """Measure (d) in a process of its own, for its memory, and (e) here."""
    code = "from benchmarks.status import status; print(*status())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    took, memory, floor = map(float, done.stdout.split())
    rate, alone = decisions()
    return [
        Row(
            what="status of 10,000 workers at 100 outposts",
            ours=f"{ms(took)}, {memory:.0f} MB",
            against=f"SQLite alone, the same rows {ms(floor)}",
            ratio=took / floor,
            goal="≤ 3 ×, ≤ 100 MB",
            met=took / floor <= 3 and memory <= 100,
        ),
        Row(
            what="placement decisions with 100 candidates",
            ours=f"{rate:,.0f} a second",
            against=f"the policy alone {alone:,.0f} a second",
            ratio=alone / rate,
            goal="≤ 2 ×",
            met=alone / rate <= 2,
        ),
    ]
