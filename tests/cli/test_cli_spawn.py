from __future__ import annotations

import json

import pytest

from outpost_core.types import Result, State
from outpost_testing import Script


def test_spawn_says_where_and_shows_its_stages(outpost):
    result = outpost.run("spawn", "gt-1", "--no-rig", "--", "true")
    assert result.exit_code == 0
    assert result.stdout == "gt-1.1 working at here\n"
    stages = [line.partition(": ")[2] for line in result.stderr.splitlines()]
    assert stages == [
        "placing", "reserving at here", "preparing at here", "starting at here", "working at here"
    ]  # fmt: skip


def test_the_same_command_is_the_same_worker(outpost):
    assert not outpost.spawn("gt-1")["adopted"]
    assert outpost.spawn("gt-1")["adopted"]
    assert "gt-1.1 is working at here since" in outpost.ok(
        "spawn", "gt-1", "--no-rig", "--on", "here", "--", "true"
    )
    (refused,) = outpost.json("spawn", "gt-1", "--no-rig", "--", "false", code=2)["refused"]
    assert refused["error"]["type"] == "ConflictError"


def test_all_flags_reach_the_order(outpost, monkeypatch):
    monkeypatch.setenv("TOKEN", "hunter2")
    outpost.ok(
        "spawn", "gt-1", "--rig", "https://example.com/a.git", "--base", "dev",
        "--branch", "b/{issue}", "--on", "there", "--prompt", "do it",
        "--title", "T", "--kind", "bug", "--priority", "p3",
        "--estimate", "1h30m", "--label", "x", "--label", "y", "--env", "A=1=2",
        "--secret", "TOKEN",
        "--context", "n=3", "--context", "s=word", "--timeout", "2h", "--idle-timeout", "90s",
        "--grace", "5s", "--checkpoint-every", "0", "--cpu", "1.5", "--memory", "2GiB",
        "--depth", "1", "--attempt", "7", "--", "make", "--option", "it's",
    )  # fmt: skip
    order = outpost.there.order("gt-1.7")
    assert order.rig == "https://example.com/a.git"
    assert (order.base, order.depth, order.attempt) == ("dev", 1, 7)
    assert order.delivery is not None
    assert order.delivery.branch == "b/gt-1"
    assert order.agent.argv == ("make", "--option", "it's")
    assert order.prompt == "do it"
    assert (order.issue.title, order.issue.kind, order.issue.priority) == ("T", "bug", 3)
    assert (order.issue.estimate, order.issue.labels) == (5400.0, ("x", "y"))
    assert order.env == {"A": "1=2"}
    assert dict(order.secrets) == {"TOKEN": "hunter2"}
    assert order.context == {"n": 3, "s": "word"}
    limits = order.limits
    assert (limits.timeout, limits.idle_timeout, limits.grace) == (7200.0, 90.0, 5.0)
    assert (limits.checkpoint_every, limits.cpu, limits.memory) == (0.0, 1.5, 2 * 1024**3)
    assert "hunter2" not in outpost.ok("show", "gt-1") + json.dumps(outpost.json("show", "gt-1"))


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("a b",),
        ("gt-1", "gt-1"),
        ("gt-1", "--priority", "P9"),
        ("gt-1", "--timeout", "soon"),
        ("gt-1", "--memory", "much"),
        ("gt-1", "--env", "A"),
        ("gt-1", "--secret", "NOT_SET_ANYWHERE"),
        ("gt-1", "--attempt", "0"),
        ("gt-1", "--attempt", "2", "--again"),
        ("gt-1", "--from-file", "missing.txt"),
        ("gt-1", "gt-2", "--follow"),
        ("gt-1", "--", ""),
    ],
)
def test_mistakes_are_exit_code_2_and_start_nothing(outpost, words):
    more = () if "--" in words else ("--", "true")
    assert outpost.json("spawn", "--no-rig", *words, *more, code=2)["error"]["message"]
    assert outpost.json("workers", "--all") == {"workers": [], "not_told": []}


