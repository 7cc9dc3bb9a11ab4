"""What Prometheus is told: workers, slots, the queue, money, breakers, services, requests."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from outpost_manager.ledger.money import dollars
from outpost_manager.offloop import off_loop
from outpost_mayor.serving import status

if TYPE_CHECKING:
    from outpost_manager.ledger import Breaker
    from outpost_manager.manager import Manager

#: Buckets of the time that a request takes, in seconds.
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
#: What a state of a breaker counts as.
_BREAKER: Final = {"closed": 0.0, "half-open": 0.5, "open": 1.0}


class Metrics:
    """What is counted while the mayor runs, besides what the ledger knows."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Histogram(
            "outpost_api_request_seconds", "How long requests of the API took to answer.",
            ("method", "path"), buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip

    def took(self, method: str, path: str, seconds: float) -> None:
        """Count a request.

        Args:
            method: its method.
            path: the template of its path, of which there are few.
            seconds: how long its answer took to begin.
        """
        self._requests.labels(method, path).observe(seconds)

    async def text(self, manager: Manager) -> bytes:
        """Return all of it, as Prometheus reads it."""
        now = _Now([*await _gathered(manager)])
        registry = CollectorRegistry()
        registry.register(now)
        return generate_latest(registry) + generate_latest(self._registry)


class _Now:
    """Families that were gathered already."""

    def __init__(self, found: Sequence[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._found


def _gauge(
    name: str, what: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    made = GaugeMetricFamily(f"outpost_{name}", what, labels=labels)
    for values, number in rows:
        made.add_metric(values, number)
    return made


async def _gathered(manager: Manager) -> list[Metric]:
    return [
        *await _places(manager),
        *await _queue(manager),
        *await _money(manager),
        *await _program(manager),
    ]


async def _places(manager: Manager) -> list[Metric]:
    views = await manager.outposts()
    live: dict[tuple[str, str], int] = {}
    for worker in await manager.workers(refresh=False):
        key = worker.outpost, worker.state.value
        live[key] = live.get(key, 0) + 1
    return [
        _gauge("workers", "Workers that have not ended.", ("outpost", "status"), live.items()),
        _gauge("slots", "Workers that an outpost takes at once.", ("outpost",),
               [((view.name,), float(view.max_workers)) for view in views
                if view.max_workers is not None]),
        _gauge("up", "Whether an outpost is ready (1), is not (0), or nobody knows (0.5).",
               ("outpost",),
               [((view.name,), {"ready": 1.0, "unknown": 0.5}.get(view.state, 0.0))
                for view in views]),
        _gauge("spent_usd_last_hour", "Reserved and spent in the last hour.", ("outpost",),
               [((view.name,), view.spent or 0.0) for view in views]),
        _breakers("outpost", "", [(view.name, view.breaker) for view in views]),
    ]  # fmt: skip


async def _queue(manager: Manager) -> list[Metric]:
    levels = await manager.ledger.queue.levels()
    oldest = min((at for state, _, _, at in levels if state == "waiting"), default=None)
    return [
        _gauge("queue_entries", "Entries of the queue that have not ended.", ("state", "priority"),
               [((state, f"P{priority}"), float(number)) for state, priority, number, _ in levels]),
        _gauge("queue_oldest_wait_seconds", "How long the oldest waiting entry has waited.", (),
               [((), 0.0 if oldest is None else max(0.0, time.time() - oldest))]),
    ]  # fmt: skip


async def _money(manager: Manager) -> list[Metric]:
    budgets = await manager.budgets()
    accounts = await manager.accounts()
    return [
        _gauge("budget_used_usd", "What the window of a budget holds now.", ("budget", "window"),
               [((one.name, one.window), dollars(use.used)) for one, use in budgets]),
        _gauge("budget_limit_usd", "What any window of a budget may hold.", ("budget", "window"),
               [((one.name, one.window), one.usd) for one, _ in budgets]),
        _gauge("account_workers", "Workers that use an account.", ("account",),
               [((one.name,), float(one.running)) for one in accounts]),
        _gauge("account_parked", "Whether an account or a model of it is parked.", ("account",),
               [((one.name,), float(bool(one.parked))) for one in accounts]),
        _breakers("account", "account_", [(one.name, one.breaker) for one in accounts]),
    ]  # fmt: skip


async def _program(manager: Manager) -> list[Metric]:
    services = await off_loop(status.read, manager.state)
    failures = CounterMetricFamily(
        "outpost_service_failures", "How often a service failed.", labels=("service",)
    )
    for one in services:
        failures.add_metric((one["name"],), one["failures"])
    events = CounterMetricFamily("outpost_events", "Events of the log.")
    events.add_metric((), await manager.ledger.last_event())
    return [failures, events]


def _breakers(label: str, of: str, found: Sequence[tuple[str, Breaker | None]]) -> Metric:
    return _gauge(
        f"{of}breaker_open", "Its circuit breaker: open (1), half-open (0.5) or closed (0).",
        (label,),
        [((name,), 0.0 if one is None else _BREAKER.get(one.state, 0.0)) for name, one in found],
    )  # fmt: skip
