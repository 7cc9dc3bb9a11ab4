"""The doctor's findings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from outpost_local import doctor, fencing
from outpost_local.options import Fence, LocalOptions, Mode
from outpost_shared import process


def examine(root: Path, path: str = "", **options) -> dict:
    found = asyncio.run(
        doctor.examine(
            root,
            LocalOptions(**options),
            path or os.environ.get("PATH", ""),
            installs=lambda agent: agent.install,
        )
    )
    return {finding.check: finding for finding in found}


def test_a_good_machine(tmp_path):
    tmp_path.chmod(0o700)
    found = examine(tmp_path)
    for check in ("tmux", "git", "python", "system", "state", "memory", "disk"):
        assert found[check].ok is True, found[check]
    assert found["tmux"].detail.startswith("tmux ")
    assert {"agent claude", "agent codex", "logout"} <= set(found)


def test_what_is_missing_is_named_with_its_hint(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    found = examine(tmp_path, "/nowhere", mode=Mode.TMUX)
    assert found["tmux"].ok is False
    assert "apt install tmux" in found["tmux"].hint
    assert found["git"].ok is False
    assert found["agent claude"].ok is None
    assert "npm" in found["agent claude"].hint
    assert examine(tmp_path, "/nowhere")["tmux"].ok is None  # auto: processes do it


def test_floors_town_and_privacy(tmp_path):
    tmp_path.chmod(0o755)
    found = examine(
        tmp_path, memory_floor=1024**5, disk_floor=1024**6, town_path=tmp_path, mode=Mode.PROCESS
    )
    for check in ("memory", "disk", "town", "state"):
        assert found[check].ok is False, found[check]
        assert found[check].hint
    assert found["tmux"].ok is True
    (tmp_path / "mayor").mkdir()
    (tmp_path / "mayor" / "town.json").write_text("{}")
    assert examine(tmp_path, town_path=tmp_path)["town"].ok is True


def test_an_old_tmux_and_an_old_git(tmp_path, monkeypatch):
    for name, text in (("tmux", "tmux 2.9a"), ("git", "git version 2.11.0")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho {text}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = examine(tmp_path)
    assert found["tmux"].ok is False
    assert found["git"].ok is False


def test_where_a_process_could_get_away_it_is_said(tmp_path, monkeypatch):
    """A killed supervisor leaves nobody behind where processes have a namespace; else it may."""
    said = {"missing": {"namespace": "refused"}, "hint": "", "fence": ""}
    for fence in ("", "landlock 7", "namespace"):
        monkeypatch.setattr(fencing, "probe", lambda fence=fence: {**said, "fence": fence})
        told = examine(tmp_path)["fence"].detail
        assert ("sets out to hide" in told) == (fence != "namespace")
    assert "sets out to hide" in examine(tmp_path, fence=Fence.OFF)["fence"].detail


def test_a_tmux_that_cannot_be_closed_is_told(tmp_path, monkeypatch):
    tmux = tmp_path / "tmux"
    tmux.write_text("#!/bin/sh\necho tmux 3.2a\n")
    tmux.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = examine(tmp_path)["tmux"]
    assert found.ok is None
    assert "to your terminal" in found.detail
    assert "3.3" in found.hint


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("tmux 3.3a", (3, 3)),
        ("tmux next-3.5", (3, 5)),
        ("git version 2.39.5", (2, 39)),
        ("", (0, 0)),
    ],
)
def test_versions(text, version):
    assert doctor.version(text) == version


def test_a_command_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(doctor, "_TIMEOUT", 0.05)
    assert asyncio.run(doctor.output("sleep", "30")) is None
    assert asyncio.run(doctor.output("false")) is None
    assert asyncio.run(doctor.output("/nowhere/x")) is None


def test_a_command_that_ends_when_its_time_runs_out_is_no_error(monkeypatch):
    """What it was to be told comes too late then: it is gone, and was reaped already."""

    async def late(awaited: object, timeout: float) -> object:
        process = found[0]
        awaited.close()  # type: ignore[attr-defined]
        os.kill(process.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # asyncio's watcher was first
            os.waitpid(process.pid, 0)  # as that does, in another thread
        raise TimeoutError

    found: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def started(*argv: str, **more: object) -> asyncio.subprocess.Process:
        found.append(await start(*argv, **more))  # type: ignore[arg-type]
        return found[0]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", started)
    monkeypatch.setattr(asyncio, "wait_for", late)
    assert asyncio.run(doctor.output("sleep", "60")) is None


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_TIMEOUT", 0.3)
    script = f"sleep 300 & echo $! >{tmp_path}/pid; wait"
    assert asyncio.run(doctor.output("sh", "-c", script)) is None
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while process.start_time(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not process.start_time(pid)


def test_facts_are_what_a_worker_would_find(tmp_path, monkeypatch):
    from outpost_core.backend import BuildContext
    from outpost_local import resources
    from outpost_local.outpost import LocalOutpost

    own = tmp_path / "own"
    own.mkdir()
    (own / "claude").write_text("#!/bin/sh\n")
    (own / "claude").chmod(0o755)
    options = LocalOptions(agent_path=(str(own),))
    outpost = LocalOutpost("local", options, BuildContext(state_dir=tmp_path / "state"))
    facts = asyncio.run(outpost.outpost_facts(["claude", "no-such-agent", "sh"]))
    assert facts.programs["claude"] == str(own / "claude")
    assert facts.programs["no-such-agent"] == ""
    assert facts.programs["sh"].endswith("/sh")
    assert facts.cpus == len(os.sched_getaffinity(0))
    assert facts.memory is not None
    assert facts.memory > 2**28
    monkeypatch.setattr(resources, "cores", lambda: 3)
    monkeypatch.setattr(resources, "whole_memory", lambda: 64 * 2**30)
    assert resources.slots() == (6, "3 cores and 64.0 GiB of memory")
    monkeypatch.setattr(resources, "whole_memory", lambda: 5 * 2**30)
    assert options.default_slots()[0] == 2
    monkeypatch.setattr(resources, "whole_memory", lambda: 2**20)
    assert resources.slots()[0] == 1


def test_a_memory_limit_of_the_control_group_counts(tmp_path):
    from outpost_local import resources

    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/box\n")
    (tmp_path / "cgroup" / "box").mkdir(parents=True)
    limit = tmp_path / "cgroup" / "box" / "memory.max"
    limit.write_text("max\n")
    whole = resources.whole_memory(tmp_path / "cgroup", tmp_path / "proc")
    limit.write_text("1048576\n")
    assert resources.whole_memory(tmp_path / "cgroup", tmp_path / "proc") == 1048576
    assert whole is not None
    assert whole > 1048576


def test_a_login_that_is_not_there_is_said(tmp_path, monkeypatch):
    from outpost_agents.presets import PRESETS
    from outpost_core.agents import logged_in

    claude = PRESETS["claude"]
    for name in claude.secrets:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    program = tmp_path / "bin" / "claude"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    found = examine(tmp_path, f"{program.parent}:{os.environ['PATH']}")["agent claude"]
    assert (found.ok, "no login" in found.detail) == (None, True)
    assert "claude /login" in found.hint
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude" / ".credentials.json").write_text("{}")
    assert examine(tmp_path, f"{program.parent}:{os.environ['PATH']}")["agent claude"].ok is True
    assert logged_in(claude, {"HOME": "/nowhere", "ANTHROPIC_API_KEY": "k"}) is True
    assert logged_in(claude, {"HOME": "/nowhere"}) is False
