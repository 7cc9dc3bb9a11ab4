"""Budgets, accounts and breakers in the ledger: also under a crowd of processes, and SIGKILL."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from outpost_core import wire
from outpost_core.types import Agent, Issue, Order, Result, State, Usage, WorkerStatus
from outpost_manager.ledger import Account, Budget, Ledger, Outcome, Reservation, breakers
from outpost_manager.ledger import budgets as budgets_module
from outpost_manager.ledger import reserve as reserve_module

RIG = "https://example.com/acme/app.git"


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger(tmp_path / "state")
    yield opened
    opened.close()


def item(name, *, outpost="local", rig=RIG, labels=(), agent="claude", **more):
    order = Order(
        issue=Issue(id=name, labels=tuple(labels)),
        agent=Agent(argv=("true",), name=agent),
        rig=rig,
    )
    more.setdefault("agent_cost", 1.0)
    return Reservation(order=order, outpost=outpost, digest=wire.digest(order), **more)


def reserve(ledger, *args, **more):
    (answer,) = ledger.reserve([item(*args, **more)])
    return answer


def end(ledger, name, cost=0.5, state=State.DONE, outpost="local", reason="ok", **more):
    result = Result(state=state, reason=reason, usage=Usage(cost_usd=cost), cost_usd=0.0, **more)
    ledger.record(outpost, [WorkerStatus(id=f"{name}.1", state=state, result=result)])


def shift(ledger, seconds):
    """Have all that ended have ended so much earlier."""
    with ledger._store.write() as db:
        db.execute("UPDATE workers SET ended_at = ended_at - ?", (seconds,))


# --- budgets -----------------------------------------------------------------------------------


def test_a_budget_holds_the_worst_case_and_is_settled_by_what_was_spent(ledger):
    day = (Budget(name="all", window="day", usd=2.0),)
    assert reserve(ledger, "a", budgets=day).outcome is Outcome.RESERVED
    assert reserve(ledger, "b", budgets=day).outcome is Outcome.RESERVED
    refused = reserve(ledger, "c", budgets=day)
    assert refused.outcome is Outcome.BUDGET
    assert "budget all: 2.00 USD of 2.00 USD" in refused.detail
    assert "24 hours" in refused.detail
    assert refused.until is None  # an end has to come first
    end(ledger, "a", 0.25)
    end(ledger, "b", 0.25)
    (use,) = ledger.uses(day)
    assert (use.reserved, use.spent, use.left) == (0, 500_000_000, 1_500_000_000)
    assert reserve(ledger, "c", budgets=day).outcome is Outcome.RESERVED


@pytest.mark.parametrize(("window", "seconds"), budgets_module.WINDOWS.items())
def test_a_refusal_says_when_the_window_has_moved_far_enough(ledger, window, seconds):
    some = (Budget(name="b", window=window, usd=1.5),)
    for name, cost in (("a", 0.4), ("b", 0.6)):
        assert reserve(ledger, name, agent_cost=0.6).outcome is Outcome.RESERVED
        end(ledger, name, cost)
    ended = ledger._store.read("SELECT ended_at FROM workers ORDER BY id")
    refused = reserve(ledger, "c", budgets=some, agent_cost=0.8)
    assert refused.until == pytest.approx(ended[0][0] + seconds)  # the first is enough
    refused = reserve(ledger, "c", budgets=some, agent_cost=1.0)
    assert refused.until == pytest.approx(ended[1][0] + seconds)
    shift(ledger, seconds + 1)
    assert reserve(ledger, "c", budgets=some, agent_cost=1.0).outcome is Outcome.RESERVED


def test_what_no_window_ever_holds_is_said(ledger):
    refused = reserve(ledger, "a", budgets=(Budget(name="b", window="hour", usd=0.5),))
    assert refused.outcome is Outcome.BUDGET
    assert "more than it ever holds" in refused.detail
    assert refused.until is None


@pytest.mark.parametrize(
    ("budget", "counts"),
    [
        ({"outpost": ("loc*",)}, True),
        ({"outpost": ("gce-?",)}, False),
        ({"rig": ("app",)}, True),
        ({"rig": ("ap",)}, False),
        ({"rig": ("https://example.com/*",)}, True),
        ({"label": ("ci", "night*")}, True),
        ({"label": ("day*",)}, False),
        ({"account": ("claude",)}, True),
        ({"account": ("team-*",)}, False),
        ({"outpost": ("[l]ocal",)}, False),
        ({"outpost": ("local",), "rig": ("app",), "label": ("nightly",)}, True),
        ({"outpost": ("local",), "rig": ("other",)}, False),
    ],
)
def test_a_budget_counts_what_it_names(ledger, budget, counts):
    """In Python and in SQL alike, open and ended."""
    some = (Budget(name="b", window="hour", usd=100.0, **budget),)
    assert reserve(ledger, "a", labels=["nightly"]).outcome is Outcome.RESERVED
    assert ledger.uses(some)[0].reserved == (1_000_000_000 if counts else 0)
    end(ledger, "a", 0.5)
    assert ledger.uses(some)[0].spent == (500_000_000 if counts else 0)
    assert some[0].counts("local", RIG, ["nightly"], "claude") is counts
    tight = (Budget(name="b", window="hour", usd=1.2, **budget),)
    assert (
        reserve(ledger, "b", labels=["nightly"], budgets=tight).outcome is Outcome.BUDGET
    ) is counts


def test_what_stands_counts_for_the_length_of_the_window(ledger):
    some = (Budget(name="b", window="day", usd=3.0, standing=(("local", 0.1),)),)
    refused = reserve(ledger, "a", budgets=some, agent_cost=0.7)
    assert refused.outcome is Outcome.BUDGET
    assert "2.40 USD of 3.00 USD" in refused.detail
    assert reserve(ledger, "a", budgets=some, agent_cost=0.6).outcome is Outcome.RESERVED


def test_an_order_whose_worst_case_nobody_knows_is_refused_with_the_hint(ledger):
    some = (Budget(name="b", window="day", usd=3.0),)
    refused = reserve(ledger, "a", budgets=some, agent_cost=None, uncounted="set --max-agent-cost")
    assert refused.outcome is Outcome.BUDGET
    assert "b could not be kept: set --max-agent-cost" in refused.detail
    other = (Budget(name="b", window="day", usd=3.0, outpost=("elsewhere",)),)
    assert reserve(ledger, "a", budgets=other, agent_cost=None).outcome is Outcome.RESERVED


def test_a_move_counts_the_worker_once(ledger):
    some = (
        Budget(name="all", window="day", usd=1.0),
        Budget(name="there", window="day", usd=1.0, outpost=("there",)),
    )
    one = item("a", budgets=some, owner="me")
    assert ledger.reserve([one])[0].outcome is Outcome.RESERVED
    there = item("a", outpost="there", budgets=some, owner="me")
    assert ledger.move("a.1", there).outcome is Outcome.RESERVED
    assert reserve(ledger, "b", budgets=some).outcome is Outcome.BUDGET
    dear = item("a", outpost="local", budgets=some, owner="me", agent_cost=1.01)
    assert ledger.move("a.1", dear).outcome is Outcome.BUDGET
    assert ledger.worker("a.1").outpost == "there"


def test_a_warning_is_told_once_for_each_crossing(ledger):
    some = (Budget(name="all", window="day", usd=10.0),)

    def told():
        return [event.data for event in ledger.events() if event.kind == "budget"]

    for n in range(7):
        reserve(ledger, f"a{n}", budgets=some)
    assert told() == []
    reserve(ledger, "a7", budgets=some)
    assert [(one["budget"], one["share"], one["usd"]) for one in told()] == [("all", 0.8, 10.0)]
    reserve(ledger, "a8", budgets=some)
    assert len(told()) == 1
    for n in range(9):
        end(ledger, f"a{n}", 0.1)
    reserve(ledger, "b", budgets=some)  # it has fallen: the next crossing is told again
    reserve(ledger, "c", budgets=some, agent_cost=7.0)
    assert len(told()) == 2


def test_a_warning_is_told_when_spend_is_settled_or_seen(ledger):
    some = (
        Budget(name="all", window="day", usd=10.0),
        Budget(name="x", window="day", usd=1.0, label=("x",)),
        Budget(name="other", window="day", usd=1.0, rig=("other",)),
    )
    ledger.watched = lambda: some

    def told():
        return [
            (event.data["budget"], event.worker)
            for event in ledger.events()
            if event.kind == "budget"
        ]

    for name, labels in (("a", ()), ("b", ("x",)), ("c", ())):
        reserve(ledger, name, labels=labels, budgets=some[:1])
    end(ledger, "a", 0.5)
    assert told() == []
    end(ledger, "b", 0.85)  # what ended cost more than was ever reserved within this budget
    assert told() == [("x", "b.1")]
    seen = WorkerStatus(id="c.1", state=State.WORKING, usage=Usage(cost_usd=7.0))
    ledger.record("local", [seen])
    assert told() == [("x", "b.1"), ("all", "c.1")]
    end(ledger, "c", 7.5)
    assert len(told()) == 2, "once for each crossing"


def test_labels_of_a_released_worker_are_forgotten(ledger):
    one = item("a", labels=["x"], owner="me")
    ledger.reserve([one])
    assert ledger._store.read("SELECT worker, label FROM worker_labels") == [("a.1", "x")]
    assert ledger.release("a.1", "me")
    assert ledger._store.read("SELECT * FROM worker_labels") == []


PRELUDE = """
import json, os, sys, time
from pathlib import Path
from outpost_core import wire
from outpost_core.types import Agent, Issue, Order, Result, State, Usage, WorkerStatus
from outpost_manager.ledger import Account, Budget, Ledger, Reservation

