"""(n) A fleet of 1,000 outposts and 100,000 orders, through the real policy, queue and ledger.

`OUTPOST_BENCH_ORDERS` is another number of orders, for machines that have less time.
"""

from __future__ import annotations

import os
import resource
import time
from typing import Final

from benchmarks.harness import Row
from outpost_manager.config.budgets import BudgetConfig, Window
from outpost_manager.config.model import Config
from outpost_manager.config.retries import RetriesConfig
from outpost_mayor.simulate.figures import Figures
from outpost_mayor.simulate.outposts import Simulated
from outpost_mayor.simulate.workload import Described, Mix, Outage, Spread, Stream
from outpost_mayor.simulate.world import Simulation

OUTPOSTS: Final = 1000
ORDERS: Final = int(os.environ.get("OUTPOST_BENCH_ORDERS", "100000"))
#: Slots of the outposts, together with those of `desk`.
_SLOTS: Final = 4
_HOURS: Final = 8.0


def fleet() -> Figures:
    """Simulate a day of it: more than there is room for at first, outages, retries, a budget."""
    half = ORDERS // 2
    ends = {"ok": 90.0, "agent_failed": 3.0, "lost_process": 4.0, "push_failed": 2.0,
            "never_started": 1.0}  # fmt: skip
    spread = Spread(median=1200.0, sigma=0.7, most=4 * 3600.0)
    streams = [
        (
            Stream(name="day", rate=half / _HOURS, count=half, max_cost=2.0),
            Mix(priority={0: 1, 1: 3, 2: 6}, outcomes=ends, seconds=spread,
                cost=Spread(median=0.4, sigma=0.5)),
        ),
        (
            Stream(name="night", count=half, max_cost=1.0, rig="https://example.com/app.git"),
            Mix(priority={3: 1, 4: 1}, outcomes=ends, seconds=spread, cost=Spread(median=0.2)),
        ),
    ]  # fmt: skip
    return Simulation(
        workload=Described(streams=streams, seed=1),
        outposts=[
            Simulated(name="desk", type="local", max_workers=_SLOTS),
            Simulated(name="o", count=OUTPOSTS - 1, max_workers=_SLOTS, price=0.1),
        ],
        config=Config(
            outposts=(),
            budgets=(BudgetConfig(name="hour", window=Window.HOUR, usd=ORDERS * 0.6),),
            retries=RetriesConfig(per_day=ORDERS),
        ),
        outages=[
            Outage(outpost=f"o-{number}", start=3600.0, end=5400.0, kills=number % 2 == 0)
            for number in range(1, 21)
        ],
        step=2.0,
    ).run()


def measure() -> list[Row]:
    """Measure it, and see that nothing was found that may never be."""
    begun, used = time.perf_counter(), time.process_time()
    found = fleet()
    took, busy = time.perf_counter() - begun, time.process_time() - used
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ended = sum(number for word, number in found.outcomes.items() if word != "waiting")
    sound = not found.broken and ended == found.orders == 2 * (ORDERS // 2)
    past, bound = found.passed
    return [
        Row(what=f"{found.orders:,} orders at {OUTPOSTS:,} outposts, {found.attempts:,} workers,"
            f" {found.makespan / 3600:.1f} h of simulated time",
            ours=f"{took:,.0f} s, {found.attempts / took:,.0f} workers a second",
            against=f"{busy:,.0f} s of processor time"),
        Row(what="slots, budgets, each order once, in that simulation",
            ours=f"{len(found.broken)} broken", goal="0 broken, all ended", met=sound),
        Row(what="the longest that an order was overtaken there",
            ours=f"{past / 3600:.1f} h", against=f"the bound of aging {(bound or 0) / 3600:.0f} h",
            goal="≤ the bound", met=bound is not None and past <= bound),
        Row(what="peak memory of it", ours=f"{memory:,.0f} MB"),
    ]  # fmt: skip
