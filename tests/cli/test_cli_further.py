"""`retry` and `continue`: further attempts from the order that is written down."""

from __future__ import annotations

import pytest

from outpost_core.agents import AgentPreset
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Result, State
from outpost_testing import Script
from tests.cli.conftest import git

FAILED = Result(state=State.FAILED, reason="agent_failed", agent_began=True)


def test_retry_repeats_the_order_from_anywhere(outpost, monkeypatch, tmp_path):
    monkeypatch.setenv("TOKEN", "secret-value")
    outpost.here.script("x.1", Script(after=0.0, result=FAILED))
    outpost.spawn("x", "--title", "T", "--prompt", "do it", "--secret", "TOKEN", "--env", "A=b")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (one,) = outpost.json("retry", "x")["spawned"]
    assert one["worker"]["id"] == "x.2"
    assert one["worker"]["outpost"] == "here"  # as it was asked for
    first, second = (outpost.json("show", w)["order"] for w in ("x.1", "x.2"))
    assert {**first, "attempt": 2} == second
    assert outpost.here._world.orders["x.2"].secrets["TOKEN"] == "secret-value"


def test_retry_refuses_what_runs_is_unknown_or_lacks_a_secret(outpost, monkeypatch):
    monkeypatch.setenv("TOKEN", "v")
    outpost.spawn("busy")
    outpost.here.script("x.1", Script(after=0.0, result=FAILED))
    outpost.spawn("x", "--secret", "TOKEN")
    assert outpost.json("retry", "busy", code=2)["error"]["type"] == "ConflictError"
    assert outpost.json("retry", "nobody", code=4)["error"]["type"] == "NotFoundError"
    monkeypatch.delenv("TOKEN")
    error = outpost.json("retry", "x", code=2)["error"]
    assert "TOKEN" in error["message"]
    assert [w["id"] for w in outpost.json("show", "x")["attempts"]] == ["x.1"]
    assert outpost.run("retry").exit_code == 2
    assert outpost.run("retry", "x", "--failed").exit_code == 2
    assert outpost.run("retry", "x", "--since", "2h").exit_code == 2
    # of several, those that can are started
    outpost.here.script("y.1", Script(after=0.0, result=FAILED))
    outpost.spawn("y")
    said = outpost.json("retry", "x", "y", code=2)
    assert [s["worker"]["id"] for s in said["spawned"]] == ["y.2"]
    assert [r["issue"] for r in said["refused"]] == ["x"]


def test_retry_failed_takes_those_whose_last_attempt_failed(outpost):
    import time

    for issue in ("a", "b", "c", "old", "good"):
        result = Result(state=State.DONE) if issue == "good" else FAILED
        if issue == "old":
            result = Result(state=State.LOST, reason="lost_process", agent_began=True,
                            finished_at=time.time() - 7200)  # fmt: skip
        outpost.here.script(f"{issue}.1", Script(after=0.0, result=result))
        outpost.spawn(issue)
    outpost.here.script("b.2", Script(after=0.0, result=Result(state=State.DONE)))
    outpost.ok("workers")
    outpost.ok("retry", "b", "--wait")
    outpost.ok("clean", "c")
    said = outpost.json("retry", "--failed", "--since", "1h")
    assert [s["worker"]["id"] for s in said["spawned"]] == ["a.2"]
    assert [s["worker"]["id"] for s in outpost.json("retry", "--failed")["spawned"]] == ["old.2"]
    assert outpost.json("retry", "--failed")["spawned"] == []
    assert "nothing failed" in outpost.run("retry", "--failed").stderr


def test_retry_of_what_never_began_keeps_its_number(outpost):
    never = Result(state=State.FAILED, reason="base_not_found", agent_began=False)
    outpost.here.script("x.1", Script(after=0.0, result=never))
    outpost.spawn("x")
    outpost.ok("workers")
    outpost.here.script("x.1", Script())
    (one,) = outpost.json("retry", "x")["spawned"]
    assert (one["worker"]["id"], one["worker"]["status"]) == ("x.1", "working")


class Presets:
    """An agent that can continue with a session, and one that cannot."""

    @hookimpl
    def outpost_agents(self) -> dict[str, AgentPreset]:
        usual = ("remembers", "--json", "--", "{prompt}")
        return {
            "remembers": AgentPreset(
                name="remembers", headless=usual, interactive=None,
                resume=("remembers", "--session={session}", "--json", "--", "{prompt}"),
            ),
            "forgets": AgentPreset(name="forgets", headless=usual, interactive=None),
        }  # fmt: skip


@pytest.fixture
def delivered(outpost):
    outpost.plugins.append(Presets())
    for number, agent in enumerate(("remembers", "forgets")):
        done = Result(
            state=State.DONE, branch=f"outpost/x{number}-1", commit="c" * 40, session="s-1",
            agent_began=True, message="wrote it",
        )  # fmt: skip
        outpost.here.script(f"x{number}.1", Script(after=0.0, result=done))
        words = ("--rig", "https://example.com/a.git", "--agent", agent, "--title", "T")
        outpost.ok("spawn", f"x{number}", *words, "--on", "here")
    outpost.ok("workers")
    return outpost


