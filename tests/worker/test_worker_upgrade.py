"""The files of Outpost go away while an agent runs, as by an upgrade; the work does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import farcode
import pytest

from outpost_core.types import Agent, Delivery, Issue, Order
from outpost_shared import programs
from outpost_testing.gitrig import GitRig
from outpost_worker.folder import files, publish


@pytest.mark.parametrize(
    ("script", "output", "reason", "where"),
    [
        ("true", "plain", "ok", "branch"),
        ("exit 3", "plain", "agent_failed", "checkpoint"),
        ('echo \'{"type":"result","subtype":"success","is_error":false,"result":"x"}\'',
         "claude-stream-json", "ok", "branch"),
    ],
)  # fmt: skip
def test_work_is_brought_home_by_code_that_is_gone(
    tmp_path: Path, script: str, output: str, reason: str, where: str
) -> None:
    rig = GitRig(tmp_path)
    installed = tmp_path / "site"
    boot = str(farcode.install(installed))
    gone = f'until grep -q agent ../state.json; do sleep 0.05; done; sleep 1; rm -r "{installed}"'
    order = Order(
        issue=Issue(id="gt-1"),
        agent=Agent(argv=("sh", "-c", f"{gone}; echo 1 >work; {script}"), output=output),
        rig=str(rig.path),
        delivery=Delivery(branch="polecat/gt-1", message="m", pr_command=("echo", "http://pr")),
    )
    env = programs.base_env(os.environ)
    folder, _ = publish.publish(tmp_path / "state", order, env, fence={"mode": "off"})
    subprocess.run(
        [sys.executable, "-I", "-S", boot, "run", str(folder)], env=env, timeout=120, check=False
    )
    assert not installed.exists()
    result: dict[str, Any] = files.load(str(folder), files.RESULT) or {}
    assert result["reason"] == reason, result
    assert result[where]
    ref = result[where] if where == "checkpoint" else f"refs/heads/{result[where]}"
    assert rig.git("show", f"{ref}:work", cwd=rig.path) == "1"
