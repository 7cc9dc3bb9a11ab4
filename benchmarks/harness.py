"""What a measurement returns, how it is timed, and how it is shown."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Args:
        what: what was measured.
        ours: the figure with its unit.
        against: the floor or peer with its figure.
        ratio: ours against it, or None when the goal is an absolute one.
        goal: what was promised.
        met: whether it is so.
    """

    what: str
    ours: str
    against: str = "–"
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None


def median_of(action: Callable[[], object], runs: int) -> float:
    """Return the median wall time of an action, in seconds."""
    times = []
    for _ in range(runs):
        gc.collect()
        begun = time.perf_counter()
        action()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def ms(seconds: float) -> str:
    """Format seconds as milliseconds."""
    return f"{seconds * 1000:.2f} ms"


def machine() -> str:
    """Say what this was measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()},"
        f" Python {sys.version.split()[0]}"
    )


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| what | ours | against | ratio | goal | met |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ratio = "–" if row.ratio is None else f"{row.ratio:.2f} ×"
        met = {True: "yes", False: "**no**", None: "–"}[row.met]
        lines.append(
            f"| {row.what} | {row.ours} | {row.against} | {ratio} | {row.goal or '–'} | {met} |"
        )
    return "\n".join(lines)
