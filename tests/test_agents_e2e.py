"""The main job with the real agents: an order in, a pushed branch, tokens and cost out."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from peers.stubmodel import API_KEY, Mode, StubModel

from outpost_agents.presets import PRESETS
from outpost_core import wire
from outpost_core.types import Agent, Delivery, Issue, Limits, Order, Result, Secrets, State
from outpost_manager.orders.presets import resolve
from outpost_manager.placing.attempts import resumed
from outpost_shared.programs import base_env
from outpost_worker.folder import files
from outpost_worker.folder.publish import command, publish
from outpost_worker.run import stop

RECORDED = Path(__file__).parent / "data" / "agents"
KEYS = {"claude": "ANTHROPIC_API_KEY", "codex": "OPENAI_API_KEY"}
both = pytest.mark.parametrize("name", ["claude", "codex"])


def git(folder: Path, *args: str) -> str:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    done = subprocess.run(
        ["git", *identity, *args], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def rig(tmp_path: Path) -> Path:
    """A bare repository with one commit on `main`."""
    bare, seed = tmp_path / "rig.git", tmp_path / "seed"
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(bare))
    git(tmp_path, "clone", "-q", str(bare), str(seed))
    (seed / "notes.txt").write_text("first line\n")
    git(seed, "add", ".")
    git(seed, "commit", "-q", "-m", "The first")
    git(seed, "push", "-q", "origin", "HEAD:main")
    return bare


def make(agent: Agent, rig: Path | None, *, env: dict[str, str], secrets: Secrets) -> Order:
    issue = Issue(id="gt-abc123", title="Add a line", text="Add a second line to notes.txt.")
    return Order(
        issue=issue,
        rig=str(rig) if rig else None,
        agent=agent,
        prompt=f"{issue.title}\n\n{issue.text}",
        delivery=Delivery(branch="polecat/gt-abc123", message="gt-abc123: Add a line"),
        env=env,
        secrets=secrets,
    )


def carry_out(order: Order, tmp_path: Path, path: str) -> tuple[Result, Path]:
    """Publish the order and run its supervisor to the end; return the result and the folder."""
    env = base_env({"PATH": path, "HOME": str(tmp_path), "LANG": "C.UTF-8"})
    folder, made = publish(tmp_path / "root", order, env)
    assert made
    done = subprocess.run(
        command(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    loaded = files.load(str(folder), files.RESULT)
    assert loaded is not None, done.stderr
    result = wire.from_json(Result, loaded)
    assert (done.returncode == 0) == (result.state is State.DONE), done.stderr
    return result, folder


def order_for(name: str, model: StubModel, rig: Path, tmp_path: Path) -> Order:
    home = tmp_path / "home"
    home.mkdir()
    env = model.claude_env(home) if name == "claude" else model.codex_env(home)
    secrets = Secrets({KEYS[name]: env.pop(KEYS[name])})
    agent = resolve(name, PRESETS, interactive=False)
    return make(agent, rig, env=env, secrets=secrets)


@pytest.mark.agents
@both
@pytest.mark.parametrize("commits", [False, True], ids=["leaves it to Outpost", "commits itself"])
def test_an_issue_becomes_a_pushed_branch_with_tokens_and_cost(
    name: str, commits: bool, rig: Path, tmp_path: Path, agents_path: str
) -> None:
    work = "echo 'second line' >>notes.txt"
    if commits:
        work += " && git -c user.name=Bot -c user.email=bot@example.org commit -qam 'By the agent'"
    with StubModel(command=work, answer="I added it.") as model:
        result, folder = carry_out(order_for(name, model, rig, tmp_path), tmp_path, agents_path)
    log = (folder / files.LOG).read_text()
    assert (result.state, result.reason) == (State.DONE, "ok"), f"{result.message}\n{log}"
    assert result.branch == "polecat/gt-abc123"
    assert result.commit == git(rig, "rev-parse", "polecat/gt-abc123").strip()
    assert git(rig, "show", "polecat/gt-abc123:notes.txt") == "first line\nsecond line\n"
    subject = "By the agent" if commits else "gt-abc123: Add a line"
    assert git(rig, "log", "--format=%s", "main..polecat/gt-abc123") == f"{subject}\n"
    assert git(rig, "diff", "--name-only", "main", "polecat/gt-abc123") == "notes.txt\n"
    assert result.exit_code == 0
    assert result.session
    usage = result.usage
    assert usage.input_tokens == (500 if name == "claude" else 400)
    assert (usage.output_tokens, usage.cached_tokens) == (80, 100)
    if name == "claude":
        assert usage.cost_usd is not None
        assert usage.cost_usd > 0
        assert usage.turns == 2
    assert (
        model.requests[-1]
        .headers["x-api-key" if name == "claude" else "authorization"]
        .endswith(API_KEY)
    )
    for file in folder.rglob("*"):
        if file.is_file():
            assert API_KEY.encode() not in file.read_bytes(), file


@pytest.mark.agents
@both
@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (Mode.UNAUTHORIZED, "not_logged_in"),
        (Mode.RATE_LIMITED, "rate_limited"),
        (Mode.OVERLOADED, "overloaded"),
        (Mode.REFUSE, "agent_failed"),
    ],
)
def test_a_failure_of_the_model_is_a_failed_worker_with_its_reason_and_no_branch(
    name: str, mode: Mode, reason: str, rig: Path, tmp_path: Path, agents_path: str
) -> None:
    with StubModel(mode, command="echo x >>notes.txt") as model:
        result, _ = carry_out(order_for(name, model, rig, tmp_path), tmp_path, agents_path)
    assert (result.state, result.reason) == (State.FAILED, reason), result.message
    assert result.exit_code == 1
    said = ("401", "429", "529", "key", "refuses", "unable to respond")
    assert any(word in result.message for word in said)
    assert result.branch is None
    assert git(rig, "branch", "--format=%(refname:short)") == "main\n"


@pytest.mark.agents
@both
def test_a_result_says_when_a_usage_limit_is_over(
    name: str, rig: Path, tmp_path: Path, agents_path: str
) -> None:
    """As a subscription has it: Codex says it to the minute, in words of its own time zone."""
    with StubModel(Mode.USAGE_LIMIT) as model:
        model.resets_at = int(time.time()) + 3 * 86400
        order = order_for(name, model, rig, tmp_path)
        if name == "claude":
            order = replace(order, secrets=Secrets({"CLAUDE_CODE_OAUTH_TOKEN": API_KEY}))
        result, _ = carry_out(order, tmp_path, agents_path)
    assert (result.state, result.reason) == (State.FAILED, "rate_limited"), result.message
    assert result.session
    assert result.retry_at is not None
    assert 0 <= model.resets_at - result.retry_at < (60 if name == "codex" else 1), result.message


@pytest.mark.agents
@both
def test_an_agent_that_changes_nothing_is_told_apart(
    name: str, rig: Path, tmp_path: Path, agents_path: str
) -> None:
    with StubModel(Mode.TALK) as model:
        result, _ = carry_out(order_for(name, model, rig, tmp_path), tmp_path, agents_path)
    assert (result.state, result.reason) == (State.DONE, "nothing_to_commit"), result.message
    assert (result.branch, result.commit) == (None, None)
    assert result.usage.output_tokens == 40


@pytest.mark.agents
@both
def test_an_agent_stopped_in_the_middle_leaves_its_work_on_the_remote(
    name: str, rig: Path, tmp_path: Path, agents_path: str
) -> None:
    with StubModel(Mode.HANG, command="echo 'second line' >>notes.txt") as model:
        order = order_for(name, model, rig, tmp_path)
        env = base_env({"PATH": agents_path, "HOME": str(tmp_path)})
        folder, _ = publish(tmp_path / "root", order, env)
        with subprocess.Popen(command(folder), stdin=subprocess.DEVNULL) as supervisor:
            try:
                assert model.wait_hanging(60)
            finally:
                stop.request(folder, 10.0)
            assert supervisor.wait(60) == 1
    loaded = files.load(str(folder), files.RESULT)
    assert loaded is not None
    result = wire.from_json(Result, loaded)
    assert (result.state, result.reason) == (State.STOPPED, "stopped"), result.message
    assert result.session
    assert result.branch is None
    assert result.checkpoint == "refs/outpost/gt-abc123.1"
    assert git(rig, "show", f"{result.checkpoint}:notes.txt") == "first line\nsecond line\n"
    usage = result.usage  # of the one answer that there was
    assert (usage.input_tokens, usage.cached_tokens) == (250 if name == "claude" else 200, 50)
    assert usage.output_tokens
    assert usage.partial
    assert usage.model


@pytest.mark.agents
@both
def test_an_agent_that_spends_its_budget_is_ended_with_its_work_kept(
    name: str, rig: Path, tmp_path: Path, agents_path: str
) -> None:
    """Claude Code keeps its budget itself; Codex is counted and ended."""
    mode = Mode.WORK if name == "claude" else Mode.HANG
    with StubModel(mode, command="echo 'second line' >>notes.txt") as model:
        order = order_for(name, model, rig, tmp_path)
        agent = resolve(name, PRESETS, interactive=False, budget=0.001)
        agent = replace(agent, prices={"": (10.0, 1.0, 30.0)} if name == "codex" else {})
        order = replace(
            order, agent=agent, limits=Limits(max_agent_cost_usd=0.001, timeout=60.0, grace=5.0)
        )
        result, _ = carry_out(order, tmp_path, agents_path)
    assert (result.state, result.reason) == (State.FAILED, "budget_reached"), result.message
    assert result.usage.cost_usd is not None
    assert result.usage.cost_usd >= 0.001
    assert result.usage.estimated == (name == "codex")
    assert result.branch is None
    if name == "codex":  # Claude Code ended before it ran the command
        assert result.checkpoint
        assert "second line" in git(rig, "show", f"{result.checkpoint}:notes.txt")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("ending", ["work", "unauthorized"])
def test_what_the_agent_says_counts_more_than_its_exit_code_of_zero(
    preset: str, ending: str, tmp_path: Path
) -> None:
    recorded = RECORDED / f"{preset}-{ending}.log"
    agent = Agent(argv=("cat", str(recorded)), output=PRESETS[preset].output)
    order = make(agent, None, env={}, secrets=Secrets())
    result, folder = carry_out(order, tmp_path, os.environ["PATH"])
    assert (folder / files.LOG).read_bytes() == recorded.read_bytes()
    assert result.exit_code == 0
    assert result.session
    if ending == "work":
        assert (result.state, result.reason, result.message) == (State.DONE, "ok", "All done.")
        assert result.usage.output_tokens == 80
    else:
        assert (result.state, result.reason) == (State.FAILED, "not_logged_in")
        assert "key" in result.message


@pytest.mark.agents
@both
def test_the_next_attempt_goes_on_with_the_session_in_its_own_working_tree(
    name: str, rig: Path, tmp_path: Path, agents_path: str
) -> None:
    """Claude Code looks for a session only below the name of the folder that it runs in."""
    with StubModel(command="echo second >>notes.txt", answer="I added it.") as model:
        first = order_for(name, model, rig, tmp_path)
        before, _ = carry_out(first, tmp_path, agents_path)
        assert before.state is State.DONE, before.message
        model.command = "echo third >>notes.txt"
        argv = resumed(PRESETS[name], first.agent.argv, before.session or "")
        assert argv is not None
        second = replace(
            first,
            attempt=2,
            resume=before.commit,
            agent=replace(first.agent, argv=argv),
            prompt="And a third line, please.",
        )
        result, folder = carry_out(second, tmp_path, agents_path)
        asked = json.dumps(model.requests[-1].body)
    log = (folder / files.LOG).read_text()
    assert (result.state, result.reason) == (State.DONE, "ok"), f"{result.message}\n{log}"
    assert git(rig, "show", "polecat/gt-abc123:notes.txt") == "first line\nsecond\nthird\n"
    for said in ("And a third line, please.", "I added it."):  # it knows what it said before
        assert said in asked