def test_again_is_the_next_attempt(outpost):
    outpost.spawn("gt-1")
    running = outpost.json("spawn", "gt-1", "--again", "--no-rig", "--", "true", code=2)
    assert running["error"]["type"] == "ConflictError"
    outpost.here.finish("gt-1.1")
    outpost.ok("workers")
    assert outpost.spawn("gt-1", "--again")["worker"]["id"] == "gt-1.2"


def test_many_issues_at_once(outpost):
    said = outpost.json("spawn", "a", "b", "c", "--no-rig", "--", "true")
    assert [s["worker"]["id"] for s in said["spawned"]] == ["a.1", "b.1", "c.1"]
    assert said["refused"] == []


def test_from_a_file(outpost):
    lines = [
        "# urgent ones", "", "a",
        '{"issue": "b", "title": "B", "priority": "P0", "timeout": "90s"}',
        '{"issue": "c", "command": ["echo", "hi"], "labels": ["x"], "no_rig": true}',
    ]  # fmt: skip
    (outpost.folder / "issues").write_text("\n".join(lines))
    words = ("spawn", "--from-file", "issues", "--no-rig", "--priority", "P4", "--on", "there")
    outpost.ok(*words, "--", "true")
    there = outpost.there
    assert there.order("a.1").issue.priority == 4
    assert there.order("b.1").issue.priority == 0
    assert there.order("b.1").limits.timeout == 90.0
    assert there.order("c.1").agent.argv == ("echo", "hi")
    said = outpost.json("spawn", "--from-file", "-", "--no-rig", "--", "true", stdin="d\ne\n")
    assert [s["worker"]["id"] for s in said["spawned"]] == ["d.1", "e.1"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"issue": "a"', "not a JSON object"),
        ('{"title": "a"}', "'issue' is missing"),
        ('{"issue": "a", "pririty": 1}', "unknown field 'pririty'"),
        ('{"issue": "a", "priority": 7}', "P0 to P4"),
        ('{"issue": "a", "labels": "x"}', "labels: a list of words"),
        ('{"issue": "a", "env": {"A": 1}}', "env: names and texts"),
        ('{"issue": "a", "again": 1}', "again: true or false"),
        ('{"issue": "a", "attempt": "2"}', "attempt: a number"),
        ('{"issue": "a", "title": 2}', "title: text"),
        ('{"issue": "a", "timeout": []}', "--timeout"),
        ('{"issue": 5}', "issue: text"),
    ],
)
def test_a_wrong_line_is_named(outpost, line, complaint):
    (outpost.folder / "issues").write_text(f"ok\n{line}\n")
    error = outpost.json("spawn", "--from-file", "issues", "--no-rig", "--", "true", code=2)[
        "error"
    ]
    assert error["message"].startswith("issues:2: ")
    assert complaint in error["message"]


def test_a_prompt_from_standard_input(outpost):
    outpost.ok(
        "spawn", "a", "--no-rig", "--prompt-file", "-", "--on", "here", "--", "x", stdin="do\nit\n"
    )
    assert outpost.here.order("a.1").prompt == "do\nit\n"


def test_wait_ends_with_the_outcome(outpost):
    failed = Result(state=State.FAILED, reason="agent_failed", message="it broke", exit_code=3)
    outpost.here.script("bad.1", Script(after=0.05, result=failed))
    outpost.here.script("good.1", Script(after=0.05))
    words = ("--no-rig", "--on", "here", "--wait", "--", "x")
    assert outpost.ok("spawn", "good", *words) == "good.1 done at here\n"
    text = outpost.ok("spawn", "bad", *words, code=1)
    assert text == "bad.1 failed at here (agent_failed)\n  it broke\n  → outpost logs bad.1\n"


def test_follow_gives_the_output_alone_on_standard_output(outpost):
    outpost.here.script("a.1", Script(output=b"\xff\x00one\ntwo", after=0.05))
    result = outpost.run("spawn", "a", "--no-rig", "--on", "here", "--follow", "--", "x")
    assert result.stdout_bytes == b"\xff\x00one\ntwo"
    assert "a.1 done at here" in result.stderr