def item(name, labels=(), **more):
    order = Order(issue=Issue(id=name, labels=labels), agent=Agent(argv=("true",), name="claude"))
    return Reservation(order=order, outpost="local", digest=wire.digest(order), **more)
"""


def start(code, *args):
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


CROWD = """
budgets = (
    Budget(name="all", window="day", usd=3.0),
    Budget(name="nightly", window="hour", usd=1.0, label=("night*",)),
    Budget(name="mine", window="month", usd=2.0, account=("a",)),
)
accounts = (Account(name="a", max_workers=7, usd=(("hour", 1.5),)), Account(name="b"))
ledger = Ledger(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
taken = 0
for n in range(4):
    labels = ("nightly",) if n % 2 else ()
    one = item(f"gt-{sys.argv[2]}-{n}", labels, agent_cost=0.1, budgets=budgets, accounts=accounts)
    (answer,) = ledger.reserve([one])
    taken += answer.outcome == "reserved"
    if answer.outcome == "reserved" and n % 3 == 0:
        usage = Usage(cost_usd=0.04)
        ledger.record("local", [WorkerStatus(
            id=one.order.worker, state=State.DONE, digest=one.digest,
            result=Result(state=State.DONE, usage=usage, cost_usd=0.0),
        )])
print(taken)
"""


@pytest.mark.slow
def test_a_hundred_processes_never_pass_budgets_and_accounts(tmp_path):
    """Some are killed at a write: what they had reserved stays held."""
    Ledger(tmp_path).close()
    crowd = [start(CROWD, tmp_path, number) for number in range(100)]
    for child in crowd:
        assert child.stdout.readline() == "ready\n"
    for child in crowd:
        child.stdin.write("\n")
        child.stdin.flush()
    for child in crowd[::7]:
        child.kill()
    for child in crowd:
        child.communicate(timeout=240)
    ledger = Ledger(tmp_path)
    try:
        (every, nightly, mine) = ledger.uses(
            (
                Budget(name="all", window="day", usd=3.0),
                Budget(name="nightly", window="hour", usd=1.0, label=("night*",)),
                Budget(name="mine", window="month", usd=2.0, account=("a",)),
            )
        )
        assert every.used <= every.cap
        assert nightly.used <= nightly.cap
        assert mine.used <= mine.cap
        assert every.used >= every.cap - 100_000_000  # and they are used up
        (a,) = ledger.taken([Account(name="a", max_workers=7, usd=(("hour", 1.5),))])
        assert a.workers <= 7
        assert a.held + a.spent["hour"] <= 1_500_000_000
        assert len([event for event in ledger.events() if event.kind == "budget"]) >= 1
    finally:
        ledger.close()


KILLED = """
budgets = (
    Budget(name="all", window="day", usd=1.0),
    Budget(name="l", window="day", usd=1.0, label=("x",)),
)
ledger = Ledger(Path(sys.argv[1]))
left = int(sys.argv[2])

def step(sql):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)

