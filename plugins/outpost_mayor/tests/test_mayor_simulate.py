"""`outpost simulate`: the real queue, ledger, policy, budgets and retries over a leaping clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outpost_core.errors import ConfigError
from outpost_core.types import Agent, Issue, Limits, Order, Result, State, Usage, WorkerStatus
from outpost_manager.cli.app import cli
from outpost_manager.cli.session import Session
from outpost_manager.config.budgets import BudgetConfig, Window
from outpost_manager.config.model import Config
from outpost_manager.config.queue import QueueConfig
from outpost_manager.ledger import Ledger, Reservation, clock
from outpost_mayor.simulate.figures import Figures
from outpost_mayor.simulate.outposts import Simulated
from outpost_mayor.simulate.reading import read_workload
from outpost_mayor.simulate.workload import Described, Mix, Outage, Spread, Stream
from outpost_mayor.simulate.world import Simulation

HOUR = 3600.0
NO_BUDGET = Config(outposts=())


def stream(name: str = "gt", **said: Any) -> Stream:
    return Stream(name=name, **{"max_cost": 1.0, **said})


def run(
    *streams: tuple[Stream, Mix],
    outposts: tuple[Simulated, ...] = (Simulated(name="local", max_workers=2),),
    config: Config = NO_BUDGET,
    **said: Any,
) -> Figures:
    seed = said.pop("seed", 1)
    return Simulation(
        workload=Described(streams=streams, seed=seed), outposts=outposts, config=config,
        seed=seed, **said,
    ).run()  # fmt: skip


def test_two_slots_take_ten_orders_in_five_rounds() -> None:
    found = run((stream(count=10), Mix(seconds=Spread(median=600), cost=Spread(median=0.25))))
    assert found.outcomes == {"done": 10}
    assert (found.makespan, found.agent, found.machine) == (3000.0, 2.5, 0.0)
    waits = found.waits[2]
    assert (waits.orders, waits.median, waits.longest) == (10, 1200.0, 2400.0)
    assert (found.outposts["local"].workers, found.outposts["local"].most) == (10, 2)
    assert found.broken == ()


def test_the_same_seed_finds_the_same_and_another_one_does_not() -> None:
    work = (
        stream(rate=60, count=40, retries=1),
        Mix(outcomes={"ok": 3, "agent_failed": 1, "lost_process": 1}, seconds=Spread(
            median=900, sigma=0.8)),
    )  # fmt: skip
    first, again, other = run(work), run(work), run(work, seed=2)
    assert first == again
    assert first != other
    assert first.retries > 0


def test_a_budget_is_never_passed_and_what_waits_for_it_goes_on() -> None:
    config = Config(
        outposts=(), budgets=(BudgetConfig(name="day", window=Window.DAY, usd=3.0),)
    )  # fmt: skip
    found = run(
        (stream(count=12), Mix(seconds=Spread(median=60), cost=Spread(median=0.5))),
        outposts=(Simulated(name="a", max_workers=9, price=0.1),), config=config,
    )  # fmt: skip
    assert found.outcomes == {"done": 12}
    assert found.refused["budget"] > 0
    assert found.makespan > 24 * HOUR
    assert found.broken == ()


def test_what_no_budget_ever_takes_waits_for_ever_and_says_why() -> None:
    config = Config(outposts=(), budgets=(BudgetConfig(name="tiny", window=Window.HOUR, usd=0.5),))
    found = run((stream(count=3), Mix()), config=config)
    assert found.outcomes == {"waiting": 3}
    assert any("tiny" in why for why in found.stuck)


def test_an_outage_loses_what_worked_there_and_the_rest_goes_elsewhere() -> None:
    found = run(
        (stream(every=60.0, count=30), Mix(seconds=Spread(median=1200))),
        outposts=(
            Simulated(name="first", max_workers=20),
            Simulated(name="second", max_workers=20, price=1.0),
        ),
        outages=(Outage(outpost="first", start=900, end=2 * HOUR, kills=True),),
    )
    assert found.outcomes == {"done": 30}
    assert found.retries >= 10  # those that were lost were tried again
    assert found.outposts["second"].workers > 0
    assert found.broken == ()


def test_a_usage_limit_parks_the_account_and_costs_no_retry() -> None:
    found = run((stream(count=4, limit=HOUR), Mix(outcomes={"rate_limited": 1, "ok": 1})))
    assert found.outcomes == {"done": 4}
    assert found.refused.get("parked", 0) > 0


reasons = st.sampled_from(["ok", "agent_failed", "lost_process", "never_started", "push_failed"])


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
@given(
    priorities=st.dictionaries(st.integers(0, 4), st.floats(0.1, 5), min_size=1),
    outcomes=st.dictionaries(reasons, st.floats(0.1, 5), min_size=1),
    slots=st.integers(1, 4),
    cap=st.none() | st.floats(1, 10),
    usd=st.floats(2, 50),
    aging=st.sampled_from([60.0, HOUR]),
    seed=st.integers(0, 99),
)
def test_whatever_comes_nothing_happens_that_may_never_be(
    priorities: dict[int, float],
    outcomes: dict[str, float],
    slots: int,
    cap: float | None,
    usd: float,
    aging: float,
    seed: int,
) -> None:
    config = Config(
        outposts=(),
        budgets=(BudgetConfig(name="day", window=Window.DAY, usd=usd),),
        queue=QueueConfig(aging=aging),
    )
    mix = Mix(priority=priorities, outcomes=outcomes, seconds=Spread(median=600, sigma=1),
              cost=Spread(median=0.3, sigma=1))  # fmt: skip
    found = run(
        (stream("a", rate=60, count=15), mix),
        outposts=(
            Simulated(name="x", max_workers=slots, cost_cap_hourly=cap, price=0.2),
            Simulated(name="y", max_workers=1),
        ),
        config=config,
        seed=seed,
    )
    assert found.broken == ()
    assert sum(found.outcomes.values()) == 15
    if not set(found.refused) - {"full"}:  # else it waited for something else than a slot
        assert found.passed[0] <= 5 * aging


WORKLOAD = """\
seed: 3
orders:
  - {name: night, count: 6, priority: P3, duration: 10m, cost: 0.5, max_cost: 1}
  - {name: day, rate: 30, end: 1h, priority: {P1: 1, P2: 3}, duration: {median: 5m, sigma: 0.4}}
