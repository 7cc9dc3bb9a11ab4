"""Reservations a second with 8 processes, against raw SQLite doing the bare transaction.

Both write to the disk before they answer (WAL, synchronous=FULL). Raw SQLite counts and inserts
one narrow row; the ledger also keeps the order, the decision and the cost. Rounds alternate, and
the ratio is the median over pairs of rounds, because the disk of a shared machine has moods.
"""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

from outpost_core import wire
from outpost_core.types import Agent, Issue, Order
from outpost_manager.ledger import Ledger, Outcome, Reservation

PROCESSES = 8
SECONDS = 1.0
ROUNDS = 9


def _raw(folder, number, begin, counts):
    db = sqlite3.connect(folder / "raw.db", timeout=30, isolation_level=None)
    db.execute("PRAGMA synchronous = FULL")
    begin.wait()
    deadline = time.monotonic() + SECONDS
    done = 0
    while time.monotonic() < deadline:
        outpost = f"op{done % 100}"
        db.execute("BEGIN IMMEDIATE")
        db.execute("SELECT count(*) FROM workers WHERE outpost = ?", (outpost,)).fetchone()
        db.execute("INSERT INTO workers VALUES (?, ?, 'starting')", (f"w{number}-{done}", outpost))
        db.execute("COMMIT")
        done += 1
    counts.put(done)


def _ledger(folder, number, begin, counts):
    ledger = Ledger(folder)
    begin.wait()
    deadline = time.monotonic() + SECONDS
    done = 0
    while time.monotonic() < deadline:
        order = Order(issue=Issue(id=f"w{number}-{done}"), agent=Agent(argv=("/bin/true",)))
        body = wire.dumps(order)
        item = Reservation(
            order=order,
            outpost="local",
            digest=wire.digest_of(body),
            body=body,
            max_workers=1_000_000,
            cost=0.01,
            cost_cap_hourly=1_000_000.0,
        )
        (answer,) = ledger.reserve([item])
        assert answer.outcome is Outcome.RESERVED
        done += 1
    counts.put(done)
    ledger.close()


def _round(target):
    """Return all processes' transactions a second, and those of the slowest and fastest one."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if target is _raw:
            db = sqlite3.connect(folder / "raw.db", isolation_level=None)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE workers (id TEXT PRIMARY KEY, outpost TEXT, state TEXT)")
            db.execute("CREATE INDEX workers_outpost ON workers (outpost)")
            db.close()
        else:
            Ledger(folder).close()
        begin, counts = context.Barrier(PROCESSES, timeout=60), context.Queue()
        crowd = [
            context.Process(target=target, args=(folder, number, begin, counts))
            for number in range(PROCESSES)
        ]
        for process in crowd:
            process.start()
        done = sorted(counts.get(timeout=60) for _ in crowd)
        for process in crowd:
            process.join()
    return sum(done) / SECONDS, done[0] / SECONDS, done[-1] / SECONDS


def measure() -> dict[str, float]:
    """Return transactions a second (`raw`, `ledger`), their `ratio`, and who got least and most."""
    raw, ledger = [], []
    for _ in range(ROUNDS):
        raw.append(_round(_raw))
        ledger.append(_round(_ledger))
    figures = {}
    for name, rounds in (("raw", raw), ("ledger", ledger)):
        every, least, most = zip(*rounds, strict=True)
        figures[name] = statistics.median(every)
        figures[f"{name}_slowest_process"] = statistics.median(least)
        figures[f"{name}_fastest_process"] = statistics.median(most)
    figures["ratio"] = statistics.median(
        mine[0] / theirs[0] for mine, theirs in zip(ledger, raw, strict=True)
    )
    return {"processes": PROCESSES, **{name: round(value, 2) for name, value in figures.items()}}


if __name__ == "__main__":
    json.dump(measure(), sys.stdout, indent=2)
    print()
