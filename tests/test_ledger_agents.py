"""What agents spend, in the ledger: reserved, seen, settled, and never past a cap."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest

from outpost_core import wire
from outpost_core.types import Agent, Issue, Order, Result, State, Usage, WorkerStatus
from outpost_manager.ledger import Ledger, Outcome, Reservation, schema
from outpost_manager.ledger.store import Store

PROCESSES = 8
PRELUDE = """
import json, os, sys
from pathlib import Path
from outpost_core import wire
from outpost_manager.ledger import Ledger, Reservation
from outpost_core.types import Agent, Issue, Order, Result, State, Usage, WorkerStatus

def item(name, **more):
    order = Order(issue=Issue(id=name), agent=Agent(argv=("true",)))
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


def order(issue="gt-1"):
    return Order(issue=Issue(id=issue), agent=Agent(argv=("true",), name="claude"))


def reservation(order, outpost="local", **more):
    return Reservation(order=order, outpost=outpost, digest=wire.digest(order), **more)


def status(order, state=State.WORKING, **more):
    return WorkerStatus(id=order.worker, state=state, digest=wire.digest(order), **more)


def spawn(ledger, order, **more):
    (answer,) = ledger.reserve([reservation(order, **more)])
    assert answer.outcome is Outcome.RESERVED
    ledger.mark_spawned([("local", status(order, State.STARTING))])


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "state")
    yield ledger
    ledger.close()


def end(ledger, state=State.DONE, usage=None, issue="gt-1", **more):
    result = Result(state=state, usage=usage or Usage(), **{"exit_code": 0, **more})
    ledger.record("local", [status(order(issue), state, result=result)])
    return ledger.worker(f"{issue}.1")


def see(ledger, usd, issue="gt-1", **more):
    usage = Usage(cost_usd=usd, partial=True, **more)
    return ledger.record("local", [status(order(issue), usage=usage)])


def test_machine_and_agent_are_reserved_together_and_kept_apart(ledger):
    (answer,) = ledger.reserve([reservation(order(), cost=0.25, agent_cost=0.5)])
    worker = answer.worker
    assert worker == ledger.worker("gt-1.1")
    assert (worker.cost_reserved, worker.agent_reserved, worker.cost_held) == (0.25, 0.5, 0.75)
    assert ledger.spent(0) == {"local": 0.75}
    capped = reservation(order("gt-2"), cost=0.1, agent_cost=0.2, cost_cap_hourly=1.0)
    (refused,) = ledger.reserve([capped])
    assert refused.outcome is Outcome.CAPPED
    assert "0.75 USD of 1.00 USD" in refused.detail
    assert "0.30 USD" in refused.detail


def test_what_the_agent_says_at_its_end_is_what_it_cost(ledger):
    spawn(ledger, order(), cost=0.25, agent_cost=0.5)
    worker = end(ledger, usage=Usage(cost_usd=0.0061), cost_usd=0.1)
    assert (worker.cost_settled, worker.agent_cost) == (0.1, 0.0061)
    assert worker.cost == pytest.approx(0.1061)
    assert (worker.cost_reserved, worker.agent_reserved, worker.cost_held) == (0.0, None, 0.0)
    assert ledger.spent(0) == {"local": 0.1061}


@pytest.mark.parametrize(
    ("usage", "seen", "counts"),
    [
        (Usage(), None, 0.5),  # nobody knows: the worst case stands
        (Usage(), 0.7, 0.7),  # not even below what was seen
        (Usage(cost_usd=float("nan")), None, 0.5),
        (Usage(cost_usd=-1.0), None, 0.5),
        (Usage(cost_usd=0.9), None, 0.9),  # an overrun is told as it is
        (Usage(cost_usd=0.2), 0.3, 0.2),  # the final word is exact, what was seen an estimate
        (Usage(cost_usd=0.2, partial=True), None, 0.2),
        (Usage(cost_usd=0.2, partial=True), 0.3, 0.3),  # what was seen is not unseen
        (Usage(cost_usd=1e300), None, 1_000_000.0),  # no number that breaks all sums
    ],
)
def test_what_counts_in_the_end(ledger, usage, seen, counts):
    spawn(ledger, order(), agent_cost=0.5)
    if seen is not None:
        see(ledger, seen)
    assert end(ledger, State.FAILED, usage).agent_cost == counts
    assert ledger.spent(0) == {"local": counts}


@pytest.mark.parametrize(
    "reason", ["never_started", "workspace_failed", "base_not_found", "command_not_found"]
)
def test_an_agent_that_never_ran_spent_nothing(ledger, reason):
    spawn(ledger, order(), agent_cost=0.5)
    assert end(ledger, State.FAILED, reason=reason).agent_cost == 0.0
    assert ledger.spent(0) == {}


def test_a_stop_before_the_agent_ran_costs_nothing_and_a_lost_worker_its_worst_case(ledger):
    spawn(ledger, order("gt-1"), agent_cost=0.5)
    spawn(ledger, order("gt-2"), agent_cost=0.5)
    assert end(ledger, State.STOPPED, reason="stopped", agent_began=False).agent_cost == 0.0
    lost = end(ledger, State.LOST, issue="gt-2", reason="lost_process", exit_code=None)
    assert lost.agent_cost == 0.5


