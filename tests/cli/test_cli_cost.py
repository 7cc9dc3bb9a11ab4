"""What was spent, and caps that hold, on the command line."""

from __future__ import annotations

import pytest

from outpost_core.types import Result, State, Usage
from outpost_testing import FakeOptions, FakeOutpost


def cap(outpost, usd, more=""):
    outpost.config.write_text(
        f"outposts:\n  - {{name: here, type: fake, max_workers: 4, cost_cap_hourly: {usd}}}\n{more}"
    )
    outpost.here = FakeOutpost("here", FakeOptions(max_workers=4, cost_cap_hourly=usd))


def finish(outpost, worker, **usage):
    result = Result(state=State.DONE, exit_code=0, usage=Usage(**usage))
    outpost.here.finish(worker, result)
    outpost.ok("workers")


def test_totals_by_day_outpost_agent_and_rig(outpost):
    outpost.spawn("gt-1")
    outpost.spawn("gt-2", "--max-agent-cost", "0.25")
    outpost.spawn("gt-3")
    finish(outpost, "gt-1.1", cost_usd=0.0061, input_tokens=500, cached_tokens=100, output_tokens=8)
    finish(outpost, "gt-2.1")
    answer = outpost.json("cost")
    (day,) = answer["totals"]
    assert (day["workers"], day["running"], day["unknown"]) == (3, 1, 0)
    assert (day["machine_usd"], day["agent_usd"], day["total_usd"]) == (0.0, 0.2561, 0.2561)
    assert (day["input_tokens"], day["cached_tokens"], day["output_tokens"]) == (500, 100, 8)
    assert day["estimated"], "of gt-2 the worst case counts"
    outpost.ok("clean", "--all")
    finish(outpost, "gt-3.1")
    for by, key in (("outpost", "here"), ("agent", "command"), ("rig", "")):
        (total,) = outpost.json("cost", "--by", by)["totals"]
        assert (total["key"], total["agent_usd"], total["unknown"]) == (key, 0.2561, 1)
    shown = outpost.ok("cost", "--by", "agent", "--since", "2h")
    assert "~$0.2561" in shown
    assert "of 1 worker spent is not known" in shown


def test_what_an_outpost_costs_without_a_worker_is_shown_and_in_no_total(outpost):
    assert "an hour without a worker" not in outpost.ok("list") + outpost.ok("cost")
    assert outpost.json("cost")["standing"] == []
    text = outpost.config.read_text()
    outpost.config.write_text(text.replace("type: fake", "type: fake, standing: 0.054", 1))
    said = "here: $0.0540 an hour without a worker ($1.30 a day), to be warm"
    listed = outpost.ok("list")
    assert said in listed
    assert listed.count("$0.0540") == 2, "it was spent in this hour, too"
    assert said in outpost.ok("cost")
    answer = outpost.json("cost")
    assert (answer["standing"], answer["total"]["total_usd"]) == (
        [{"outpost": "here", "usd_hourly": 0.054}], 0.0,
    )  # fmt: skip
    here = outpost.json("list")["outposts"][0]
    assert (here["standing_usd"], here["spent_usd"]) == (0.054, 0.054)


def test_nothing_was_spent_yet(outpost):
    assert outpost.ok("cost") == "no workers in the last 30d\n"
    assert outpost.json("cost", "--since", "0")["since"] is None


def test_a_cap_refuses_what_nobody_can_see_and_names_the_flag(outpost):
    cap(outpost, 1.0)
    refused = outpost.run("spawn", "gt-1", "--no-rig", "--", "true")
    assert refused.exit_code == 3
    assert "nobody can see what this command spends" in refused.stderr
    assert "--max-agent-cost" in refused.stderr
    refused = outpost.run("spawn", "gt-1", "--no-rig", "--title", "x", "--agent", "claude")
    assert refused.exit_code == 3
    assert "claude may spend without a limit" in refused.stderr
    assert "max_agent_cost_usd in defaults" in refused.stderr
    assert outpost.json("workers", "--all")["workers"] == []
    outpost.ok("spawn", "gt-1", "--no-rig", "--max-agent-cost", "0", "--", "true")
    (here,) = outpost.json("list")["outposts"]
    assert here["spent_usd"] == 0.0