outages:
  - {outpost: local, start: 5m, end: 10m}
"""
CONFIG = "outposts:\n  - {name: local, type: local, max_workers: 2, memory_floor: 0}\n"


def outpost(folder: Path, *words: str) -> tuple[int, str, str]:
    file = folder / "outposts.yaml"
    if not file.exists():
        file.write_text(CONFIG)
    done = CliRunner().invoke(
        cli,
        ["--config", str(file), "--state", str(folder / "state"), *words],
        prog_name="outpost",
        obj=Session(),
    )
    return done.exit_code, done.stdout, done.stderr


def test_the_command_compares_two_policies(tmp_path: Path) -> None:
    (tmp_path / "work.yaml").write_text(WORKLOAD)
    (tmp_path / "more.yaml").write_text(CONFIG.replace("max_workers: 2", "max_workers: 8"))
    words = ("simulate", str(tmp_path / "work.yaml"), "--compare", str(tmp_path / "more.yaml"))
    code, shown, _ = outpost(tmp_path, *words)
    assert code == 0
    assert "P3 waits, longest" in shown
    code, answer, _ = outpost(tmp_path, "--json", *words)
    two, eight = json.loads(answer)["simulations"]
    assert two["orders"] == eight["orders"] > 6
    assert two["outcomes"]["done"] == eight["outcomes"]["done"] == two["orders"]
    assert eight["makespan"] < two["makespan"]
    assert eight["agent_cost"] == pytest.approx(two["agent_cost"])
    assert not (tmp_path / "state" / "ledger.db").exists() or not ledger_has_workers(tmp_path)


def ledger_has_workers(folder: Path) -> bool:
    ledger = Ledger(folder / "state")
    try:
        return bool(ledger.workers(cleaned=True))
    finally:
        ledger.close()


def test_the_work_of_the_past_is_simulated_as_it_was(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "state")
    now = clock.now()
    for number in range(3):
        with clock.moved(lambda at=now - 7200 + number: at):
            order = Order(
                issue=Issue(id=f"gt-{number}", priority=1), agent=Agent(argv=("x",), name="x"),
                limits=Limits(timeout=HOUR, max_agent_cost_usd=1.0),
            )  # fmt: skip
            ledger.reserve([Reservation(order=order, outpost="gone", digest="d", owner="o")])
            result = Result(
                state=State.DONE, started_at=clock.now(), finished_at=clock.now() + 600,
                usage=Usage(cost_usd=0.5), cost_usd=0.0,
            )  # fmt: skip
            done = WorkerStatus(id=order.worker, state=State.DONE, digest="d", result=result)
            ledger.record("gone", [done])
    ledger.close()
    code, answer, _ = outpost(tmp_path, "--json", "simulate", "--past", "1d")
    (found,) = json.loads(answer)["simulations"]
    assert code == 0
    assert found["outcomes"] == {"done": 3}
    assert found["agent_cost"] == pytest.approx(1.5)
    assert found["makespan"] == pytest.approx(1200, abs=5)  # two slots, three of ten minutes
    code, answer, wrong = outpost(tmp_path, "simulate", "--past", "1h")
    assert (code, answer) == (4, "")
    assert "in the last 1h" in wrong
    assert "WORKLOAD file" in wrong


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("orders: []\n", "needs orders"),
        ("orders:\n  - {count: 3}\n", "needs a name"),
        ("orders:\n  - {name: a, duration: soon}\n", "bad.yaml:2:25"),
        ("orders:\n  - {name: a, rate: 5}\n", "never end"),
        ("orders:\n  - {name: a, every: 1s, rate: 5, end: 1h}\n", "not both"),
        ("orders:\n  - {name: a, priority: P9}\n", "'P9' is not known"),
        ("orders:\n  - {name: a, outcomes: {okk: 1}}\n", "ok"),
        ("orders:\n  - {name: a, outcomes: {ok: -1}}\n", "from 0"),
        ("orders:\n  - {name: a, every: 1ms, end: 365d}\n", "more than 5,000,000"),
        ("orders:\n  - {name: a}\nseed: x\n", "seed"),
        ("orders:\n  - {name: a}\nwhat: 1\n", "no key"),
        ("orders:\n  - {name: a}\noutages:\n  - {outpost: x, start: 2h, end: 1h}\n", "before"),
        ("orders:\n  - {name: a, cost: {sigma: 1}}\n", "needs a median"),
        ("orders:\n  - {name: a, cost: {median: 1, sigma: 9}}\n", "at most 5"),
        ("- 1\n", "a workload is a map"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_workload(file)
    assert said in f"{caught.value} {caught.value.hint}"
    assert caught.value.line is not None


def test_either_a_workload_or_the_past(tmp_path: Path) -> None:
    code, _, wrong = outpost(tmp_path, "simulate")
    assert code == 2
    assert "--past" in wrong