def test_what_nobody_knows_is_not_said_to_be_nothing(ledger):
    spawn(ledger, order())
    worker = end(ledger)
    assert (worker.agent_cost, worker.agent_reserved) == (None, None)
    spawn(ledger, order("gt-2"), agent_cost=0.0)
    assert end(ledger, issue="gt-2").agent_cost == 0.0


def test_what_an_agent_spends_is_counted_while_it_runs(ledger):
    """Also of one without a limit, and beyond a limit: a cap hears of it at once."""
    spawn(ledger, order("gt-1"))
    spawn(ledger, order("gt-2"), agent_cost=0.5)
    assert [w.agent_cost for w in see(ledger, 0.2, input_tokens=10)] == [0.2]
    assert see(ledger, 0.3, input_tokens=10) == [], "observers hear of states, not of tokens"
    assert ledger.worker("gt-1.1").agent_cost == 0.3
    events = ledger.events("gt-1.1")
    see(ledger, 0.3, input_tokens=10)
    assert ledger.events("gt-1.1") == events
    see(ledger, 0.2, "gt-2")
    assert ledger.spent(0) == {"local": 0.8}
    see(ledger, 0.6, "gt-2")
    assert ledger.spent(0) == {"local": 0.9}
    capped = reservation(order("gt-3"), agent_cost=0.2, cost_cap_hourly=1.0)
    assert ledger.reserve([capped])[0].outcome is Outcome.CAPPED
    see(ledger, 0.1, "gt-2", input_tokens=3)
    assert ledger.worker("gt-2.1").agent_cost == 0.6, "what was seen is not unseen"
    assert ledger.worker("gt-2.1").usage.input_tokens == 3
    ledger.record("local", [status(order("gt-2"), detail="thinks")])
    assert ledger.worker("gt-2.1").usage.input_tokens == 3, "a look without usage says nothing"


def test_what_was_seen_of_a_worker_that_vanished_is_kept(ledger):
    spawn(ledger, order(), agent_cost=0.5)
    see(ledger, 0.3, input_tokens=10)
    worker = end(ledger, State.LOST, reason="lost_process", exit_code=None)
    assert worker.result.usage == Usage(cost_usd=0.3, input_tokens=10, partial=True)
    assert worker.agent_cost == 0.5


def test_a_later_result_changes_nothing(ledger):
    spawn(ledger, order(), agent_cost=0.5)
    end(ledger, usage=Usage(cost_usd=0.4))
    end(ledger, usage=Usage(cost_usd=0.0))
    end(ledger, State.FAILED, usage=Usage(cost_usd=9.0))
    see(ledger, 0.1)
    assert ledger.worker("gt-1.1").agent_cost == 0.4
    assert ledger.spent(0) == {"local": 0.4}
    ledger.forget("gt-1.1")
    assert ledger.spent(0) == {"local": 0.4}, "cleaned workers count"


def test_an_adopted_worker_counts_where_it_is(ledger):
    usage = Usage(cost_usd=0.3, partial=True)
    ledger.record("local", [WorkerStatus(id="gt-9.1", state=State.WORKING, usage=usage)])
    assert ledger.spent(0) == {"local": 0.3}


def test_a_usage_that_cannot_be_read_again_is_passed_over(ledger):
    spawn(ledger, order())
    for strange in (Usage(cost_usd="much"), {"cost_usd": 1.0}, Usage(cost_usd=float("inf"))):
        ledger.record("local", [status(order(), usage=strange)])
    worker = ledger.worker("gt-1.1")
    assert (worker.state, worker.agent_cost) == (State.WORKING, None)
    assert ledger.spent(0) == {"local": 0.0}


def test_a_move_takes_the_money_along(ledger):
    ledger.reserve([reservation(order(), cost=0.1, agent_cost=0.5)])
    answer = ledger.move("gt-1.1", reservation(order(), "far", cost=0.2, agent_cost=0.5))
    assert answer.outcome is Outcome.RESERVED
    assert ledger.spent(0) == {"far": 0.7}
    again = reservation(order(), "far", cost=0.2, agent_cost=0.5, cost_cap_hourly=0.7)
    assert ledger.move("gt-1.1", again).outcome is Outcome.RESERVED, "its own money is its own"
    assert ledger.release("gt-1.1", "")
    assert ledger.spent(0) == {}