ledger._store._db.set_trace_callback(step)
ledger.reserve([item("gt-2", ("x",), agent_cost=0.9, budgets=budgets)])
print("finished")
"""


def test_sigkill_at_every_statement_leaves_all_or_nothing(tmp_path):
    first = Ledger(tmp_path / "start")
    first.breakers.failed(breakers.OUTPOST, "local", "away")
    first.close()
    for step in range(1, 100):
        folder = tmp_path / str(step)
        shutil.copytree(tmp_path / "start", folder)
        child = start(KILLED, folder, step)
        out, _ = child.communicate("\n", timeout=60)
        ledger = Ledger(folder)
        some = (Budget(name="l", window="day", usd=1.0, label=("x",)),)
        labels = ledger._store.read("SELECT * FROM worker_labels")
        warned = ledger._store.read("SELECT budget FROM warned")
        told = [event.data["budget"] for event in ledger.events() if event.kind == "budget"]
        there = bool(ledger.workers())
        ledger_use = ledger.uses(some)[0].reserved
        ledger.close()
        assert bool(labels) is bool(warned) is bool(told) is there
        assert ledger_use == (900_000_000 if there else 0)
        if out == "finished\n":
            assert there
            break
        assert child.returncode == -9
    assert step > 8


# --- accounts ----------------------------------------------------------------------------------


def test_the_first_account_with_room_is_chosen_and_kept(ledger):
    some = (Account(name="a", max_workers=1), Account(name="b", max_workers=1))
    answers = [reserve(ledger, name, accounts=some) for name in ("x", "y", "z")]
    assert [answer.account for answer in answers] == ["a", "b", ""]
    assert answers[2].outcome is Outcome.ACCOUNT
    assert "account a: 1 of 1 workers use it; account b: 1 of 1" in answers[2].detail
    assert (ledger.account("x.1"), ledger.account("y.1")) == ("a", "b")
    end(ledger, "x")
    assert reserve(ledger, "z", accounts=some).account == "a"


def test_an_agent_without_accounts_is_its_own_account(ledger):
    assert reserve(ledger, "x", agent="codex").account == "codex"
    assert ledger.account("x.1") == "codex"


def test_an_account_has_limits_in_usd_and_tokens(ledger):
    some = (Account(name="a", usd=(("hour", 2.0), ("day", 2.5)), tokens=(("week", 1000),)),)
    assert reserve(ledger, "x", accounts=some, cost=50.0).account == "a"  # the agent's alone counts
    refused = reserve(ledger, "y", accounts=some, agent_cost=1.5)
    assert refused.outcome is Outcome.ACCOUNT
    assert "1.00 USD of 2.00 USD a hour" in refused.detail
    result = Result(
        state=State.DONE, usage=Usage(cost_usd=1.0, input_tokens=900, output_tokens=100)
    )
    ledger.record("local", [WorkerStatus(id="x.1", state=State.DONE, result=result)])
    refused = reserve(ledger, "y", accounts=some, agent_cost=0.5)
    assert refused.outcome is Outcome.ACCOUNT
    assert "1,000 of 1,000 tokens a week" in refused.detail
    shift(ledger, 7 * 86_400.0 + 1)
    assert reserve(ledger, "y", accounts=some, agent_cost=0.5).outcome is Outcome.RESERVED
    unknown = reserve(ledger, "z", accounts=some, agent_cost=None, uncounted="say what")
    assert "could not be kept: say what" in unknown.detail


def test_a_parked_account_is_passed_over_until_its_time(ledger):
    some = (Account(name="a"), Account(name="b"))
    now = time.time()

    def park(account, until, since=now, model=""):
        with ledger._store.write() as db:
            db.execute(
                "INSERT OR REPLACE INTO parked VALUES (?, ?, ?, ?, 'rate_limited', '', 1)",
                (account, model, until, since),
            )

    park("a", now + 600)
    assert reserve(ledger, "x", accounts=some).account == "b"
    park("b", now + 300)
    refused = reserve(ledger, "y", accounts=some)
    assert refused.outcome is Outcome.PARKED
    assert refused.until == pytest.approx(now + 300)
    assert "account a is parked until " in refused.detail
    assert "UTC: rate_limited" in refused.detail
    park("b", now - 1)
    assert reserve(ledger, "y", accounts=some).account == "b"
    park("a", now + 600, since=now + 3600)  # written before the clock was set back
    assert reserve(ledger, "z", accounts=some).account == "a"
    park("codex", now + 600, model="big")
    assert reserve(ledger, "c", agent="codex", model="small").outcome is Outcome.RESERVED
    assert reserve(ledger, "d", agent="codex", model="big").outcome is Outcome.PARKED


# --- breakers ----------------------------------------------------------------------------------


def opened(ledger, name="local"):
    for n in range(breakers.RULES["outpost"].failures):
        ledger.breakers.failed(breakers.OUTPOST, name, f"away {n}")


def age(ledger, seconds):
    """Have the breakers be so much older."""
    with ledger._store.write() as db:
        db.execute("UPDATE breakers SET since = since - ?, retry_at = retry_at - ?", (seconds,) * 2)


def test_failures_in_a_row_open_a_breaker_and_one_probe_closes_it(ledger):
    opened(ledger)
    refused = reserve(ledger, "a")
    assert refused.outcome is Outcome.BREAKER
    assert "breaker is open after 5 failures in a row (away 4)" in refused.detail
    assert 0 < refused.until - time.time() <= 30
    assert reserve(ledger, "a", outpost="other").outcome is Outcome.RESERVED
    age(ledger, 31)
    assert reserve(ledger, "b").outcome is Outcome.RESERVED  # the probe
    refused = reserve(ledger, "c")
    assert refused.outcome is Outcome.BREAKER
    assert "half-open, and b.1 tries it" in refused.detail
    ledger.record("local", [WorkerStatus(id="b.1", state=State.WORKING)])
    assert ledger.breakers.all() == []
    assert reserve(ledger, "c").outcome is Outcome.RESERVED
    told = [event.data["state"] for event in ledger.events() if event.kind == "breaker"]
    assert told == ["open", "half-open", "closed"]


def test_a_failed_probe_opens_it_for_twice_as_long(ledger):
    opened(ledger)
    age(ledger, 31)
    reserve(ledger, "a")
    end(ledger, "a", 0.0, State.FAILED, reason="workspace_failed", agent_began=False)
    (breaker,) = ledger.breakers.all()
    assert (breaker.state, breaker.failures) == ("open", 6)
    assert breaker.retry_at - breaker.since == pytest.approx(60)


def test_a_probe_that_is_gone_makes_room_for_another(ledger):
    opened(ledger)
    age(ledger, 31)
    ledger.reserve([item("a", owner="me")])
    assert reserve(ledger, "b").outcome is Outcome.BREAKER
    ledger.release("a.1", "me")
    assert reserve(ledger, "b").outcome is Outcome.RESERVED
    assert reserve(ledger, "c").outcome is Outcome.BREAKER


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_jumps_keeps_no_breaker_for_ever(ledger, jump):
    opened(ledger)
    age(ledger, jump)
    assert reserve(ledger, "a").outcome is Outcome.RESERVED  # open
    assert reserve(ledger, "b").outcome is Outcome.BREAKER
    age(ledger, jump)
    assert reserve(ledger, "b").outcome is Outcome.RESERVED  # half-open


def test_what_the_agent_judged_is_no_failure(ledger):
    for n in range(20):
        reserve(ledger, f"a{n}")
        end(ledger, f"a{n}", 0.1, State.FAILED, reason="agent_failed", agent_began=True)
    assert ledger.breakers.all() == []


def test_success_begins_the_count_anew(ledger):
    for n in range(12):
        reserve(ledger, f"a{n}")
        if n % 4 == 3:
            ledger.record("local", [WorkerStatus(id=f"a{n}.1", state=State.WORKING)])
        else:
            end(ledger, f"a{n}", 0.0, State.FAILED, reason="never_started", agent_began=False)
    assert ledger.breakers.all() == []


def test_a_login_that_fails_opens_the_accounts_breaker(ledger):
    some = (Account(name="a"), Account(name="b"))
    for n in range(3):
        assert reserve(ledger, f"a{n}", accounts=some).account == "a"
        end(ledger, f"a{n}", 0.0, State.FAILED, reason="not_logged_in", agent_began=True)
    assert reserve(ledger, "b", accounts=some).account == "b"
    (breaker,) = ledger.breakers.all()
    assert (breaker.kind, breaker.name, breaker.state) == ("account", "a", "open")
    assert ledger.breakers.reset("account", "a")
    assert not ledger.breakers.reset("account", "a")
    assert reserve(ledger, "c", accounts=some).account == "a"


PROBES = """
ledger = Ledger(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps(ledger.reserve([item(f"gt-{sys.argv[2]}")])[0].outcome))
"""


def test_many_processes_send_one_probe(tmp_path):
    ledger = Ledger(tmp_path)
    opened(ledger)
    age(ledger, 31)
    ledger.close()
    crowd = [start(PROBES, tmp_path, number) for number in range(8)]
    for child in crowd:
        assert child.stdout.readline() == "ready\n"
    for child in crowd:
        child.stdin.write("\n")
        child.stdin.flush()
    outcomes = [json.loads(child.communicate(timeout=60)[0]) for child in crowd]
    assert sorted(outcomes) == ["breaker"] * 7 + ["reserved"]


def test_who_waited_for_the_ledger_sends_no_second_probe(ledger):
    """It was drafted before the probe went, and asks after that."""
    opened(ledger)
    age(ledger, 31)
    late = reserve_module.Draft(item("late"))
    time.sleep(0.01)
    assert reserve(ledger, "probe").outcome is Outcome.RESERVED
    with ledger._store.write() as db:
        assert reserve_module.reserve(db, late).outcome is Outcome.BREAKER


def test_what_would_refuse_is_said_without_changing_anything(ledger):
    opened(ledger)
    some = (Budget(name="b", window="hour", usd=0.5),)
    answers = ledger.foresee(
        [item("a"), item("b", outpost="x"), item("c", outpost="x", budgets=some)]
    )
    assert [answer.outcome for answer in answers] == ["breaker", "reserved", "budget"]
    assert ledger.workers() == []
    age(ledger, 31)
    (fits,) = ledger.foresee([item("a")])
    assert (fits.outcome, fits.account) == (Outcome.RESERVED, "claude")
    assert ledger.breakers.all()[0].state == "open"


def test_a_long_history_costs_a_budget_little(tmp_path):
    """What is asked reads an index alone: a window with 2,000 ends takes milliseconds."""
    ledger = Ledger(Path(tmp_path))
    some = (
        Budget(name="all", window="month", usd=1e9),
        Budget(name="x", window="month", usd=1e9, rig=("app",)),
    )
    for start_at in range(0, 2000, 1000):
        batch = [item(f"a{n}", budgets=()) for n in range(start_at, start_at + 1000)]
        ledger.reserve(batch)
        result = Result(state=State.DONE, usage=Usage(cost_usd=0.1), cost_usd=0.0)
        ledger.record(
            "local",
            [WorkerStatus(id=one.order.worker, state=State.DONE, result=result) for one in batch],
        )
    plans = ledger._store.read(
        f"EXPLAIN QUERY PLAN {budgets_module.meter(some[1])._ended}",
        [0.0, *budgets_module.meter(some[1])._args],
    )
    assert any("COVERING INDEX workers_spent" in plan[3] for plan in plans)
    best = min(_timed(lambda: ledger.uses(some)) for _ in range(5))
    assert best < 1.0  # generous; a few ms when the machine is idle
    ledger.close()


def _timed(what):
    began = time.perf_counter()
    what()
    return time.perf_counter() - began
