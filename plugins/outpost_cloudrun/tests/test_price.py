"""What workers cost, against Google's published rules on worked examples."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from outpost_cloudrun import price
from outpost_cloudrun.options import CloudRunOptions
from outpost_cloudrun.price import Run, bill, longest, worst_case
from outpost_cloudrun.prices import CHECKED
from outpost_core.errors import SpawnRefusedError
from outpost_core.types import Agent, Issue, Limits, Order

GIB = 1 << 30
PLACE = {"project": "my-gcp-project", "region": "us-central1", "service": "gastown-worker"}
DAY = 86400.0


def options(**said: Any) -> CloudRunOptions:
    if said.get("mode", "service") != "service":
        said["image"] = "worker"
    return CloudRunOptions(**(PLACE | said))


def order(timeout: float | None = 300.0, grace: float = 0.0) -> Order:
    limits = Limits(timeout=timeout, grace=grace)
    return Order(issue=Issue(id="gt-1"), agent=Agent(argv=("true",)), limits=limits)


def one(seconds: float, **said: Any) -> float:
    """What a worker costs that had a container for itself."""
    lives = {"c": (0.0, seconds)} if said.get("billing") == "instance" else None
    runs = [Run(worker="w", container="c", begun=0.0, ended=seconds)]
    return bill(options(**said), runs, now=seconds, lives=lives)["w"]


#: Seconds, options, and USD worked out by hand from https://cloud.google.com/run/pricing.
WORKED: list[tuple[float, dict[str, Any], float]] = [
    # the example of the project's first design: 300 × 2 × 0.000024 + 300 × 4 × 0.0000025
    (300, {}, 0.0144 + 0.003),
    # the same in a region of tier 2: 300 × 2 × 0.0000336 + 300 × 4 × 0.0000035
    (300, {"region": "europe-west2"}, 0.02016 + 0.0042),
    # a region that nobody knew when the table was made counts as tier 2
    (300, {"region": "moon-east1"}, 0.02016 + 0.0042),
    # paid for while it exists: 300 × 2 × 0.000018 + 300 × 4 × 0.000002
    (300, {"billing": "instance"}, 0.0108 + 0.0024),
    (300, {"mode": "job"}, 0.0108 + 0.0024),
    (300, {"mode": "instance"}, 0.0108 + 0.0024),
    # a job of 5 seconds is paid for as a minute: 60 × 0.000044
    (5, {"mode": "job"}, 0.00264),
    (5, {"billing": "instance"}, 0.00264),
    # 100 ms is the least of a request, and what is begun is whole: 0.3 × 0.000058
    (0.21, {}, 0.0000174 + 0.0000004),
    # 1 vCPU and 512 MiB for an hour: 3600 × 0.000024 + 1800 × 0.0000025
    (3600, {"cpu": 1.0, "memory": GIB // 2}, 0.0864 + 0.0045),
    # 8 vCPU and 32 GiB for 24 hours as a job: 86400 × (8 × 0.000018 + 32 × 0.000002)
    (DAY, {"mode": "job", "cpu": 8.0, "memory": 32 * GIB}, 12.4416 + 5.5296),
    # a negotiated price, and one's own machine
    (300, {"prices": {"vcpu_second": "0.00001"}}, 0.006 + 0.003),
    (300, dict.fromkeys(PLACE, "") | {"url": "http://127.0.0.1:8080"}, 0.0),
    # the vCPU of a minimum instance that works costs what it costs more than when it idles:
    # 300 × (2 × (0.000024 - 0.0000025) + 4 × (0.0000025 - 0.0000025))
    (300, {"keep_warm": "min-instances"}, 0.0129),
    # five minutes of work and five of a stream that is held: 600 × 0.000058
    (300, {"keep_warm": "stream", "concurrency": 2}, 0.0348),
]  # fmt: skip


@pytest.mark.parametrize(("seconds", "said", "usd"), WORKED, ids=str)
def test_a_worker_costs_what_google_publishes(
    seconds: float, said: dict[str, Any], usd: float
) -> None:
    assert one(seconds, **said) == pytest.approx(usd, rel=0.05, abs=1e-9)
    assert one(seconds, **said) == pytest.approx(usd, rel=0.001, abs=1e-6)


def test_the_example_of_the_first_design_is_a_cent_and_seven_tenths() -> None:
    assert round(one(300), 3) == 0.017
    fifty = [Run(worker=f"w{n}", container=f"c{n}", begun=0.0, ended=300.0) for n in range(50)]
    assert sum(bill(options(), fifty, now=300).values()) == pytest.approx(0.87, abs=0.01)


def test_a_day_of_keeping_warm_costs_what_the_guide_says() -> None:
    kept = price.hour(options(keep_warm="min-instances"))
    assert kept.standing * 24 == pytest.approx(1.296)
    held = price.hour(options(keep_warm="stream", concurrency=2, warm_for=DAY))
    assert held.warm == pytest.approx(5.01, abs=0.01)
    assert price.hour(options()).standing == price.hour(options()).warm == 0.0
    assert price.hour(options()).busy == pytest.approx(0.2088)
    assert "0.209 USD an hour" in str(price.hour(options()))
    assert "1.30 USD a day" in str(kept)
    here = price.hour(options(**dict.fromkeys(PLACE, ""), url="http://127.0.0.1:8080"))
    assert str(here) == "containers cost nothing there"
    always = price.standing(options(keep_warm="min-instances", billing="instance"))
    assert always * 24 == pytest.approx(3.80, abs=0.01)


def test_the_guide_says_these_numbers() -> None:
    guide = (Path(__file__).parents[3] / "docs/guides/cloudrun.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in guide.splitlines() if line[:2] == "| "}
    by_request, by_life = options(), options(mode="job")
    hours = [price.hour(one).busy for one in (by_request, by_life)]
    assert rows["an hour of work"].split("|")[2:4] == [f" {usd:.3f} " for usd in hours]
    five = [one(300), one(300, mode="job")]
    assert rows["a worker of five minutes"].split("|")[2:4] == [f" {usd:.4f} " for usd in five]
    assert rows["fifty of them"].split("|")[2:4] == [f" {50 * usd:.2f} " for usd in five]
    held = options(keep_warm="stream", concurrency=2)
    day = price.hour(options(keep_warm="stream", concurrency=2, warm_for=DAY)).warm
    said = f"{price.hour(held).warm:.3f} after each burst; {day:.2f} if held for a day"
    assert said in rows["`stream`"]
    kept = [
        price.standing(options(keep_warm="min-instances", billing=billing)) * 24
        for billing in ("request", "instance")
    ]
    assert f"{kept[0]:.2f} a day, always; {kept[1]:.2f} with" in rows["`min-instances`"]
    assert f"as of {CHECKED}" in guide


# --- workers that share a container ----------------------------------------------------------


def test_workers_of_one_container_share_the_moments_that_they_have_in_common() -> None:
    runs = [
        Run(worker="a", container="c", begun=0.0, ended=200.0),
        Run(worker="b", container="c", begun=100.0, ended=300.0),
    ]
    shared = bill(options(concurrency=2), runs, now=300.0)
    assert shared["a"] == pytest.approx(shared["b"])
    assert sum(shared.values()) == pytest.approx(one(300), rel=1e-4)
    apart = [Run(worker=run.worker, begun=run.begun, ended=run.ended) for run in runs]
    alone = bill(options(concurrency=2), apart, now=300.0)
    assert sum(alone.values()) == pytest.approx(one(400), rel=1e-4)


def test_a_share_is_final_when_its_worker_has_ended() -> None:
    runs = [
        Run(worker="a", container="c", begun=0.0, ended=200.0),
        Run(worker="b", container="c", begun=100.0),
    ]
    early = bill(options(concurrency=2), runs, now=200.0)["a"]
    later = bill(options(concurrency=2), [runs[0], Run(worker="b", container="c", begun=100.0,
                 ended=5000.0)], now=5000.0)["a"]  # fmt: skip
    assert early == pytest.approx(later)


@pytest.mark.parametrize("begun", [0.0, 50.0, 100.0])
def test_who_leaves_before_others_pays_for_nothing_that_comes_after(begun: float) -> None:
    leaving = Run(worker="a", container="c", begun=50.0, ended=200.0)
    staying = Run(worker="b", container="c", begun=begun)
    for said in ({"billing": "instance"}, {"keep_warm": "stream"}):
        found = bill(options(concurrency=2, **said), [leaving, staying], now=200.0)
        assert found["a"] <= 150 * 0.000058
        assert found["b"] > price.hour(options(concurrency=2, **said)).warm


def test_what_stays_of_a_container_is_charged_to_its_last_worker_at_its_worst() -> None:
    always = options(billing="instance", concurrency=2)
    second = 2 * 0.000018 + 4 * 0.000002
    runs = [
        Run(worker="a", container="c", begun=0.0, ended=100.0),
        Run(worker="b", container="c", begun=400.0, ended=500.0),
    ]
    alone = bill(always, runs[:1], now=100.0)
    assert alone["a"] == pytest.approx((100 + price.IDLE) * second)
    found = bill(always, runs, now=500.0)
    assert found["a"] == pytest.approx(alone["a"]), "it was final"
    assert found["b"] == pytest.approx(400 * second), "of its container, 500 s were paid for"
    late = [runs[0], Run(worker="b", container="c", begun=3000.0, ended=3100.0)]
    assert bill(always, late, now=3100.0)["b"] == pytest.approx((100 + price.IDLE) * second)
    known = bill(always, runs, now=600.0, lives={"c": (-10.0, 520.0)})
    assert known["a"] == pytest.approx(410 * second)
    assert known["b"] == pytest.approx(120 * second)


def test_the_warm_window_is_paid_once_by_the_last_worker() -> None:
    warm = options(keep_warm="stream", concurrency=3, warm_for=600.0)
    runs = [Run(worker=f"w{n}", container="c", begun=n, ended=100.0 + n) for n in range(3)]
    window = price.hour(warm).warm
    assert sum(bill(warm, runs, now=102.0).values()) == pytest.approx(one(102) + window, rel=1e-3)
    assert bill(warm, runs, now=102.0)["w2"] > window


def test_a_burst_within_the_window_of_another_pays_for_no_second_of_it_twice() -> None:
    warm = options(keep_warm="stream", concurrency=2, warm_for=600.0)
    first = Run(worker="a", container="c", begun=0.0, ended=100.0)
    second = Run(worker="b", container="c", begun=200.0, ended=1000.0)
    found = bill(warm, [first, second], now=1000.0)
    assert found["a"] == bill(warm, [first], now=100.0)["a"]
    held = 1000 + 600  # from the beginning to the end of the last window
    assert sum(found.values()) == pytest.approx(held * 0.000058, rel=1e-3)


def test_a_worker_that_moved_pays_for_each_container() -> None:
    legs = [
        Run(worker="a", container="c", begun=0.0, ended=100.0, requests=2),
        Run(worker="a", container="d", begun=110.0, ended=310.0, requests=3),
    ]
    assert bill(options(resume=True), legs, now=310.0)["a"] == pytest.approx(one(300), rel=1e-3)


def test_shares_add_up_and_nobody_pays_more_than_alone() -> None:
    random = Random(7)
    for said in ({"concurrency": 12}, {"concurrency": 12, "billing": "instance"},
                 {"concurrency": 12, "keep_warm": "min-instances"}):  # fmt: skip
        own = options(**said)
        for _ in range(50):
            runs = []
            for n in range(random.randint(1, 12)):
                begun = random.uniform(0, 1000)
                runs.append(Run(worker=f"w{n}", container=random.choice("cde"), begun=begun,
                                ended=begun + random.uniform(0, 300)))  # fmt: skip
            shared = bill(own, runs, now=2000.0)
            for run in runs:
                assert run.ended is not None
                most = worst_case(own, order(timeout=run.ended - run.begun, grace=0.0))
                assert 0 <= shared[run.worker] <= most
            if own.billing == "request" and own.keep_warm == "none":
                moments = sorted({m for r in runs for m in (r.begun, r.ended or 0.0)})
                busy = sum(
                    (end - begin) * 0.000058
                    for begin, end in pairwise(moments)
                    for name in "cde"
                    if any(r.container == name and r.begun <= begin and (r.ended or 0.0) >= end
                           for r in runs)
                )  # fmt: skip
                assert sum(shared.values()) == pytest.approx(busy, abs=0.0001)


# --- before it runs ---------------------------------------------------------------------------


def test_the_worst_case_is_the_timeout_with_what_is_around_it() -> None:
    second = 0.000058
    around = order(timeout=300.0, grace=10.0)
    assert worst_case(options(), around) == pytest.approx((310 + price.AROUND) * second, rel=1e-3)
    always = worst_case(options(billing="instance"), around)
    assert always == pytest.approx((310 + price.AROUND + price.IDLE) * 0.000044)
    assert worst_case(options(mode="job"), around) == pytest.approx((310 + 300) * 0.000044)
    warm = options(keep_warm="stream", concurrency=2)
    assert worst_case(warm, around) - worst_case(options(), around) == pytest.approx(
        price.hour(warm).warm
    )


@pytest.mark.parametrize(
    ("said", "most"),
    [
        ({}, 3600.0),
        ({"request_timeout": 900.0}, 900.0),
        ({"resume": True}, DAY),
        (dict.fromkeys(PLACE, "") | {"url": "http://localhost:8080"}, DAY),  # one's own machine
        ({"billing": "instance"}, DAY),
        ({"mode": "job"}, 7 * DAY),
        ({"mode": "instance"}, None),
    ],
    ids=str,
)
def test_what_a_mode_can_hold(said: dict[str, Any], most: float | None) -> None:
    own = options(**said)
    assert price.most(own) == most
    if most is None:
        assert longest(own, order(timeout=30 * DAY)) == 30 * DAY + price.AROUND
        with pytest.raises(SpawnRefusedError, match="no time limit") as caught:
            worst_case(own, order(timeout=None))
        assert "--timeout" in caught.value.hint
        return
    assert worst_case(own, order(timeout=None)) == worst_case(own, order(timeout=most))
    with pytest.raises(SpawnRefusedError, match="holds a worker for") as caught:
        worst_case(own, order(timeout=most + 1))
    assert "mode: " in caught.value.hint
    if own.mode == "job":  # Google takes no longer task
        assert longest(own, order(timeout=most)) == most


def test_a_price_needs_no_network_package_and_costs_little() -> None:
    code = (
        "import sys, time\n"
        "from outpost_cloudrun.outpost import CloudRunOutpost\n"
        "from outpost_cloudrun.options import CloudRunOptions\n"
        "from outpost_core.backend import BuildContext\n"
        "from outpost_core.types import Agent, Issue, Limits, Order\n"
        "from pathlib import Path\n"
        f"options = CloudRunOptions(**{PLACE!r})\n"
        "out = CloudRunOutpost('b', options, BuildContext(state_dir=Path('/nonexistent/state')))\n"
        "order = Order(issue=Issue(id='a'), agent=Agent(argv=('x',)), limits=Limits(timeout=300))\n"
        "begun = time.perf_counter()\n"
        "for _ in range(1000): out.outpost_price(order=order)\n"
        "print(time.perf_counter() - begun < 1.0,"
        " [m for m in ('httpx', 'h2', 'google', 'granian') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"
