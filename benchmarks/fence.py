"""What the fence around an agent costs: submit → outcome with the best one here, and without."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable

from benchmarks.harness import Row, ms
from benchmarks.workers import make_rig, outposts

#: Each way is measured so often, one after the other, so that a busy moment meets both.
_ROUNDS = 5
_WORKERS = 50


def measure() -> list[Row]:
    """Measure bare commands and work on a repository."""
    rows = [_row("bare command", _WORKERS, lambda fence: outposts(_WORKERS, fence=fence))]
    rig = make_rig(1000)
    try:
        rows.append(
            _row("repository of 1,000 files", 20, lambda fence: outposts(20, rig, fence=fence))
        )
    finally:
        shutil.rmtree(rig.parent)
    return rows


def _row(what: str, n: int, each: Callable[[str], float]) -> Row:
    taken: dict[str, list[float]] = {"auto": [], "off": []}
    for _ in range(_ROUNDS):
        for fence, seconds in taken.items():
            seconds.append(each(fence))
    ours, without = (statistics.median(taken[fence]) for fence in ("auto", "off"))
    return Row(
        what=f"{what} behind a fence, submit → outcome each, N = {n}",
        ours=ms(ours),
        against=f"`fence: off` {ms(without)}",
        ratio=ours / without,
        goal="≤ 1.5 ×",
        met=ours / without <= 1.5,
    )
