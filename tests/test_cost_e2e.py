"""A cap that holds for the real Claude Code, ordered by the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peers.stubmodel import StubModel

pytestmark = [pytest.mark.agents, pytest.mark.timeout(300)]

LIMIT = ("--max-agent-cost", "0.001")


def outpost(env: dict[str, str], *words: str) -> tuple[int, Any]:
    """Run a command with --json; returns its exit code and its answer."""
    done = subprocess.run(
        [sys.executable, "-c", "from outpost_manager.cli import main; main()", *words, "--json"],
        env=env,
        cwd=env["HOME"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout or done.stderr.splitlines()[-1])


def test_a_cap_of_a_tenth_of_a_cent_lets_one_agent_through(
    tmp_path: Path, agents_path: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    config = tmp_path / "outposts.yaml"
    config.write_text(
        "outposts:\n"
        "  - {name: local, type: local, max_workers: 4, mode: process, cost_cap_hourly: 0.001}\n"
    )
    with StubModel(command="echo hello >made.txt", answer="I made it.") as model:
        env = {
            "PATH": agents_path,
            "LANG": "C.UTF-8",
            "OUTPOST_CONFIG": str(config),
            "OUTPOST_STATE": str(tmp_path / "state"),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            **model.claude_env(home),
        }
        words = ("--no-rig", "--title", "Make it", "--agent", "claude")
        code, said = outpost(env, "spawn", "gt-0", *words)
        assert code == 3, said
        assert "--max-agent-cost" in json.dumps(said)
        _, said = outpost(env, "spawn", "gt-1", *words, *LIMIT, "--wait")
        (first,) = said["spawned"]
        spent = first["worker"]["agent_cost_usd"]
        assert spent > 0.001, first  # its first answer is paid for before anybody knows
        assert first["worker"]["status"] == "failed", first
        assert first["worker"]["reason"] == "budget_reached", first
        for issue in ("gt-2", "gt-3"):
            code, said = outpost(env, "spawn", issue, *words, *LIMIT)
            assert code == 3, said
            assert "hourly cap" in json.dumps(said)
    assert outpost(env, "list")[1]["outposts"][0]["spent_usd"] == spent
    _, totals = outpost(env, "cost", "--by", "agent")
    (claude,) = totals["totals"]
    assert (claude["key"], claude["agent_usd"]) == ("claude", spent)
    assert claude["input_tokens"] > 0
    assert outpost(env, "clean", "--all")[0] == 0
    assert outpost(env, "cost", "--by", "agent")[1]["total"]["total_usd"] == spent