def test_follow_with_json_keeps_standard_output_for_the_answer(outpost):
    outpost.here.script("a.1", Script(output=b"output\n", after=0.05))
    result = outpost.run("spawn", "a", "--no-rig", "--on", "here", "--follow", "--json", "--", "x")
    assert json.loads(result.stdout)["spawned"][0]["worker"]["status"] == "done"
    assert result.stderr == "output\n"


def test_nobody_takes_it(outpost):
    outpost.here.refuse("no room")
    outpost.there.refuse("no beds")
    result = outpost.run("spawn", "a", "--no-rig", "--", "x")
    assert result.exit_code == 3
    assert "no room" in result.stderr
    assert "no beds" in result.stderr
    assert result.stderr.count("error:") == 1
    waited = outpost.run("spawn", "a", "--no-rig", "--wait", "--", "x")
    assert (waited.exit_code, waited.stderr.count("error:")) == (3, 1)
    said = outpost.json("spawn", "a", "b", "--no-rig", "--", "x", code=3)
    assert [r["issue"] for r in said["refused"]] == ["a", "b"]


def test_the_next_outpost_is_tried_and_the_reason_kept(outpost):
    outpost.here.refuse("no room")
    result = outpost.run("spawn", "a", "--no-rig", "--", "x")
    assert result.exit_code == 0
    assert "not at here: here: no room" in result.stderr
    assert "tried here: here: no room" in outpost.ok("show", "a")


def test_an_unknown_outpost(outpost):
    assert outpost.json("spawn", "a", "--no-rig", "--on", "heer", "--", "x", code=4)["error"][
        "hint"
    ]


def test_explain_and_dry_run_start_nothing(outpost):
    text = outpost.ok("explain", "a", "--no-rig", "--", "x")
    assert "RANK" in text
    assert [line.split()[:3] for line in text.splitlines()[-2:]] == [
        ["1", "here", "yes"], ["2", "there", "yes"]
    ]  # fmt: skip
    assert outpost.ok("spawn", "a", "--no-rig", "--dry-run", "--", "x") == text
    (said,) = outpost.json("explain", "a", "--no-rig", "--", "x")["explanations"]
    assert said["worker"] == "a.1"
    assert outpost.json("workers", "--all") == {"workers": [], "not_told": []}


def test_explain_is_3_when_nobody_would(outpost):
    outpost.here.refuse("closed")
    outpost.there.cut("dead")
    text = outpost.ok("explain", "a", "--no-rig", "--", "x", code=3)
    assert "closed" in text
    assert "dead" in text


def test_a_conflict_says_what_differs(outpost):
    outpost.spawn("gt-1")
    result = outpost.run("spawn", "gt-1", "--no-rig", "--title", "T", "--", "false")
    assert result.exit_code == 2
    assert "error: gt-1.1 exists with another order (not the same: " in result.stderr
    assert "title, agent argv, prompt)" in result.stderr


def test_a_command_outside_of_a_repository_is_refused_until_that_is_meant(outpost):
    words = ("--on", "here", "--", "true")
    refused = outpost.run("spawn", "a", *words)
    assert refused.exit_code == 2
    assert "no repository was named, and this folder is in none" in refused.stderr
    assert "--no-rig" in refused.stderr
    assert outpost.json("workers", "--all")["workers"] == []
    assert "repository" not in outpost.run("spawn", "b", "--no-rig", *words).stderr


def test_a_missing_agent_says_how_to_get_it(outpost):
    missing = Result(state=State.FAILED, reason="command_not_found", exit_code=127)
    outpost.here.script("a.1", Script(after=0.0, result=missing))
    words = (
        "spawn",
        "a",
        "--title",
        "x",
        "--no-rig",
        "--on",
        "here",
        "--agent",
        "claude",
        "--wait",
    )
    assert "→ npm install -g @anthropic-ai/claude-code" in outpost.ok(*words, code=1)


def test_explain_names_the_place_first(outpost):
    assert outpost.ok("explain", "a", "--no-rig", "--", "x").startswith("a.1 → here\nrule: ")
    outpost.config.write_text("outposts:\n  - {name: far, type: ssh, max_workers: 8}\n")
    assert outpost.ok("explain", "a", "--no-rig", "--", "x", code=3).startswith("a.1 → nowhere\n")
