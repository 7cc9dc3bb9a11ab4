"""Run measurements, print their tables, and write them to `docs/benchmarks.md`.

Usage: python -m benchmarks [NAME …]   (startup workers fence status prices ledger loop logs ssh
cloudrun kubernetes mayor queueing
simulate soak)

Without a name all are run; with names the page's other tables stay as they are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from benchmarks import (
    cloudrun,
    fence,
    kubernetes,
    ledger,
    logs,
    loop,
    mayor,
    page,
    prices,
    queueing,
    simulate,
    soak,
    ssh,
    startup,
    status,
    workers,
)
from benchmarks.harness import Row, table


def ledger_rows() -> list[Row]:
    """(f) Reservations a second with 8 processes at once."""
    figures = ledger.measure()
    return [
        Row(
            what=f"reservations with {figures['processes']:.0f} processes",
            ours=f"{figures['ledger']:,.0f} a second",
            against=f"raw SQLite {figures['raw']:,.0f} a second",
            ratio=figures["ratio"],
            goal="≥ 0.7 ×",
            met=figures["ratio"] >= 0.7,
        )
    ]


MEASUREMENTS: dict[str, Callable[[], list[Row]]] = {
    "startup": startup.measure,
    "workers": workers.measure,
    "fence": fence.measure,
    "status": status.measure,
    "prices": prices.measure,
    "ledger": ledger_rows,
    "loop": loop.measure,
    "logs": logs.measure,
    "ssh": ssh.measure,
    "cloudrun": cloudrun.measure,
    "kubernetes": kubernetes.measure,
    "mayor": mayor.measure,
    "queueing": queueing.measure,
    "simulate": simulate.measure,
    "soak": soak.measure,
}


def main(names: list[str]) -> None:
    """Measure what is named, or everything; write it to the page."""
    # Byte code is kept, as it is wherever Outpost was installed.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        sys.exit(f"there is no {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    for name in names or MEASUREMENTS:
        print(f"measuring {name} …", file=sys.stderr)
        rows = MEASUREMENTS[name]()
        print(table(rows))
        text = page.PAGE.read_text(encoding="utf-8") if page.PAGE.exists() else ""
        text = page.written(text, {name: rows}, MEASUREMENTS)
        page.PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
