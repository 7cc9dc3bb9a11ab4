"""An agent of somebody else's package: the one of the guide, as it is installed from an index."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import acmeagent
import pytest
from acmeagent import TOLD, USED
from peers.sshd import Sshd, sshd

MAIN = "from outpost_manager.cli import main; main()"


class Near:
    """The machine where somebody has installed the package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = folder / "site"
        self.programs = folder / "bin"
        self.config = folder / "outposts.yaml"
        acmeagent.install(self.site, self.programs)
        self.config.write_text("outposts: [{name: local, type: local, mode: process}]\n")

    def reach(self, host: Sshd) -> None:
        """Have an SSH host besides; its agents find the program there."""
        options: dict[str, Any] = {
            "name": "vm1", "type": "ssh", "host": host.host, "port": host.port, "user": host.user,
            "ssh_key": str(host.key), "known_hosts": str(host.known_hosts), "mode": "process",
            "python": sys.executable, "config": os.devnull, "agent_path": [str(self.programs)],
        }  # fmt: skip
        self.config.write_text(json.dumps({"outposts": [options]}))

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        env = {
            "HOME": str(self.folder), "PATH": f"{self.programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.site), "OUTPOST_CONFIG": str(self.config),
            "OUTPOST_STATE": str(self.folder / "state"), "LANG": "C.UTF-8",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *words],
            cwd=self.folder, env=env, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done

    def work(self, issue: str, *words: str) -> dict[str, Any]:
        """Have the agent work on an issue, and return the result."""
        more = ("--no-rig", "--prompt", "do it", "--wait", *words)
        self.run("spawn", issue, "--agent", "acme", *more)
        result: dict[str, Any] = json.loads(self.run("show", issue, "--json").stdout)["worker"]
        return result


@pytest.fixture
def near(tmp_path: Path) -> Near:
    return Near(tmp_path)


def check(near: Near, result: dict[str, Any], issue: str) -> None:
    """See that all that our own agents have is there."""
    assert (result["status"], result["message"]) == ("done", "All done.")
    assert result["session"] == "s-42"
    assert result["usage"] == USED
    assert near.run("logs", issue, "--readable").stdout == TOLD
    assert near.run("logs", issue).stdout.splitlines()[1].startswith('{"type": "start"')


def test_an_agent_of_another_package_has_usage_and_readable_logs(near: Near) -> None:
    check(near, near.work("gt-1"), "gt-1")


def test_its_reader_travels_to_a_host_that_has_nothing_of_it(near: Near, tmp_path: Path) -> None:
    with sshd(tmp_path / "sshd") as host:
        near.reach(host)
        check(near, near.work("gt-1"), "gt-1")
        sent = [*host.home.rglob("acme_reader.py")]
        assert len(sent) == 1
        assert not [*host.home.rglob("acme_agent.py")]


def test_its_limit_of_cost_is_kept_while_it_runs(near: Near) -> None:
    program = near.programs / "acme"
    lines = program.read_text().replace('echo \'{"type": "end"}\'', "sleep 300")
    program.write_text(lines)
    near.run(
        "spawn", "gt-1", "--agent", "acme", "--no-rig", "--prompt", "x", "--wait",
        "--max-agent-cost", "0.025", "--grace", "1", code=1,
    )  # fmt: skip
    result = json.loads(near.run("show", "gt-1", "--json").stdout)["worker"]
    assert (result["status"], result["reason"]) == ("failed", "budget_reached")


def test_what_was_installed_when_it_began_reads_it_to_its_end(near: Near) -> None:
    """An upgrade that breaks the reader costs nothing of a worker that runs."""
    program, more = near.programs / "acme", near.folder / "more"
    text = program.read_text().replace('echo \'{"type": "ping"}\'', f"cat {more}")
    os.mkfifo(more)
    program.write_text(text)
    near.run("spawn", "gt-1", "--agent", "acme", "--no-rig", "--prompt", "x")
    with more.open("w"):  # it is at work
        (near.site / "acme_reader.py").write_text("raise RuntimeError('newer')\n")
    near.run("wait", "gt-1")
    result = json.loads(near.run("show", "gt-1", "--json").stdout)["worker"]
    assert (result["status"], result["usage"]) == ("done", USED)


def test_a_reader_that_cannot_be_used_is_named_and_nothing_else_breaks(near: Near) -> None:
    (near.site / "acme_reader.py").write_text("import acme_sdk\n")
    refused = near.run("spawn", "gt-1", "--agent", "acme", "--no-rig", "--prompt", "x", code=2)
    assert "the reader acme_reader:Acme cannot be used" in refused.stderr
    assert "acme_sdk" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "acme_sdk" in near.run("doctor", code=1).stdout
    near.run("spawn", "gt-2", "--no-rig", "--wait", "--", "true")
    assert near.run("workers", "--all").stdout


def test_logs_are_shown_as_they_are_when_the_package_is_gone(near: Near) -> None:
    near.work("gt-1")
    for path in near.site.glob("acme*"):
        if path.is_file():
            path.unlink()
    (near.site / "acme_agent-1.0.dist-info" / "entry_points.txt").unlink()
    assert '{"type": "start"' in near.run("logs", "gt-1", "--readable").stdout
    assert "done" in near.run("show", "gt-1").stdout
