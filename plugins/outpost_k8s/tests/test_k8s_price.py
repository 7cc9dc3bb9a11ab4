"""What a worker costs: what the options say, at worst before and settled after."""

import math

import pytest

from outpost_core.errors import UsageError
from outpost_core.types import Agent, Issue, Limits, Order
from outpost_k8s import price
from outpost_k8s.objects import job as jobs
from outpost_k8s.options import K8sOptions


def options(**said) -> K8sOptions:
    return K8sOptions(image="registry.example/worker:1", **said)


def order(timeout: float | None = 1800.0, **limits) -> Order:
    agent = Agent(argv=("true",))
    return Order(issue=Issue(id="gt-1"), agent=agent, limits=Limits(timeout=timeout, **limits))


def test_without_a_price_nothing_is_charged():
    assert price.worst_case(options(), order(None)) == 0
    assert price.cost(options(), 3600.0) == 0
    assert not price.is_priced(options())


def test_by_the_hour_and_by_what_is_asked_for():
    assert price.cost(options(price_per_hour=0.2), 1800.0) == pytest.approx(0.1)
    by_size = options(
        cpu=2.0, memory=4 << 30, ephemeral_storage=10 << 30,
        prices={"cpu_hour": "0.03", "gib_hour": "0.004", "storage_gib_hour": "0.0001"},
    )  # fmt: skip
    assert price.hourly(by_size) == pytest.approx(0.06 + 0.016 + 0.001)
    assert price.cost(by_size, -5.0) == 0
    wanted = order(cpu=4.0, memory=8 << 30)
    assert price.hourly(by_size, wanted) == pytest.approx(0.12 + 0.032 + 0.001)


def test_the_worst_case_is_all_the_time_that_the_cluster_gives_the_job():
    chosen = options(price_per_hour=1.0, patience=600.0, linger=120.0)
    seconds = 600 + 1800 + price.AROUND + 10 + 120
    assert price.longest(chosen, order()) == seconds
    made = jobs.job(chosen, order(), hosted=False)
    assert made["spec"]["activeDeadlineSeconds"] == math.ceil(seconds)
    grace = made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace == 10 + price.LAST_CHECKPOINT, "which a pod has after the deadline"
    assert price.worst_case(chosen, order()) == pytest.approx((seconds + grace) / 3600)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({}, price.LINGER),
        ({"price_per_hour": 1.0}, price.LINGER_PRICED),
        ({"prices": {"cpu_hour": "1"}}, price.LINGER_PRICED),
        ({"price_per_hour": 1.0, "linger": 5.0}, 5.0),
        ({"linger": 0.0}, 0.0),
        ({"linger": 5.0, "volume": "work"}, 0.0),
    ],
)
def test_waiting_to_be_fetched(said, seconds):
    assert price.linger(options(**said)) == seconds
    made = jobs.job(options(**said), order(), hosted=False)
    (worker,) = made["spec"]["template"]["spec"]["containers"]
    assert {"name": "OUTPOST_LINGER", "value": f"{seconds:g}"} in worker["env"]


def test_who_sets_no_limit_still_has_one():
    chosen = options(patience=0.0, volume="work")
    assert price.longest(chosen, order(None)) == 2 * price.UNLIMITED + price.AROUND + 10


@pytest.mark.parametrize(
    "prices",
    [{"cpu": "1"}, {"cpu_hour": "x"}, {"cpu_hour": "nan"}, {"cpu_hour": "-1"},
     {"gib_hour": "1e9"}, {"gib_hour": "inf"}, {"": "1"}],
)  # fmt: skip
def test_what_is_no_price_is_refused(prices):
    with pytest.raises(UsageError, match="prices"):
        price.hourly(options(prices=prices))
