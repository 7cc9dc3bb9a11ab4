"""What a supervisor does because of what its agent says of itself while it runs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from outpost_core.types import Delivery, State
from outpost_testing.gitrig import GitRig
from outpost_worker.folder import files
from outpost_worker.recovery import recover
from outpost_worker.run import stop

CLAUDE = "claude-stream-json"
DONE = {"type": "result", "subtype": "success", "result": "Made it.", "total_cost_usd": 0.25}
FAILED = {"type": "result", "subtype": "error_during_execution", "is_error": True, "errors": ["x"]}
#: of each kind, the record that says that all is well.
ENDS = {
    CLAUDE: DONE,
    "codex-json": {"type": "turn.completed", "usage": {"input_tokens": 7}},
    "gemini-json": {"type": "result", "status": "success", "stats": {"input_tokens": 7}},
    "opencode-json": {"type": "step_finish", "part": {"reason": "stop", "tokens": {"input": 7}}},
}
PRICES = {"claude-": (3.0, 0.3, 15.0)}


def said(identity: str, into: int = 1000, out: int = 100) -> dict:
    usage = {"input_tokens": into, "cache_read_input_tokens": 500, "output_tokens": out}
    message = {"id": identity, "model": "claude-x", "usage": usage, "content": []}
    return {"type": "assistant", "message": message}


def script(*records: dict, then: str = "sleep 300") -> str:
    lines = "\n".join(json.dumps(record) for record in records)
    return f"cat <<'EOF'\n{lines}\nEOF\n{then}"


def priced(order, prices=PRICES):
    return replace(order, agent=replace(order.agent, prices=prices))


@pytest.mark.parametrize("kind", ENDS)
def test_an_agent_that_reports_success_and_hangs_is_ended_and_its_work_counts(far, kind):
    order = far.shell(script(ENDS[kind]), output=kind, limits={"final_grace": 0.3, "grace": 1.0})
    folder, result = far.run(order)
    assert (result.state, result.reason) == (State.DONE, "ok"), result.message
    assert "did not end, and was ended" in result.message
    assert not result.usage.partial
    assert not far.left(folder)


def test_the_work_of_one_that_hung_is_delivered(far, tmp_path):
    rig = GitRig(tmp_path)
    order = far.shell(
        "echo work >made.txt\n" + script(DONE), output=CLAUDE, rig=str(rig.path), prompt="x",
        delivery=Delivery(branch="b", message="m"), limits={"final_grace": 0.3, "grace": 1.0},
    )  # fmt: skip
    _, result = far.run(order)
    assert (result.state, result.branch) == (State.DONE, "b"), result.message
    assert "was ended" in result.message
    assert result.usage.cost_usd == 0.25


def test_one_that_reports_failure_and_hangs_has_failed(far):
    limits = {"final_grace": 0.3, "grace": 1.0}
    _, result = far.run(far.shell(script(FAILED), output=CLAUDE, limits=limits))
    assert (result.state, result.reason) == (State.FAILED, "agent_failed")
    assert result.message.startswith("x (")


@pytest.mark.parametrize("limit", ["timeout", "idle_timeout"])
def test_a_limit_that_passes_within_the_grace_is_no_failure(far, limit):
    order = far.shell(script(DONE), output=CLAUDE, limits={limit: 1.0, "grace": 1.0})
    _, result = far.run(order)
    assert (result.state, result.reason) == (State.DONE, "ok"), result.message


def test_without_a_grace_it_may_go_on(far):
    order = far.shell(
        script(DONE, then="sleep 1; echo after"), output=CLAUDE, limits={"final_grace": 0.0}
    )
    folder, result = far.run(order)
    assert (result.state, result.message) == (State.DONE, "Made it.")
    assert (folder / files.LOG).read_text().endswith("after\n")


def test_one_that_goes_on_with_its_work_after_a_result_has_not_ended(far):
    again = script(said("m2"), then="sleep 1.2\n" + script(DONE, then="echo over"))
    order = far.shell(script(DONE, then=again), output=CLAUDE, limits={"final_grace": 0.6})
    folder, result = far.run(order)
    assert result.state is State.DONE
    assert "was ended" not in result.message
    assert (folder / files.LOG).read_text().endswith("over\n")


@pytest.mark.parametrize("limits", [{"timeout": 1.0, "grace": 1.0}, None], ids=["timeout", "stop"])
def test_what_one_used_that_was_ended_is_summed_and_partial(far, limits):
    records = (said("m1"), said("m1"), said("m2"))  # a message comes once for each block of it
    order = priced(far.shell(script(*records), output=CLAUDE, limits=limits or {}))
    folder = far.publish(order)
    running = far.start(folder)
    if limits is None:
        far.wait(
            lambda: (folder / files.LOG).exists() and b"m2" in (folder / files.LOG).read_bytes()
        )
        stop.request(folder, 1.0)
    running.wait(30)
    usage = far.result(folder).usage
    assert (usage.input_tokens, usage.cached_tokens, usage.output_tokens) == (3000, 1000, 200)
    assert (usage.turns, usage.model, usage.partial, usage.estimated) == (2, "claude-x", True, True)
    assert usage.cost_usd == pytest.approx((2000 * 3 + 1000 * 0.3 + 200 * 15) / 1e6)


def test_what_one_used_whose_supervisor_was_killed_is_read_from_its_log(far):
    order = far.shell(script({"type": "system", "subtype": "init", "session_id": "s"}, said("m1")),
                      output=CLAUDE)  # fmt: skip
    folder = far.publish(order)
    running = far.start(folder)
    far.wait(lambda: (folder / files.LOG).exists() and b"m1" in (folder / files.LOG).read_bytes())
    far.kill(running)
    result = recover.recover(folder)
    assert (result.state, result.session) == (State.LOST, "s")
    assert (result.usage.input_tokens, result.usage.partial) == (1500, True)


def test_what_one_asks_shows_until_it_works_on(far, tmp_path):
    """Nobody can answer it there, but whoever looks sees what it waits for."""
    asks = {"name": "AskUserQuestion", "input": {"questions": [{"question": "Which one?"}]}}
    content = [{"type": "tool_use", **asks}]
    more = tmp_path / "more"
    os.mkfifo(more)
    script_ = script({"type": "assistant", "message": {"content": content}}, then=f"cat {more}")
    folder = far.publish(far.shell(script_ + "; sleep 300", output=CLAUDE))
    far.start(folder)
    status = far.wait(lambda: (s := far.status(folder)).state is State.IDLE and s)
    assert status.detail == "Which one?"
    more.write_text(json.dumps(said("m1")) + "\n")
    status = far.wait(lambda: (s := far.status(folder)).state is State.WORKING and s)
    assert status.detail == ""
    stop.request(folder, 1.0)


def test_what_one_uses_shows_while_it_runs(far):
    folder = far.publish(priced(far.shell(script(said("m1")), output=CLAUDE)))
    far.start(folder)
    usage = far.wait(lambda: far.status(folder).usage)
    assert (usage.input_tokens, usage.output_tokens, usage.partial) == (1500, 100, True)
    assert usage.cost_usd > 0
    stop.request(folder, 1.0)


def test_at_its_budget_it_is_ended_and_its_work_is_kept(far, tmp_path):
    rig = GitRig(tmp_path)
    records = (said("m1"), said("m2", out=100_000))
    order = priced(
        far.shell(
            "echo work >made.txt\n" + script(*records), output=CLAUDE, rig=str(rig.path),
            prompt="x", delivery=Delivery(branch="b", message="m"),
            limits={"max_agent_cost_usd": 1.0, "grace": 1.0},
        )
    )  # fmt: skip
    _, result = far.run(order)
    assert (result.state, result.reason) == (State.FAILED, "budget_reached"), result.message
    assert "$1" in result.message
    assert result.usage.cost_usd > 1.0
    assert result.usage.partial
    assert result.checkpoint
    assert rig.show(result.checkpoint, "made.txt").strip() == "work"


def test_what_is_done_is_done_whatever_it_cost(far):
    order = priced(far.shell(script(said("m1"), DONE, then=""), output=CLAUDE,
                             limits={"max_agent_cost_usd": 0.1}))  # fmt: skip
    _, result = far.run(order)
    assert (result.state, result.usage.cost_usd) == (State.DONE, 0.25)


def test_a_model_without_a_price_counts_as_the_dearest(far):
    prices = {"cheap-": (1.0, 0.1, 1.0), "dear-": (100.0, 10.0, 100.0)}
    order = priced(far.shell(script(said("m1"), then="exit 1"), output=CLAUDE), prices)
    _, result = far.run(order)
    assert result.usage.cost_usd == pytest.approx((1000 * 100 + 500 * 10 + 100 * 100) / 1e6)


def test_one_that_was_denied_its_tools_and_changed_nothing_is_not_done(far, tmp_path):
    rig = GitRig(tmp_path)
    denied = DONE | {"permission_denials": [{"tool_name": "Bash"}, {"tool_name": "Write"}]}

    def order(first: str):
        return far.shell(
            first + "\n" + script(denied, then=""), output=CLAUDE, rig=str(rig.path), prompt="x",
            delivery=Delivery(branch="b", message="m"),
        )  # fmt: skip

    _, result = far.run(order("true"))
    assert (result.state, result.reason) == (State.FAILED, "permission_denied")
    assert result.message == "it was denied Bash, Write, and changed nothing"
    _, result = far.run(order("echo work >made.txt"))
    assert (result.state, result.reason) == (State.DONE, "ok"), result.message


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Please set an Auth method in your settings.json", "not_logged_in"),
        ("Error: 429 Too Many Requests", "rate_limited"),
        ("upstream: 503 Service Unavailable", "overloaded"),
        ("Segmentation fault", "agent_failed"),
    ],
)
def test_one_that_cannot_begin_says_why_in_plain_words(far, line, reason):
    _, result = far.run(far.shell(f"echo 'hello'; echo '{line}' >&2; exit 41", output=CLAUDE))
    assert (result.state, result.reason) == (State.FAILED, reason)
    assert line in result.message


def test_the_moment_when_a_limit_is_over_is_kept(far):
    words = "Claude AI usage limit reached|1764300000"
    record = {"type": "result", "subtype": "success", "is_error": True, "result": words}
    _, result = far.run(far.shell(script(record, then="exit 1"), output=CLAUDE))
    assert result.reason == "rate_limited"
    assert result.message == "Claude AI usage limit reached (until 2025-11-28 03:20 UTC)"


def test_garbage_ends_no_agent(far):
    odd = {"type": "assistant", "message": {"usage": {"input_tokens": []}, "content": [{}, 1]}}
    order = far.shell(script(odd, {"type": "result", "modelUsage": {"x": None}}, then="exit 0"),
                      output=CLAUDE)  # fmt: skip
    folder, result = far.run(order)
    assert result.state is State.FAILED  # a result that is no success
    assert not (folder / files.DEBUG).exists()


def test_a_plain_command_imports_nothing_of_it(far, tmp_path):
    shown = tmp_path / "modules"
    patch = (
        f"import atexit; atexit.register(lambda: open({str(shown)!r}, 'w').write("
        "' '.join(sys.modules)))"
    )
    far.run(far.order("true"), patch=patch)
    modules = Path(shown).read_text().split()
    assert "outpost_worker.run.supervise" in modules
    ours = ("outpost_agents", "outpost_worker.agents", "outpost_worker.agents.following", "json")
    assert not [name for name in modules if name.startswith(ours)]