def test_continue_goes_on_with_branch_and_session(delivered):
    result = delivered.run("continue", "x0", "also", "add a test")
    assert result.exit_code == 0, result.stderr
    assert "x0.2: continues with the session s-1 at here" in result.stderr
    order = delivered.here._world.orders["x0.2"]
    assert order.agent.argv == ("remembers", "--session=s-1", "--json", "--", "{prompt}")
    assert order.resume == "c" * 40
    assert order.delivery.branch == "outpost/x0-1"
    assert order.prompt.startswith("also add a test\n")
    # once more, from what that one said
    done = Result(state=State.DONE, branch="outpost/x0-1", commit="d" * 40, session="s-2")
    delivered.here.finish("x0.2", done)
    delivered.ok("continue", "x0", "and docs")
    order = delivered.here._world.orders["x0.3"]
    assert order.agent.argv == ("remembers", "--session=s-2", "--json", "--", "{prompt}")
    assert order.resume == "d" * 40


def test_continue_tells_what_was_done_where_there_is_no_session(delivered):
    for words in (("x1", "more"), ("x0", "more", "--on", "there")):
        delivered.ok("continue", *words)
    failed = Result(state=State.FAILED, reason="agent_failed", session="s")
    delivered.there.finish("x0.2", failed)
    delivered.ok("continue", "x0", "more", "--fresh", "--on", "there")
    argv = delivered.there._world.orders["x0.3"].agent.argv
    assert argv == ("remembers", "--json", "--", "{prompt}")
    for order in (delivered.here._world.orders["x1.2"], delivered.there._world.orders["x0.2"]):
        assert order.agent.argv == ("remembers", "--json", "--", "{prompt}")
        assert order.resume == "c" * 40
        assert order.prompt.startswith("more\n")
        for part in (
            "ended as done (ok): wrote it.",
            f"on the branch outpost/{order.issue.id}-1",
            "issue x",
        ):
            assert part in order.prompt
        assert "Work on issue x" in order.prompt  # the task of before


def test_continue_refuses_what_runs_and_nothing_said(delivered):
    delivered.spawn("busy")
    assert delivered.json("continue", "busy", "more", code=2)["error"]["type"] == "ConflictError"
    assert delivered.json("continue", "x0", " ", code=2)["error"]
    assert delivered.json("retry", "x0", code=2)["error"]["hint"].startswith("outpost continue x0")


def test_what_was_said_besides_is_said_again_with_a_session():
    from outpost_manager.placing.attempts import resumed

    preset = Presets().outpost_agents()["remembers"]
    first = ("remembers", "--json", "--model", "big", "--", "{prompt}")
    second = resumed(preset, first, "s-1")
    assert second == (
        "remembers", "--session=s-1", "--json", "--model", "big", "--", "{prompt}"
    )  # fmt: skip
    assert resumed(preset, second, "s-2") == (
        "remembers", "--session=s-2", "--json", "--model", "big", "--", "{prompt}"
    )  # fmt: skip
    assert resumed(preset, ("other", "{prompt}"), "s-1") is None


# --- with a real repository -----------------------------------------------------------------------


def test_continue_fast_forwards_the_delivered_branch(rig):
    script = 'echo "$OUTPOST_ATTEMPT" >"new$OUTPOST_ATTEMPT"'
    first = rig("spawn", "x", "--rig", str(rig.bare), "--wait", "--", "sh", "-c", script)
    assert first.returncode == 0, first.stderr
    second = rig("continue", "x", "also this", "--wait")
    assert second.returncode == 0, (second.stdout, second.stderr)
    branch = first.stdout.split("→ ")[1].split()[0]
    assert f"→ {branch} " in second.stdout
    assert git("ls-tree", "--name-only", branch, cwd=rig.bare).split() == ["new1", "new2", "one"]
    assert git("rev-list", "--count", f"main..{branch}", cwd=rig.bare) == "2"


def test_continue_takes_what_others_pushed_to_the_branch(rig):
    script = 'echo "$OUTPOST_ATTEMPT" >"new$OUTPOST_ATTEMPT"'
    first = rig("spawn", "x", "--rig", str(rig.bare), "--wait", "--", "sh", "-c", script)
    branch = first.stdout.split("→ ")[1].split()[0]
    git("fetch", "-q", "origin", cwd=rig.clone)
    git("checkout", "-q", branch, cwd=rig.clone)
    (rig.clone / "review").write_text("r\n")
    git("add", "review", cwd=rig.clone)
    git("commit", "-q", "-m", "review", cwd=rig.clone)
    git("push", "-q", "origin", branch, cwd=rig.clone)
    second = rig("continue", "x", "also this", "--wait")
    assert f"→ {branch} " in second.stdout, (second.stdout, second.stderr)
    assert git("ls-tree", "--name-only", branch, cwd=rig.bare).split() == [
        "new1", "new2", "one", "review",
    ]  # fmt: skip
