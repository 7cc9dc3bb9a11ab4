"""A usage limit in the middle of real work: a real agent, parked and resumed by a real mayor.

Claude Code alone: Codex names the end of a limit to the minute, which a test does not wait for.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from peers.stubmodel import API_KEY, Mode, Request, StubModel
from servekit import LOCAL, Town, until

KEY = "CLAUDE_CODE_OAUTH_TOKEN"  # of a subscription: those have such limits
#: Seconds for which the limit holds once it is reached.
LIMIT = 4


class LimitedModel(StubModel):
    """Lets an agent run its command, then says that its limit is reached; works once it is over."""

    def __init__(self) -> None:
        super().__init__(command="echo second >>notes.txt", answer="I added it.")
        self.limited_at = 0.0

    def take(self, request: Request) -> tuple[int, Any]:
        said = json.dumps(request.body)
        if not self.limited_at and "tool_result" in said:
            self.limited_at = time.time()
            self.resets_at = int(self.limited_at) + LIMIT
            self.command = "echo third >>notes.txt"
        limited = self.limited_at and time.time() < self.resets_at
        self.mode = Mode.USAGE_LIMIT if limited else Mode.WORK
        return super().take(request)


class OneLimited(StubModel):
    """Lets an agent run its command, then says that the limit of the first key is reached."""

    def __init__(self) -> None:
        super().__init__(command="echo second >>notes.txt", answer="I added it.")
        self.resets_at = int(time.time()) + 3 * 3600
        self.keys: list[str] = []

    def take(self, request: Request) -> tuple[int, Any]:
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.keys.append(key)
        if key == "key-two":
            self.command = "echo third >>notes.txt"
        limited = key == "key-one" and "tool_result" in json.dumps(request.body)
        self.mode = Mode.USAGE_LIMIT if limited else Mode.WORK
        return super().take(request)


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    done = subprocess.run(
        ["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def rig_in(folder: Path) -> Path:
    bare, seed = folder / "rig.git", folder / "seed"
    git(folder, "init", "-q", "--bare", "-b", "main", str(bare))
    git(folder, "clone", "-q", str(bare), str(seed))
    (seed / "notes.txt").write_text("first\n")
    git(seed, "add", ".")
    git(seed, "commit", "-qm", "The first")
    git(seed, "push", "-q", "origin", "HEAD:main")
    return bare


@pytest.mark.agents
def test_the_same_session_goes_on_with_its_work_once_the_limit_is_over(
    tmp_path: Path, agents_path: str
) -> None:
    town, rig = Town(tmp_path), rig_in(tmp_path)
    town.env["PATH"] = agents_path
    with LimitedModel() as model:
        said = model.claude_env(tmp_path / "home-of-agents")
        del said["ANTHROPIC_API_KEY"], said["HOME"]
        town.run(
            "queue", "add", "gt-1", "--title", "Add lines", "--agent", "claude", "--rig", str(rig),
            "--secret", KEY, *(w for k, v in said.items() for w in ("--env", f"{k}={v}")),
            env={KEY: API_KEY},
        )  # fmt: skip
        with town.mayor(**{KEY: API_KEY}) as mayor:
            mayor.ready()
            until(lambda: town.json("queue", "show", "gt-1")["entry"]["state"] == "ended")
    story = town.run("show", "gt-1")
    assert town.json("queue", "show", "gt-1")["entry"]["outcome"] == "done", story
    (first,) = town.events("parked")
    assert first["worker"] == "gt-1.1", story
    before, after = (town.json("show", f"gt-1.{number}")["worker"] for number in (1, 2))
    assert (before["reason"], after["reason"]) == ("rate_limited", "ok"), story
    assert before["session"]
    assert after["started_at"] > before["retry_at"], "nothing was sent into the wall"
    asked = json.dumps(model.requests[-1].body)
    assert "echo second" in asked, "it knows what it did before the limit"
    branch = git(rig, "show", f"{after['branch']}:notes.txt")
    assert branch == "first\nsecond\nthird\n", story


@pytest.mark.agents
def test_the_same_session_goes_on_at_once_with_another_account(
    tmp_path: Path, agents_path: str
) -> None:
    town, rig = Town(tmp_path), rig_in(tmp_path)
    town.env["PATH"] = agents_path
    keys = {"KEY_ONE": "key-one", "KEY_TWO": "key-two"}
    accounts = "".join(
        f"  - {{name: {name}, agent: claude, secrets: {{{KEY}: 'env:KEY_{name.upper()}'}}}}\n"
        for name in ("one", "two")
    )
    town.config.write_text(f"{LOCAL}accounts:\n{accounts}")
    with OneLimited() as model:
        said = model.claude_env(tmp_path / "home-of-agents")
        del said["ANTHROPIC_API_KEY"], said["HOME"]
        words = (
            "gt-1", "--title", "Add lines", "--agent", "claude", "--rig", str(rig),
            *(w for k, v in said.items() for w in ("--env", f"{k}={v}")),
        )  # fmt: skip
        assert "would use the account one" in town.run("explain", *words)
        town.run("queue", "add", *words)
        town.run("queue", "run", env=keys)
        why = town.run("explain", "gt-2", *words[1:])
    story = town.run("show", "gt-1")
    shown = town.json("show", "gt-1")
    assert shown["accounts"] == {"gt-1.1": "one", "gt-1.2": "two"}
    after, before = shown["attempts"]
    assert (before["reason"], after["reason"]) == ("rate_limited", "ok"), story
    assert after["started_at"] < before["retry_at"], "it did not wait for the reset"
    assert after["session"], story
    assert "gt-1.1 at local with account one: failed (rate_limited)" in story
    assert "account one is parked until " in story
    assert "gt-1.2 at local with account two: done" in story
    assert "would use the account two" in why
    assert model.keys[-1] == "key-two"
    asked = json.dumps(model.requests[-1].body)
    assert "echo second" in asked, "it knows what it did before the limit"
    branch = git(rig, "show", f"{after['branch']}:notes.txt")
    assert branch == "first\nsecond\nthird\n", story
