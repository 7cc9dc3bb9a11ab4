"""Budgets, forecasts, accounts and breakers on the command line."""

from __future__ import annotations

import json

import pytest

from outpost_core.types import Agent, Issue, Limits, Order, Result, State, Usage
from outpost_manager.ledger import Ledger, QueueItem

HEAD = "outposts:\n  - {name: here, type: fake, max_workers: 4}\n"
BUDGETS = """
budgets:
  - {name: daily, window: day, usd: 1.0}
  - {name: nightly, window: week, usd: 5.0, label: nightly}
"""
PAID = ("--max-agent-cost", "0.4")


@pytest.fixture
def ledger(outpost):
    outpost.ok("list")  # makes it
    opened = Ledger(outpost.state)
    yield opened
    opened.close()


def finish(outpost, worker, usd):
    usage = Usage(cost_usd=usd)
    outpost.here.finish(worker, Result(state=State.DONE, exit_code=0, usage=usage))
    outpost.ok("workers")


def test_cost_shows_each_budget_and_a_spawn_beyond_it_is_refused(outpost):
    outpost.config.write_text(HEAD + BUDGETS)
    outpost.spawn("gt-1", *PAID)
    outpost.spawn("gt-2", *PAID, "--label", "nightly")
    daily, nightly = outpost.json("cost")["budgets"]
    assert (daily["name"], daily["used_usd"], daily["left_usd"]) == ("daily", 0.8, 0.2)
    assert (nightly["reserved_usd"], nightly["counts"]["label"]) == (0.4, ["nightly"])
    shown = outpost.ok("cost")
    assert "BUDGET" in shown
    assert "80%" in shown
    assert "daily: $0.2000 are left" in shown
    refused = outpost.run("spawn", "gt-3", "--no-rig", *PAID, "--", "true")
    assert refused.exit_code == 3
    assert "budget daily: 0.80 USD of 1.00 USD are reserved or spent" in refused.stderr
    words = ("spawn", "gt-3", "--no-rig", *PAID, "--", "true")
    (one,) = json.loads(outpost.run("--json", *words).stdout)["refused"]
    assert one["error"]["type"] == "PlacementError"
    explained = outpost.ok("explain", "gt-3", "--no-rig", *PAID, "--", "true", code=3)
    assert "budget daily" in explained
    finish(outpost, "gt-1.1", 0.1)
    outpost.ok(*words)
    warned, *_again = [e for e in outpost.json("events")["events"] if e["kind"] == "budget"]
    assert (warned["data"]["budget"], warned["data"]["share"]) == ("daily", 0.8)


def test_a_bar_is_drawn_in_a_terminal(outpost, monkeypatch):
    outpost.config.write_text(HEAD + BUDGETS)
    outpost.spawn("gt-1", *PAID)
    monkeypatch.setenv("COLUMNS", "120")
    assert "████████░░░░░░░░░░░░" in outpost.ok("cost")


def queued(issue, usd, labels=(), agent="claude"):
    return QueueItem(
        order=Order(
            issue=Issue(id=issue, labels=tuple(labels)),
            agent=Agent(argv=("true",), name=agent),
            limits=Limits(max_agent_cost_usd=usd),
        )
    )


def test_a_forecast_says_what_waits_will_cost_and_what_fits(outpost, ledger):
    outpost.config.write_text(HEAD + BUDGETS)
    outpost.spawn("gt-1", *PAID)
    finish(outpost, "gt-1.1", 0.2)
    ledger.queue.add(
        [queued("a", 0.5), queued("b", 0.5, ["nightly"]), queued("c", None), queued("d", 0.25)]
    )
    found = outpost.json("cost", "--forecast")["forecast"]
    assert (found["waiting"], found["worst_usd"], found["usual_usd"]) == (4, 1.25, 0.8)
    assert (found["unlimited"], found["unknown"]) == (1, 0)
    daily, nightly = found["budgets"]
    assert (daily["left_usd"], daily["fit_at_worst"], daily["fit_usually"]) == (0.8, 1, 4)
    assert (nightly["waiting"], nightly["worst_usd"], nightly["fit_at_worst"]) == (1, 0.5, 1)
    assert daily["used_up_at"] is not None
    assert nightly["used_up_at"] is None
    shown = outpost.ok("cost", "--forecast")
    assert "4 orders wait: $1.25 at worst" in shown
    assert "1 of them have no limit" in shown
    assert outpost.json("cost")["forecast"] is None


def test_a_forecast_makes_up_no_usual_cost(outpost, ledger):
    outpost.config.write_text(HEAD + BUDGETS)
    ledger.queue.add([queued("a", 0.5)])
    shown = outpost.ok("cost", "--forecast")
    assert "1 order waits: $0.5000 at worst\n" in shown
    assert "?" in shown


def test_a_forecast_of_nothing(outpost):
    assert "nothing waits in the queue" in outpost.ok("cost", "--forecast")


def test_accounts_show_what_each_has_taken_and_what_keeps_it(outpost, ledger):
    assert "no accounts" in outpost.ok("accounts")
    outpost.config.write_text(
        HEAD + "accounts:\n  - {name: team-a, agent: command, max_workers: 2, usd_per_day: 1.5,"
        " tokens_per_hour: 1000}\n"
    )
    outpost.spawn("gt-1", *PAID)
    with ledger._store.write() as db:
        db.execute("INSERT INTO parked VALUES ('codex', 'big', 4e9, 0, 'usage limit', '', 1)")
    team, codex = outpost.json("accounts")["accounts"]
    assert (team["name"], team["running"], team["max_workers"]) == ("team-a", 1, 2)
    assert team["limits"] == [
        {"unit": "usd", "window": "day", "used": 0.4, "most": 1.5},
        {"unit": "tokens", "window": "hour", "used": 0, "most": 1000},
    ]
    assert (codex["configured"], codex["parked"][0]["model"]) == (False, "big")
    shown = outpost.ok("accounts")
    assert "$0.4000 of $1.50 a day, 0 of 1,000 tokens a hour" in shown
    assert "codex is parked for big until" in shown


def test_breakers_are_shown_and_closed_by_hand(outpost, ledger):
    for _ in range(5):
        ledger.breakers.failed("outpost", "here", "no route")
        ledger.breakers.failed("account", "codex", "not_logged_in")
    here = outpost.json("list")["outposts"][0]
    assert (here["breaker"]["state"], here["breaker"]["failures"]) == ("open", 5)
    shown = outpost.ok("list")
    assert "outpost here: its breaker is open after 5 failures in a row (no route), until" in shown
    assert "outpost list --reset here" in shown
    assert "breaker is open" in outpost.ok("accounts")
    assert "breaker is open" not in outpost.ok("list", "--reset", "here")
    assert outpost.json("list")["outposts"][0]["breaker"] is None
    assert outpost.json("accounts", "--reset", "codex")["accounts"] == []
    assert outpost.run("list", "--reset", "nowhere").exit_code == 4
    refused = outpost.run("accounts", "--reset", "nobody")
    assert "nothing is known of an account 'nobody'" in refused.stderr
