"""The page of benchmarks: a table for each measurement, replaced alone when it is repeated."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.harness import Row, machine, table

PAGE = Path(__file__).parent.parent / "docs/benchmarks.md"
HEADER = """\
# Benchmarks
Written by `make bench`, or a table alone by `python -m benchmarks NAME`; the code is in
`benchmarks/`. Each figure stands beside its floor or a named peer, measured in the same run. Lower
ratios are better, but for rates (“a second”), where the goal says “≥”.
"""


def written(text: str, measured: Mapping[str, list[Row]], order: Iterable[str]) -> str:
    """Return the page with some tables new; the others stay as they are.

    Args:
        text: the page as it is, or "".
        measured: the rows of what was measured now, by name.
        order: names of all measurements, as they stand on the page; tables of others go.
    """
    tables = tables_of(text)
    day = time.strftime("%Y-%m-%d")
    for name, rows in measured.items():
        tables[name] = f"On {machine()}, {day}.\n\n{table(rows)}"
    return HEADER + "".join(f"\n## {name}\n{tables[name]}\n" for name in order if name in tables)


def tables_of(text: str) -> dict[str, str]:
    """Return what the page has under the name of each measurement."""
    tables = {}
    for part in text.split("\n## ")[1:]:
        name, _, under = part.partition("\n")
        tables[name.strip()] = under.strip()
    return tables
