"""The demo and the conformance command, with the real local outpost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from outpost_testing.processes import outliving

OUTPOST = [sys.executable, "-c", "from outpost_manager.cli import main; main()"]


@pytest.fixture
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files with a short name (sockets), empty again at the end."""
    with tempfile.TemporaryDirectory(prefix="op") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        yield Path(folder)


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OUTPOST, *words], capture_output=True, text=True, timeout=200, check=False, env=env
    )


#: the demo, as where no package has brought a queue.
WITHOUT_QUEUE = """\
import outpost_manager.cli.session as session
session.Session.plugin_commands = lambda *_, **__: {}
from outpost_manager.cli import main
main()
"""


def test_the_demo_shows_three_workers_one_killed_and_taken_up_again(own_tmp):
    # whatever server other commands ask
    done = run("demo", "--keep", env={**os.environ, "OUTPOST_SERVER": "http://127.0.0.1:9"})
    assert done.returncode == 0, done.stdout + done.stderr
    story = [
        "$ outpost queue add --from-file issues.jsonl",
        "$ outpost queue run &",
        "$ outpost workers\n",
        "$ kill -9 ",
        "$ outpost workers --all",
        "lost_process",
        "$ outpost retry tests",
        "$ git ls-remote --heads origin",
    ]
    places = [done.stderr.find(part) for part in story]
    assert -1 not in places, done.stderr
    assert places == sorted(places)
    side_by_side = done.stderr[places[2] : places[3]]
    assert side_by_side.count(" working ") == 3
    for part in ("I go on from it", "tests.2 done at local → outpost/tests"):
        assert part in done.stdout
    assert "outpost spawn my-first --title" in done.stdout.splitlines()[-1]
    (kept,) = own_tmp.glob("outpost-demo-*")
    heads = subprocess.run(
        ["git", "-C", str(kept / "remote.git"), "branch", "--format=%(refname:short)"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert heads.stdout.split() == [
        "main", "outpost/greeting", "outpost/readme", "outpost/tests",
    ]  # fmt: skip
    assert outliving(own_tmp, 20) == {}


def test_the_demo_without_a_queue_does_the_same_and_leaves_nothing(own_tmp):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_QUEUE, "demo", "--json"],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert said["ok"]
    assert {one["id"]: one["status"] for one in said["workers"]} == {
        "greeting.1": "done", "readme.1": "done", "tests.2": "done",
    }  # fmt: skip
    assert said["killed"] == "tests.1"
    assert said["branches"] == {one["branch"]: one["commit"] for one in said["workers"]}
    assert '+print("Hello, world")' in said["diff"]
    assert "agent: tests, attempt 2" in said["log"]
    assert said["folder"] is None
    assert [p for p in own_tmp.iterdir() if p.name.startswith("outpost-demo-")] == []
    assert outliving(own_tmp, 20) == {}


def test_a_demo_that_was_killed_ends_all_the_same(own_tmp):
    with subprocess.Popen([*OUTPOST, "demo"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "$ outpost workers" in line:
                break
        process.kill()
    assert outliving(own_tmp, 120) == {}


def test_the_demo_without_git_says_what_to_install(own_tmp, tmp_path):
    (tmp_path / "empty").mkdir()
    done = run("demo", env={**os.environ, "PATH": str(tmp_path / "empty")})
    assert done.returncode == 2
    assert "apt-get install git" in done.stderr


def test_the_demo_without_the_local_outpost_is_honest(own_tmp, outpost):
    result = outpost.run("demo")
    assert result.exit_code == 3
    assert "pip install ./plugins/outpost_local" in result.stderr
    assert list(own_tmp.iterdir()) == []


def test_conformance_reports_each_check(own_tmp):
    state = ("--state", str(own_tmp / "state"))
    done = run(*state, "conformance", "local", "--group", "load", "--json")
    said = json.loads(done.stdout)
    assert done.returncode == (0 if said["ok"] else 1)
    assert said["outpost"] == "local"
    assert said["checks"]
    assert {check["group"] for check in said["checks"]} == {"load"}
    assert said["passed"] + said["failed"] + said["not_declared"] == len(said["checks"])


def test_conformance_of_an_unknown_group_or_outpost(own_tmp):
    assert run("conformance", "local", "--group", "nope").returncode == 2
    assert list(own_tmp.glob("outpost-conformance-*")) == []
    assert run("conformance", "nowhere").returncode == 4


def test_without_the_kit_its_command_names_the_package(own_tmp, outpost):
    result = outpost.run("conformance", "local")
    assert result.exit_code == 2
    assert "pip install ./plugins/outpost_testing" in result.stderr


def test_ctrl_c_leaves_a_real_worker_that_can_be_found_again(own_tmp):
    (own_tmp / "go").touch()
    state = ("--state", str(own_tmp / "state"))
    script = f"echo begun; while [ -e {own_tmp}/go ]; do sleep 0.05; done; echo ended"
    words = [*OUTPOST, *state, "spawn", "gt-1", "--no-rig", "--follow", "--", "sh", "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"gt-1.1 keeps running" in err
    (worker,) = json.loads(run(*state, "workers", "--json").stdout)["workers"]
    assert (worker["id"], worker["status"]) == ("gt-1.1", "working")
    (own_tmp / "go").unlink()
    assert run(*state, "wait", "gt-1").returncode == 0
    assert run(*state, "logs", "-f", "gt-1").stdout == "begun\nended\n"
    assert run(*state, "clean").stdout == "gt-1.1: cleaned\n"
    assert outliving(own_tmp, 20) == {}
