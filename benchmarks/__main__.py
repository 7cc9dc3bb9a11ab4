"""Run every measurement, print the table, and write it to `docs/benchmarks.md`.

Usage: python -m benchmarks [NAME …]   (startup workers fence status prices ledger loop logs ssh
cloudrun kubernetes)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    cloudrun,
    fence,
    kubernetes,
    ledger,
    logs,
    loop,
    prices,
    ssh,
    startup,
    status,
    workers,
)
from benchmarks.harness import Row, machine, table

HEADER = """\
# Benchmarks
Written by `make bench`; the code is in `benchmarks/`. Each figure stands beside its floor or a
named peer, measured in the same run. Lower ratios are better.

Measured on {machine}, {day}.

"""


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
}


def main(names: list[str]) -> None:
    """Measure what is named, or everything; only everything is written to the page."""
    # Byte code is kept, as it is wherever Outpost was installed.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    rows: list[Row] = []
    for name in names or MEASUREMENTS:
        print(f"measuring {name} …", file=sys.stderr)
        rows += MEASUREMENTS[name]()
    text = table(rows)
    print(text)
    if not names:
        header = HEADER.format(machine=machine(), day=time.strftime("%Y-%m-%d"))
        Path("docs/benchmarks.md").write_text(header + text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
