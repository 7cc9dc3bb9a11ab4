"""The real Claude Code and Codex, started as the presets say, against the stub model server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from peers.stubmodel import API_KEY, Mode, StubModel

from outpost_agents.claude import trust
from outpost_agents.presets import PRESETS
from outpost_manager.orders.presets import resolve
from outpost_worker.agents import agentout

pytestmark = pytest.mark.agents
both = pytest.mark.parametrize("name", ["claude", "codex"])

PROMPT = '- this begins with a dash, "quotes", $(touch pwned) and\na second line; '
#: What each agent's own requests look like in the stub.
PATHS = {"claude": "/v1/messages", "codex": "/v1/responses"}


@dataclass
class Run:
    exit_code: int
    log: Path
    answer: dict[str, Any]
    work: Path


def start(name: str, model: StubModel, folder: Path, path: str) -> subprocess.Popen[bytes]:
    """Start one headless agent in an empty folder, with standard input closed."""
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    agent = resolve(name, PRESETS, interactive=False)
    own = model.claude_env(home) if name == "claude" else model.codex_env(home)
    with (folder / "output.log").open("wb") as log:
        return subprocess.Popen(
            [arg.replace("{prompt}", PROMPT) for arg in agent.argv],
            cwd=work,
            env={"PATH": path, "LANG": "C.UTF-8", **agent.env, **own},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run(name: str, model: StubModel, folder: Path, path: str) -> Run:
    """Run one headless agent to its end."""
    with start(name, model, folder, path) as process:
        try:
            exit_code = process.wait(90)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    log = folder / "output.log"
    answer = agentout.read(PRESETS[name].output, str(log))
    return Run(exit_code, log, answer, folder / "work")


@both
def test_the_agent_works_alone_and_says_what_it_used(
    name: str, tmp_path: Path, agents_path: str
) -> None:
    with StubModel(command="echo hello >made.txt", answer="I made it.") as model:
        ended = run(name, model, tmp_path, agents_path)
    assert ended.exit_code == 0, ended.log.read_text()
    assert (ended.work / "made.txt").read_text() == "hello\n"
    assert not (ended.work / "pwned").exists()
    assert ended.answer["ok"] is True
    assert ended.answer["message"] == "I made it."
    assert ended.answer["session"]
    usage = ended.answer["usage"]
    # Two answers of the stub; Claude Code counts what came from its cache apart.
    assert usage["input_tokens"] == (500 if name == "claude" else 400)
    assert (usage["output_tokens"], usage["cached_tokens"]) == (80, 100)
    assert (usage["cost_usd"] is not None) == (name == "claude")
    asked = [request for request in model.requests if request.path == PATHS[name]]
    assert len(asked) == 2
    assert json.dumps(PROMPT.strip())[1:-1] in json.dumps(asked[0].body)
    key = asked[0].headers["x-api-key" if name == "claude" else "authorization"]
    assert key.removeprefix("Bearer ") == API_KEY
    assert API_KEY not in ended.log.read_text()


@both
@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (Mode.UNAUTHORIZED, ("key", "401")),
        (Mode.BROKEN, ("500", "high demand")),
        (Mode.REFUSE, ("unable to respond", "refuses")),
    ],
)
def test_a_failing_model_is_a_failure_that_says_why(
    name: str, mode: Mode, words: tuple[str, str], tmp_path: Path, agents_path: str
) -> None:
    with StubModel(mode, command="echo hello >made.txt") as model:
        ended = run(name, model, tmp_path, agents_path)
    assert ended.exit_code != 0
    assert ended.answer["ok"] is False
    assert any(word in ended.answer["message"] for word in words), ended.answer["message"]
    assert not (ended.work / "made.txt").exists()


@both
def test_an_agent_that_only_talks_changes_nothing(
    name: str, tmp_path: Path, agents_path: str
) -> None:
    with StubModel(Mode.TALK, answer="Nothing to do.") as model:
        ended = run(name, model, tmp_path, agents_path)
    assert ended.exit_code == 0
    assert (ended.answer["ok"], ended.answer["message"]) == (True, "Nothing to do.")
    assert [*ended.work.iterdir()] == []


@both
def test_an_agent_killed_while_it_waits_has_no_outcome(
    name: str, tmp_path: Path, agents_path: str
) -> None:
    with StubModel(Mode.HANG) as model, start(name, model, tmp_path, agents_path) as process:
        try:
            assert model.wait_hanging(60)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    log = tmp_path / "output.log"
    answer = agentout.read(PRESETS[name].output, str(log))
    assert answer["ok"] is None
    assert answer["session"], log.read_text()


@both
def test_on_a_terminal_nothing_stands_before_the_prompt(
    name: str, tmp_path: Path, agents_path: str
) -> None:
    """The question whether the folder is trusted is answered beforehand: the model is asked."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    agent = resolve(name, PRESETS, interactive=True)
    with StubModel(Mode.TALK, answer="Nothing to do.") as model:
        own = model.claude_env(home) if name == "claude" else model.codex_env(home)
        if name == "claude":  # as after the first start of its user, with the key approved
            approved = {"approved": [API_KEY[-20:]], "rejected": []}
            settings = {
                "hasCompletedOnboarding": True, "theme": "dark", "customApiKeyResponses": approved,
            }  # fmt: skip
            where = Path(own.get("CLAUDE_CONFIG_DIR") or own["HOME"])
            where.mkdir(exist_ok=True)
            (where / ".claude.json").write_text(json.dumps(settings))
        env = {"PATH": agents_path, "LANG": "C.UTF-8", "TERM": "xterm-256color", **agent.env, **own}
        if name == "claude":
            assert trust.accept(env, str(work))
        argv = [a.replace("{prompt}", "Hello").replace("{work}", str(work)) for a in agent.argv]
        tmux = ["tmux", "-S", str(tmp_path / "socket"), "-f", os.devnull]
        subprocess.run(
            [*tmux, "new-session", "-d", "-x", "120", "-y", "40", "-c", str(work), *argv],
            env=env, check=True,
        )  # fmt: skip
        try:
            deadline, screen = time.monotonic() + 90, ""
            while not any(request.path == PATHS[name] for request in model.requests):
                done = subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True)
                screen = done.stdout or screen
                assert time.monotonic() < deadline, screen
                time.sleep(0.1)
            assert "trust" not in screen.lower(), screen
        finally:
            subprocess.run([*tmux, "kill-server"], check=False)