def test_an_older_ledger_knows_what_its_agents_spent(tmp_path):
    """Workers that ended before count by their results, those that run by what they hold."""
    old = Store(tmp_path, migrations=schema.MIGRATIONS[:2])
    now = time.time()
    with old.write() as db:
        for worker, ended in (("gt-1", now), ("gt-2", None), ("gt-3", now)):
            db.execute(
                "INSERT INTO workers (id, issue, attempt, outpost, digest, state, created_at,"
                " reserved_at, cost_reserved, ended_at, cost_settled)"
                " VALUES (?, ?, 1, 'local', '', ?, ?, ?, 250000000, ?, ?)",
                (f"{worker}.1", worker, "done" if ended else "working", now, now, ended,
                 100_000_000 if ended else None),
            )  # fmt: skip
        for worker, usd in (("gt-1", 0.0061), ("gt-3", None)):
            body = wire.dumps(Result(state=State.DONE, usage=Usage(cost_usd=usd)))
            db.execute("INSERT INTO results VALUES (?, ?)", (f"{worker}.1", body))
    old.close()
    ledger = Ledger(tmp_path)
    assert [ledger.worker(f"gt-{n}.1").agent_cost for n in (1, 2, 3)] == [0.0061, None, None]
    assert ledger.spent(0) == {"local": 0.4561}
    ledger.record("local", [WorkerStatus(id="gt-2.1", state=State.FAILED)])
    assert ledger.spent(0) == {"local": 0.4561}
    assert ledger.active() == {}
    ledger.close()


def test_the_sums_of_a_cap_need_no_walk_through_history(ledger):
    plan = ledger._store.read(
        "EXPLAIN QUERY PLAN SELECT sum(coalesce(cost_settled, 0) + coalesce(agent_settled, 0))"
        " FROM workers WHERE outpost = ? AND (cost_settled > 0 OR agent_settled > 0)"
        " AND ended_at > ?",
        ("local", 0),
    )
    assert "workers_settled" in plan[0][3], plan


# --- crowds and crashes --------------------------------------------------------------------------


def test_104_callers_at_once_never_pass_a_cap_with_what_agents_spend(tmp_path):
    """8 processes of 13 threads; agents are seen, overrun their limits, and end in every way."""
    code = """
from concurrent.futures import ThreadPoolExecutor
ledger = Ledger(Path(sys.argv[1]))
def call(n):
    one = item(f"gt-{sys.argv[2]}-{n}", cost=0.01, agent_cost=0.09, cost_cap_hourly=1.0)
    answer = ledger.reserve([one])[0]
    if answer.outcome == "reserved":
        def say(**more):
            ledger.record("local", [WorkerStatus(id=one.order.worker, digest=one.digest, **more)])
        say(state=State.WORKING, usage=Usage(cost_usd=0.05, partial=True))
        used = [Usage(cost_usd=0.02), Usage(), Usage(cost_usd=0.08, partial=True)][n % 3]
        assert sum(ledger.spent(0).values()) <= 1.0 + 1e-9
        if n % 4:
            say(state=State.DONE, result=Result(state=State.DONE, cost_usd=0.01, usage=used))
    assert sum(ledger.spent(0).values()) <= 1.0 + 1e-9
    return answer.outcome
print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(13) as pool:
    print(json.dumps(list(pool.map(call, range(13)))))
"""
    children = [start(code, tmp_path, number) for number in range(PROCESSES)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    got = [json.loads(child.communicate(timeout=100)[0]) for child in children]
    outcomes = [outcome for one in got for outcome in one]
    assert len(outcomes) == 13 * PROCESSES == 104
    assert set(outcomes) == {"reserved", "capped"}
    ledger = Ledger(tmp_path)
    assert outcomes.count("reserved") == len(ledger.workers())
    assert 0.9 < ledger.spent(0)["local"] <= 1.0
    ledger.close()


KILLED = """
ledger = Ledger(Path(sys.argv[1]))
left = int(sys.argv[2])

def step(sql):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)

ledger._store._db.set_trace_callback(step)
one = item("gt-2", cost=0.25, agent_cost=0.5)
ledger.reserve([one])
told = dict(id="gt-2.1", digest=one.digest)
ledger.record("local", [WorkerStatus(state=State.WORKING, usage=Usage(cost_usd=0.625), **told)])
result = Result(state=State.DONE, cost_usd=0.125, usage=Usage(cost_usd=0.25))
ledger.record("local", [WorkerStatus(state=State.DONE, result=result, **told)])
print("finished")
"""


def test_sigkill_at_every_statement_leaves_whole_amounts(tmp_path):
    Ledger(tmp_path / "start").close()
    seen = set()
    for step in range(1, 200):
        folder = tmp_path / str(step)
        shutil.copytree(tmp_path / "start", folder)
        child = start(KILLED, folder, step)
        out, _ = child.communicate(timeout=60)
        ledger = Ledger(folder)
        seen.add(ledger.spent(0).get("local"))
        held = ledger._store.read("SELECT sum(slots), sum(cost) FROM held")
        assert held in ([(None, None)], [(0, 0)], [(1, 750_000_000)], [(1, 875_000_000)])
        ledger.close()
        if out == "finished\n":
            break
        assert child.returncode == -9
    assert seen == {None, 0.75, 0.875, 0.375}


def test_json_of_sqlite_is_there():
    """What the migration uses."""
    db = sqlite3.connect(":memory:")
    assert db.execute("SELECT json_extract(?, '$.a.b')", (json.dumps({"a": {"b": 2}}),)).fetchone()
    db.close()
