"""Values that no honest program sends: of every type in every place, deep, huge, broken.

Hypothesis draws a seed, and a value is made of it: a thousand times quicker than its own recursive
strategies, and the same values in every run.
"""

from __future__ import annotations

import os
import random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TEXTS = [
    "", "\x1b]0;owned\x07", "\x00", "../../etc/passwd", "a\nb", "\ud800", "\u202e", "x" * 5000,
    "--upload-pack=id", "-", "NaN", "1e300", "done", "failed", "working", "gt-1.1", "gt-1.1/..",
    "{}", "\U000e0041", "é", "refs/heads/main", "https://x.test/1", "javascript:x", "main",
    "a" * 40, "success", "error",
]  # fmt: skip
NUMBERS = [
    0, -1, 1, 7, 2**31, 2**63, 10**400, -(10**400), 1e300, -1e300, 1e-300, 0.1, 1e12, 4.2e9, 1.7e9,
    10**15, -0.0,
]  # fmt: skip


def many(count: int) -> int:
    """Return how many cases a test tries: so many in the gate, OUTPOST_FUZZ times as many by it."""
    return max(1, round(count * float(os.environ.get("OUTPOST_FUZZ", "1"))))


def cases(count: int) -> settings:
    """Return the settings of a test that tries so many cases, the same in every run."""
    return settings(
        max_examples=many(count),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[*HealthCheck],
    )


class Odd:
    """Makes odd values.

    Args:
        seed: what they are made of.
        keys: what objects may have.
    """

    def __init__(self, seed: int, keys: list[str]) -> None:
        self.random = random.Random(seed)
        self.keys = keys

    def scalar(self) -> Any:
        kind = self.random.randrange(6)
        if kind < 2:
            return self.random.choice(TEXTS)
        if kind < 4:
            return self.random.choice(NUMBERS)
        return [None, True, False][self.random.randrange(3)]

    def value(self, depth: int = 3) -> Any:
        kind = self.random.randrange(8)
        if kind == 0 and depth:
            return [self.value(depth - 1) for _ in range(self.random.randrange(4))]
        if kind < 3 and depth:
            return self.object(depth - 1)
        return deep(self.random.choice([60, 300])) if kind == 7 and depth == 3 else self.scalar()

    def object(self, depth: int = 3, **fixed: Any) -> dict[str, Any]:
        count = self.random.randrange(6)
        found = {self.random.choice(self.keys): self.value(depth) for _ in range(count)}
        return {**found, **{k: v for k, v in fixed.items() if self.random.randrange(10)}}

    def broken(self, good: Any) -> Any:
        """Return a copy of a good JSON value in which something is odd."""
        if isinstance(good, dict) and good and self.random.randrange(4):
            name = self.random.choice([*good])
            change = self.random.randrange(8)
            if change == 0:
                return {key: value for key, value in good.items() if key != name}
            if change == 1:
                return {**good, self.random.choice(TEXTS): self.value()}
            return {**good, name: self.broken(good[name])}
        if isinstance(good, list) and good and self.random.randrange(3):
            at = self.random.randrange(len(good))
            return [*good[:at], self.broken(good[at]), *good[at + self.random.randrange(2) :]]
        return self.value()


def deep(depth: int) -> Any:
    """Return lists in lists."""
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


seeds = st.integers(0, 2**48)