def test_three_agents_do_not_pass_a_cap_of_a_tenth_of_a_cent(outpost):
    cap(outpost, 0.001)
    words = ("--no-rig", "--title", "x", "--agent", "claude", "--max-agent-cost", "0.001")
    outpost.ok("spawn", "gt-1", *words)
    finish(outpost, "gt-1.1", cost_usd=0.0061)
    for issue in ("gt-2", "gt-3"):
        refused = outpost.run("spawn", issue, *words)
        assert refused.exit_code == 3
        assert "hourly cap: $0.0061 of $0.001 used, this needs $0.001" in refused.stderr
    (here,) = outpost.json("list")["outposts"]
    assert here["spent_usd"] == 0.0061
    assert "$0.0061/$0.0010" in outpost.ok("list")
    assert "$0.0061" in outpost.ok("workers", "--all")
    (worker,) = outpost.json("workers", "--all")["workers"]
    assert (worker["cost_usd"], worker["agent_cost_usd"], worker["total_cost_usd"]) == (
        0.0, 0.0061, 0.0061,
    )  # fmt: skip


def test_explain_shows_the_worst_case_of_machine_and_agent(outpost):
    cap(outpost, 1.0)
    shown = outpost.ok("explain", "gt-1", "--no-rig", "--max-agent-cost", "0.4", "--", "true")
    assert "COSTS AT MOST" in shown
    assert "$0.4000" in shown
    words = ("explain", "gt-1", "--no-rig", "--max-agent-cost", "0.4", "--", "true")
    (verdict,) = outpost.json(*words)["explanations"][0]["verdicts"]
    assert (verdict["machine_cost"], verdict["agent_cost"]) == (0.0, 0.4)


@pytest.mark.parametrize("usd", ["-1", "nan", "inf", "2000000"])
def test_what_is_no_amount_is_refused(outpost, usd):
    refused = outpost.run("spawn", "gt-1", "--no-rig", "--max-agent-cost", usd, "--", "true")
    assert refused.exit_code == 2
    assert "max_agent_cost" in refused.stderr
    assert outpost.json("workers", "--all")["workers"] == []


def test_the_configuration_sets_limit_and_prices(outpost):
    cap(
        outpost, 1.0,
        "defaults: {max_agent_cost_usd: 0.5}\n"
        "prices: {gpt-5: {input: 1, output: 3}, '': {input: 9, cached: 8, output: 10}}\n",
    )  # fmt: skip
    outpost.ok("spawn", "gt-1", "--no-rig", "--title", "x", "--agent", "codex")
    order = outpost.json("show", "gt-1")["order"]
    assert order["limits"]["max_agent_cost_usd"] == 0.5
    assert order["agent"]["prices"] == {"": [9.0, 8.0, 10.0], "gpt-5": [1.0, 1.0, 3.0]}
    outpost.ok("spawn", "gt-2", "--no-rig", "--title", "x", "--agent", "claude")
    order = outpost.json("show", "gt-2")["order"]
    assert "0.500000" in order["agent"]["argv"]
    assert order["agent"]["prices"] == {}
    refused = outpost.run("spawn", "gt-3", "--no-rig", "--title", "x", "--max-agent-cost", "0")
    assert refused.exit_code == 2
    assert "cannot work with that" in refused.stderr
    assert outpost.json("config", "check")["warnings"] == []
    shown = {v["key"]: v["value"] for v in outpost.json("config", "show")["values"]}
    assert shown["prices.gpt-5.cached"] == 1.0


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("prices: [1]", "prices is a map of models"),
        ("prices: {gpt-5: {input: 1}}", "needs output"),
        ("prices: {gpt-5: {input: 1, outptu: 2}}", "outptu"),
        ("prices: {gpt-5: {input: -1, output: 2}}", "input must be"),
        ("prices: {gpt-5: 3}", "gpt-5"),
    ],
)
def test_a_mistake_in_prices_has_its_place(outpost, said, words):
    outpost.config.write_text(f"outposts:\n  - {{name: here, type: fake}}\n{said}\n")
    refused = outpost.run("config", "check")
    assert refused.exit_code == 2
    assert words in refused.stderr
    assert "outposts.yaml:3:" in refused.stderr


def test_config_check_warns_of_a_cap_that_takes_no_order_without_a_limit(outpost):
    cap(outpost, 5.0)
    (warning,) = outpost.json("config", "check")["warnings"]
    assert "outposts.yaml:2:" in warning
    assert "max_agent_cost_usd" in warning
