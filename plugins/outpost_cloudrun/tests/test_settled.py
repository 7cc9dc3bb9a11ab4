"""What is settled of workers that really ran, against what a front would put on the bill."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from wholekit import whole

from outpost_cloudrun import price
from outpost_cloudrun.testing.pool import Instance, Pool

#: A vCPU and a GiB for a second in a region of tier 1, request-based.
SECOND = 0.000024 + 0.0000025


class Meter:
    """Counts the time in which a container starts or has requests, as Google does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._active: dict[str, int] = defaultdict(int)
        self._since: dict[str, float] = {}
        self.first: dict[str, float] = {}
        self.seconds: dict[str, float] = defaultdict(float)
        enter, leave = Pool._enter, Pool.leave

        def entered(pool: Pool, instance: Instance) -> Instance:
            self.count(instance.id, 1)
            return enter(pool, instance)

        def left(pool: Pool, instance: Instance) -> None:
            self.count(instance.id, -1)
            leave(pool, instance)

        monkeypatch.setattr(Pool, "_enter", entered)
        monkeypatch.setattr(Pool, "leave", left)

    def count(self, container: str, change: int) -> None:
        if self._active[container] == 0:
            self._since[container] = time.time()
            self.first.setdefault(container, time.time())
        self._active[container] += change
        if self._active[container] == 0:
            self.seconds[container] += time.time() - self._since[container]

    def bill(self, started: dict[str, float]) -> float:
        """Return USD."""
        starting = sum(first - started[container] for container, first in self.first.items())
        return (sum(self.seconds.values()) + starting) * SECOND


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 3])
def test_what_is_settled_is_what_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    meter = Meter(monkeypatch)
    more: dict[str, Any] = {"concurrency": concurrency, "memory": 1 << 30}
    with whole(tmp_path, monkeypatch, **more) as desk:
        orders = [desk.order(f"gt-{n}", more="sleep 8") for n in range(3)]
        for one in orders:
            desk.spawn(one)
        results = [desk.result(one.worker) for one in orders]
        own = desk.options()
        happened = desk.google.journal.entries("instance.started")
    assert [result.reason for result in results] == ["ok"] * 3
    settled = [result.cost_usd for result in results]
    for one, usd in zip(orders, settled, strict=True):
        assert usd is not None
        assert 0 < usd < price.worst_case(own, one)
    assert len(meter.seconds) == (3 if concurrency == 1 else 1)
    bill = meter.bill({str(entry.about["id"]): entry.at for entry in happened})
    # workers of hours are within 5 %; these are short, and this machine's own slowness counts
    slow = 1.5 * SECOND
    assert sum(usd or 0.0 for usd in settled) == pytest.approx(bill, rel=0.05, abs=slow)
