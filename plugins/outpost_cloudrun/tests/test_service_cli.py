"""The command line on a Cloud Run outpost: every command is a program that has ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from farkit import PATIENCE, Far, far
from keeperkit import keepers, runtime, until
from peers.githttp import serving
from rigs import make_rig


class Shell:
    """A user's shell: a configuration, a state folder, and the command `outpost`."""

    def __init__(self, folder: Path, server: Far, rig: str, run: str) -> None:
        self.folder = folder
        self.rig = rig
        self.run = run
        config = folder / "outposts.yaml"
        config.write_text(
            f"outposts:\n  - {{name: burst, type: cloudrun, url: '{server.url}', auth: none,"
            " max_workers: 4, warm_for: 0s}\n"
        )
        self.env = {
            **os.environ,
            "HOME": str(folder),
            "OUTPOST_CONFIG": str(config),
            "OUTPOST_STATE": str(folder / "state"),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }

    def outpost(self, *words: str, code: int | None = 0) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("outpost")), *words],
            cwd=self.folder, env=self.env, capture_output=True, text=True,
            timeout=2 * PATIENCE, check=False,
        )  # fmt: skip
        assert code in (None, done.returncode), (words, done.stdout, done.stderr)
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.outpost("--json", *words))


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    with (
        serving(tmp_path / "rigs") as git,
        runtime(monkeypatch) as run,
        far(tmp_path / "far", OUTPOST_LOOK="0.2") as server,
    ):
        make_rig(git, tmp_path)
        yield Shell(tmp_path, server, f"{git.url}/app", run)


def test_spawn_wait_logs_status_and_clean(shell: Shell) -> None:
    assert keepers(shell.run) == []
    for words in (["list"], ["config", "check"], ["explain", "x-1", "--no-rig", "--", "true"]):
        shell.outpost(*words)
    assert keepers(shell.run) == [], "an outpost that was never used has no process"
    work = "echo begin; sleep 1; echo text >new.txt; echo end"
    shell.outpost("spawn", "gt-1", "--rig", shell.rig, "--on", "burst", "--", "sh", "-c", work)
    (pid,) = keepers(shell.run)
    assert shell.outpost("logs", "-f", "gt-1.1") == "begin\nend\n"
    shell.outpost("wait", "gt-1.1")
    worker = shell.json("show", "gt-1.1")["worker"]
    assert worker["status"] == "done", worker
    assert worker["branch"] == "outpost/gt-1"
    assert worker["outpost"] == "burst"
    there = subprocess.run(
        ["git", "ls-remote", shell.rig, "refs/heads/outpost/gt-1"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert there.split()[0] == worker["commit"]
    assert keepers(shell.run) == [pid]
    shell.outpost("clean", "gt-1.1")
    assert not list((shell.folder / "state" / "outposts" / "burst" / "workers").iterdir())


def test_a_stop_reaches_it_from_another_command(shell: Shell) -> None:
    work = "echo up; echo text >new.txt; sleep 300"
    shell.outpost("spawn", "gt-2", "--rig", shell.rig, "--on", "burst", "--", "sh", "-c", work)
    end = time.monotonic() + PATIENCE
    while "up" not in shell.outpost("logs", "gt-2.1"):
        assert time.monotonic() < end, "it never began"
    shell.outpost("stop", "gt-2.1")
    shell.outpost("wait", "gt-2.1", code=1)
    worker = shell.json("show", "gt-2.1")["worker"]
    assert worker["status"] == "stopped"
    assert worker["checkpoint"].startswith("refs/outpost/"), "its work was rescued"


def test_a_rig_of_this_machine_goes_elsewhere(shell: Shell) -> None:
    local = shell.folder / "rigs" / "app"
    shell.outpost("spawn", "gt-3", "--rig", str(local), "--on", "burst", "--", "true", code=3)
    assert keepers(shell.run) == []


@pytest.mark.parametrize("fault", ["", "keeper.rescued"])
def test_work_that_no_rig_takes_comes_home(shell: Shell, fault: str) -> None:
    """Nothing of it is anywhere but in the container, which will be gone."""
    shell.env["OUTPOST_FAULT"] = fault
    bare = shell.folder / "rigs" / "app"
    work = "echo up; while [ ! -e go ]; do sleep 0.1; done; echo precious >new.txt"
    work = work.replace("go ]", f"{shell.folder}/go ]")
    shell.outpost("spawn", "gt-4", "--rig", shell.rig, "--on", "burst", "--", "sh", "-c", work)
    shell.env["OUTPOST_FAULT"] = ""
    end = time.monotonic() + PATIENCE
    while "up" not in shell.outpost("logs", "gt-4.1"):
        assert time.monotonic() < end, "it never began"
    subprocess.run(["git", "-C", str(bare), "config", "http.receivepack", "false"], check=True)
    (shell.folder / "go").touch()
    shell.outpost("wait", "gt-4.1", code=1)
    worker = shell.json("show", "gt-4.1")["worker"]
    assert (worker["status"], worker["reason"]) == ("failed", "push_failed"), worker
    bundle = Path(worker["checkpoint"])
    rescued = shell.folder / "state" / "outposts" / "burst" / "rescued"
    assert bundle.parent == rescued
    assert [*rescued.iterdir()] == [bundle]
    assert bundle.stat().st_mode & 0o077 == 0
    look = shell.folder / "look"
    subprocess.run(["git", "clone", "-q", str(bare), str(look)], check=True)
    subprocess.run(["git", "-C", str(look), "bundle", "verify", "-q", str(bundle)], check=True)
    ref = "refs/outpost/*:refs/heads/kept/*"
    subprocess.run(["git", "-C", str(look), "fetch", "-q", str(bundle), ref], check=True)
    (kept,) = subprocess.run(
        ["git", "-C", str(look), "for-each-ref", "--format=%(refname)", "refs/heads/kept"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    shown = subprocess.run(
        ["git", "-C", str(look), "show", f"{kept}:new.txt"], capture_output=True, check=True
    ).stdout
    assert shown == b"precious\n"
    assert "not on record" in shell.outpost("clean", "gt-4.1", code=1)
    subprocess.run(["git", "-C", str(bare), "config", "http.receivepack", "true"], check=True)
    records = ["git", "-C", str(bare), "for-each-ref", "refs/outpost/"]
    until(lambda: "kept" not in shell.outpost("clean", "gt-4.1", code=None), "it is not removed")
    assert b"records" not in subprocess.run(records, capture_output=True, check=True).stdout
    assert bundle.exists(), "it outlives the worker"
    assert "new.txt" in shell.outpost("diff", "gt-4.1")


def test_a_state_folder_that_is_gone_lets_clean_find_what_runs_by_its_order(shell: Shell) -> None:
    work = f"echo on; exec sleep 616{os.getpid()}"
    shell.outpost("spawn", "gt-1", "--rig", shell.rig, "--on", "burst", "--", "sh", "-c", work)
    until(lambda: "on" in shell.outpost("logs", "gt-1.1"), "it runs")
    for pid in keepers(shell.run):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not keepers(shell.run), "it was killed")
    shutil.rmtree(shell.folder / "state" / "outposts" / "burst")
    until(lambda: "lost" in shell.outpost("workers", "--all"), "nobody knows it")
    until(lambda: "cleaned" in shell.outpost("clean", "gt-1.1", code=None), "it is found and ended")
    ran = subprocess.run(["pgrep", "-f", f"sleep 616{os.getpid()}"], check=False)
    assert ran.returncode == 1, "no agent runs with nobody watching"
