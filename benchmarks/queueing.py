"""(m) 10,000 orders that do nothing, through the queue: against a raw loop, and against huey."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import Row, ms
from benchmarks.workers import in_memory
from outpost_core import hookimpl, wire
from outpost_core.backend import Backend, BuildContext, Outpost, OutpostOptions
from outpost_core.discovery import PluginReport, Plugins
from outpost_core.types import Agent, Health, Issue, Order, Result, State, WorkerStatus
from outpost_manager.ledger import QueueItem
from outpost_manager.manager import Manager
from outpost_mayor.dispatch.dispatcher import Dispatcher
from outpost_mayor.retries.settler import Settler

ORDERS: Final = 10_000
#: Orders that come one by one to a queue that is empty, for the time of reaction.
ALONE: Final = 30


class NoOp(Outpost):
    """An outpost at which a worker is done as soon as it is there."""

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Have done it."""
        now = time.time()
        result = Result(state=State.DONE, exit_code=0, started_at=now, finished_at=now)
        return WorkerStatus(
            id=order.worker, state=State.DONE, digest=wire.digest(order), started_at=now,
            updated_at=now, result=result,
        )  # fmt: skip

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Have nothing that runs."""
        return []

    @hookimpl
    async def outpost_ping(self) -> Health:
        """Be well."""
        return Health(ok=True)

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> Any:
        """Have no output."""
        del worker, offset, follow
        return
        yield b""

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:
        """Have stopped."""
        del worker, grace


def manager(folder: Path) -> Manager:
    """Return a manager over one such outpost."""
    (folder / "outposts.yaml").write_text("outposts:\n  - {name: noop, type: noop}\n")
    plugins = Plugins.load([])

    def build(name: str, options: Any, context: BuildContext) -> Outpost:
        return NoOp(name, options, context)

    plugins.backends["noop"] = Backend(
        type="noop", summary="does nothing", options=OutpostOptions, build=build
    )
    plugins.homes["noop"] = PluginReport(entry_point="noop", package="noop", version="1")
    return Manager.open(config=folder / "outposts.yaml", state=folder / "state", plugins=plugins)


def order(number: int) -> Order:
    """Return an order that does nothing."""
    return Order(issue=Issue(id=f"q-{number}"), agent=Agent(argv=("true",)))


async def _through(folder: Path, orders: int) -> tuple[float, float, float]:
    """Return seconds for all, seconds until the first is placed by a new process, and for one."""
    async with manager(folder) as first:
        await first.ledger.queue.add([QueueItem(order=order(n)) for n in range(orders)])
    begun = time.perf_counter()
    async with manager(folder) as mine:
        dispatcher, settler = Dispatcher(mine), Settler(mine)
        placed = (await mine.ledger.queue.next(mine.config.queue.rules(), time.time()))[0].issue
        restart = time.perf_counter() - begun
        assert placed == "q-0"
        begun = time.perf_counter()
        await dispatcher.step()
        while await settler.step():
            pass
        took = time.perf_counter() - begun
        counts = await mine.ledger.queue.counts()
        assert counts == {"ended": orders}, counts
        return took, restart, await _alone(mine)


async def _alone(mine: Manager) -> float:
    """Return the median seconds from putting an order in until it is done, one by one."""
    tasks = [asyncio.create_task(one(mine).run()) for one in (Dispatcher, Settler)]
    times = []
    for number in range(ALONE):
        await asyncio.sleep(0.3)
        begun = time.perf_counter()
        one = order(1_000_000 + number)
        await mine.ledger.queue.add([QueueItem(order=one)])
        while not (await mine.ledger.workers(ids=[one.worker]) or ()):
            await asyncio.sleep(0.001)
        times.append(time.perf_counter() - begun)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return sorted(times)[ALONE // 2]


def raw(orders: int) -> float:
    """Return seconds for a loop over a table: claim one, durably, and write that it is done."""
    with tempfile.TemporaryDirectory() as name:
        db = sqlite3.connect(Path(name) / "q.db", isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE q (id INTEGER PRIMARY KEY, state TEXT, body TEXT)")
        db.execute("CREATE INDEX waiting ON q (id) WHERE state = 'waiting'")
        db.execute("BEGIN")
        body = wire.dumps(order(0))
        db.executemany("INSERT INTO q (state, body) VALUES ('waiting', ?)", [(body,)] * orders)
        db.execute("COMMIT")
        begun = time.perf_counter()
        while True:
            db.execute("BEGIN IMMEDIATE")
            row = db.execute(
                "UPDATE q SET state = 'running' WHERE id = (SELECT id FROM q WHERE"
                " state = 'waiting' ORDER BY id LIMIT 1) RETURNING id, body"
            ).fetchone()
            db.execute("COMMIT")
            if row is None:
                break
            db.execute("UPDATE q SET state = 'done' WHERE id = ?", (row[0],))
        took = time.perf_counter() - begun
        db.close()
        return took


def huey(orders: int) -> float:
    """Return seconds for huey, with its queue in SQLite and one thread that works."""
    from huey import SqliteHuey

    with tempfile.TemporaryDirectory() as name:
        mine = SqliteHuey(filename=str(Path(name) / "huey.db"), fsync=True, results=True)
        done, count = threading.Event(), 0

        @mine.task()
        def noop() -> None:
            nonlocal count
            count += 1
            if count == orders:
                done.set()

        for _ in range(orders):
            noop()
        consumer = mine.create_consumer(workers=1, periodic=False, initial_delay=0.01)
        begun = time.perf_counter()
        consumer.start()
        assert done.wait(1200)
        took = time.perf_counter() - begun
        consumer.stop(graceful=True)
        mine.storage.close()
        return took


def listed(folder: Path) -> float:
    """Return the median seconds of asking for what `queue list` shows of 10,000 waiting orders."""

    async def run() -> float:
        async with manager(folder) as mine:
            await mine.ledger.queue.add([QueueItem(order=order(n)) for n in range(ORDERS)])
            times = []
            for _ in range(9):
                begun = time.perf_counter()
                found, more = await mine.ledger.queue.page(limit=100)
                await mine.ledger.queue.counts()
                times.append(time.perf_counter() - begun)
                assert len(found) + more == ORDERS
            return sorted(times)[4]

    return asyncio.run(run())


def _child(orders: int) -> tuple[float, float, float, float]:
    """Measure ours in a process of its own; also return its peak memory in MB."""
    code = (
        "import asyncio, resource, sys, tempfile; from pathlib import Path;"
        "from benchmarks import queueing; tempfile.tempdir = sys.argv[2] or None\n"
        "with tempfile.TemporaryDirectory() as name:\n"
        "    found = asyncio.run(queueing._through(Path(name), int(sys.argv[1])))\n"
        "print(*found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(orders), tempfile.tempdir or ""],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    took, restart, alone, memory = map(float, done.stdout.split())
    return took, restart, alone, memory


def measure() -> list[Row]:
    """Measure all of it, on tmpfs where there is one."""
    rows: list[Row] = []

    def all_of_it() -> Row:
        took, restart, alone, memory = _child(ORDERS)
        floor, peer = raw(ORDERS), huey(ORDERS)
        with tempfile.TemporaryDirectory() as name:
            page = listed(Path(name))
        rows.extend(
            [
                Row(what=f"{ORDERS:,} orders that do nothing, through the queue, each",
                    ours=ms(took / ORDERS),
                    against=f"huey in SQLite, synced {ms(peer / ORDERS)};"
                    f" a raw loop over a table {ms(floor / ORDERS)} ({took / floor:.1f} ×)",
                    ratio=took / peer),
                Row(what="put in → placed, when nothing else waits, median", ours=ms(alone),
                    goal="≤ 300 ms", met=alone <= 0.3),
                Row(what=f"a new process knows who is next of {ORDERS:,}", ours=ms(restart),
                    goal="≤ 1 s", met=restart <= 1.0),
                Row(what="its peak memory", ours=f"{memory:.0f} MB",
                    goal="≤ 120 MB", met=memory <= 120),
            ]
        )  # fmt: skip
        return Row(
            what=f"a page of `queue list`, with counts, {ORDERS:,} waiting", ours=ms(page),
            goal="≤ 100 ms", met=page <= 0.1,
        )  # fmt: skip

    last = in_memory(all_of_it)
    return [*rows, last]
