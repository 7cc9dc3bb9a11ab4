"""(k) Orders that are priced and placed, at outposts that charge."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.harness import Row, median_of
from outpost_cloudrun import price
from outpost_core.types import Agent, Issue, Limits, Order
from outpost_manager.manager import Manager
from outpost_manager.offloop import at_once

OUTPOSTS, ORDERS = 10, 200


def decisions() -> tuple[float, float]:
    """Return orders a second that are priced at ten outposts and placed, and those only priced.

    The floor is the arithmetic alone. A decision makes a sheet of each outpost, asks it for its
    price by its hook, guarded and checked, and asks the policies.
    """
    with tempfile.TemporaryDirectory() as name:
        config = Path(name, "outposts.yaml")
        config.write_text(
            "outposts:\n"
            + "".join(
                f"  - {{name: burst-{n}, type: cloudrun, project: my-project, region: us-central1,"
                f" service: worker, cost_cap_hourly: 100}}\n"
                for n in range(OUTPOSTS)
            )
        )
        manager = Manager.open(config=config, state=Path(name, "state"), environ={})
        orders = [
            Order(
                issue=Issue(id=f"p-{n}"),
                agent=Agent(argv=("x",)),
                limits=Limits(timeout=600.0 + n, max_agent_cost_usd=1.0),
            )
            for n in range(ORDERS)
        ]
        options = [manager.fleet.outpost(name).options for name in manager.fleet.names]

        def run() -> None:
            told = at_once(manager.overview.sheets(orders, time.time()))
            for order, sheets in zip(orders, told, strict=True):
                assert manager.placement.assign(order, sheets, None).first == "burst-0"

        def alone() -> None:
            for order in orders:
                for one in options:
                    price.worst_case(one, order)  # type: ignore[arg-type]

        took, floor = median_of(run, 5), median_of(alone, 5)
        manager.close()
        return ORDERS / took, ORDERS / floor


def measure() -> list[Row]:
    """Measure (k)."""
    rate, alone = decisions()
    return [
        Row(
            what=f"price decisions with {OUTPOSTS} Cloud Run outposts",
            ours=f"{rate:,.0f} a second",
            against=f"the arithmetic alone {alone:,.0f} a second",
            ratio=alone / rate,
            goal="≥ 1,000 a second",
            met=rate >= 1000,
        )
    ]
