"""Asking again: what it finds, and trying again what never began."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from outpost_core.types import Result, State
from outpost_shared import faults
from outpost_testing import Script

OUTPOST = [sys.executable, "-c", "from outpost_manager.cli import main; main()"]


def again(outpost, issue: str, *words: str, code: int = 0) -> str:
    command = ("spawn", issue, "--no-rig", "--on", "here", *words, "--", "true")
    return outpost.ok(*command, code=code)


@pytest.mark.parametrize(
    ("state", "reason", "code"),
    [("done", "ok", 0), ("failed", "agent_failed", 1), ("stopped", "stopped", 1),
     ("lost", "lost_process", 1)],
)  # fmt: skip
def test_asking_again_says_how_it_ended_with_that_exit_code(outpost, state, reason, code):
    result = Result(
        state=State(state), reason=reason, finished_at=time.time() - 301, agent_began=True
    )
    outpost.here.script("x.1", Script(after=0.0, result=result))
    again(outpost, "x")
    said = again(outpost, "x", code=code)
    told = state if reason in ("ok", "stopped") else f"{state}: {reason}"
    assert said.startswith(f"x.1 ended 5 min ago ({told}) at here; --again starts attempt 2\n")
    (one,) = outpost.json(
        "spawn", "x", "--no-rig", "--on", "here", "--", "true", code=code
    )["spawned"]  # fmt: skip
    assert one["adopted"] is True
    assert one["worker"]["status"] == state


def test_asking_again_says_that_it_runs_and_since_when(outpost):
    again(outpost, "x")
    assert again(outpost, "x").startswith("x.1 is working at here since ")


def test_an_end_that_nobody_has_looked_at_is_found(outpost):
    """The ledger says working; the outpost knows better."""
    again(outpost, "x")
    outpost.here.finish("x.1", Result(state=State.FAILED, reason="agent_failed"))
    assert "x.1 ended just now (failed: agent_failed)" in again(outpost, "x", code=1)
    assert again(outpost, "x", "--again").startswith("x.2 ")


def test_another_order_names_where_the_one_before_is(outpost):
    again(outpost, "x")
    result = outpost.run("spawn", "x", "--no-rig", "--title", "other", "--", "true")
    assert result.exit_code == 2
    assert "not the same: title" in result.stderr
    assert "; it is working at here since" in result.stderr


def unbegun(reason: str) -> Result:
    return Result(state=State.FAILED, reason=reason, message="nope", agent_began=False)


@pytest.mark.parametrize(
    "reason", ["workspace_failed", "base_not_found", "command_not_found", "lfs_missing", "new_one"]
)
def test_what_failed_before_its_agent_began_is_tried_again(outpost, reason):
    outpost.here.script("x.1", Script(after=0.0, result=unbegun(reason)))
    again(outpost, "x")
    outpost.ok("workers")
    outpost.here.script("x.1", Script())
    result = outpost.run("spawn", "x", "--no-rig", "--on", "here", "--title", "b", "--", "true")
    assert result.exit_code == 0
    assert result.stdout.startswith("x.1 working at here")  # also with a mended order
    assert f"x.1: its agent never began ({reason}: nope); it is tried again" in result.stderr
    said = outpost.json("show", "x")
    assert said["worker"]["id"] == "x.1"
    assert said["worker"]["status"] == "working"
    assert said["order"]["issue"]["title"] == "b"
    (told,) = [event for event in said["events"] if event["kind"] == "renewed"]
    assert told["data"]["reason"] == reason
    # and now it is like any other
    outpost.here.finish("x.1", Result(state=State.FAILED, reason="agent_failed"))
    said = outpost.ok("spawn", "x", "--no-rig", "--on", "here", "--title", "b", "--", "true",
                      code=1)  # fmt: skip
    assert "--again starts attempt 2" in said


def test_a_stop_before_the_agent_began_uses_its_number_up(outpost):
    stopped = Result(state=State.STOPPED, reason="stopped", agent_began=False)
    outpost.here.script("x.1", Script(after=0.0, result=stopped))
    again(outpost, "x")
    assert "ended just now (stopped)" in again(outpost, "x", code=1)


def test_where_nobody_can_forget_it_the_next_attempt_is_named(outpost):
    outpost.here.script("x.1", Script(after=0.0, result=unbegun("workspace_failed")))
    again(outpost, "x")
    outpost.ok("workers")
    outpost.here.cut()
    said = again(outpost, "x", code=1)
    assert "x.1 ended just now (failed: workspace_failed) at here; --again starts attempt 2" in said
    assert outpost.json("show", "x", code=0)["worker"]["status"] == "failed"


# --- with real workers ---------------------------------------------------------------------------


@pytest.fixture
def real(outpost):
    outpost.config.write_text(
        "outposts:\n  - {name: local, type: local, mode: process, fence_write: [~/counts]}\n"
    )
    tools = outpost.folder / "tools"
    tools.mkdir()
    counts = outpost.folder / "counts"
    counts.mkdir()

    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(tools), os.environ["PATH"]])
        options = ["--config", str(outpost.config), "--state", str(outpost.state)]
        return subprocess.run(
            [*OUTPOST, *options, *words],
            env={**os.environ, "PATH": path, **env},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    run.tools = tools
    run.counted = counts / "ran"
    return run


SPAWN = ("spawn", "x", "--no-rig", "--wait", "--", "my-agent")


def install(real) -> None:
    agent = real.tools / "my-agent"
    agent.write_text(f"#!/bin/sh\necho ran >>{real.counted}\n")
    agent.chmod(0o755)


def test_a_missing_command_costs_no_number(real):
    first = real(*SPAWN)
    assert first.returncode == 1, first.stderr
    assert "command_not_found" in first.stdout
    install(real)
    second = real(*SPAWN)
    assert second.returncode == 0, second.stderr
    assert second.stdout.startswith("x.1 done at local")
    assert real.counted.read_text() == "ran\n"
    assert real(*SPAWN).returncode == 0
    assert real.counted.read_text() == "ran\n"  # a done one is found, not run


@pytest.mark.parametrize("point", [*faults.RENEW, *faults.NEAR])
def test_killed_while_trying_again_it_still_runs_once(real, point):
    assert real(*SPAWN).returncode == 1
    install(real)
    assert real(*SPAWN, OUTPOST_FAULT=point).returncode == -9
    last = real(*SPAWN)
    assert last.returncode == 0, (last.stdout, last.stderr)
    assert real.counted.read_text() == "ran\n"


def test_a_crowd_that_tries_again_runs_it_once(real):
    assert real(*SPAWN).returncode == 1
    install(real)
    done: list[subprocess.CompletedProcess[str]] = []
    crowd = [threading.Thread(target=lambda: done.append(real(*SPAWN))) for _ in range(4)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    assert [one.returncode for one in done] == [0] * 4, [one.stderr for one in done]
    assert real.counted.read_text() == "ran\n"
    shown = json.loads(real("show", "x", "--json").stdout)
    assert [w["id"] for w in shown["attempts"]] == ["x.1"]
