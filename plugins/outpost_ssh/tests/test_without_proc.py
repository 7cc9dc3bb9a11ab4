"""The near side on a machine that has no `/proc`, and far machines on which no worker can run.

There is no Mac here. What can be shown without one: in a mount namespace of its own the command
line finds an empty `/proc`, as on every system but Linux, while the sshd outside has the real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nearkit import AGENT, DEADLINE, Near
from peers.sshd import Sshd, sshd

from outpost_testing.gitrig import GitRig

OUTPOST = str(Path(sys.executable).with_name("outpost"))
#: Runs a command where `/proc` is an empty folder.
WITHOUT_PROC = (
    *("unshare", "--mount", "sh", "-c"),
    'mount -t tmpfs -o ro none /proc && [ ! -e /proc/self ] && exec "$@"',
    "sh",
)


class Desk:
    """A command line without `/proc`, with a local outpost and one behind a real sshd."""

    def __init__(self, folder: Path, server: Sshd) -> None:
        self.server = server
        self.folder = folder
        self.config = folder / "outposts.yaml"
        self.config.write_text("outposts:\n  - {name: local, type: local}\n")
        home = folder / "laptop"
        (home / ".ssh").mkdir(parents=True)
        self.env = {name: value for name, value in os.environ.items() if name[:4] != "TMUX"}
        self.env |= {"HOME": str(home), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        self.env.pop("SSH_AUTH_SOCK", None)

    def argv(self, *words: str) -> list[str]:
        state = ("--state", str(self.folder / "state"))
        return [*WITHOUT_PROC, OUTPOST, "--config", str(self.config), *state, *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words), env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=90,
        )  # fmt: skip

    def ok(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def add(self, *more: str) -> str:
        where = ("--host", self.server.host, "--port", str(self.server.port))
        who = ("--user", self.server.user, "--ssh-key", str(self.server.key))
        return self.ok(
            "add", "ssh", "vm1", *where, *who, "--python", sys.executable, "--keepalive", "0.5s",
            "--trust-on-first-use", *more,
        )  # fmt: skip

    def state(self, worker: str) -> str:
        found = json.loads(self.ok("workers", "--all", "--json"))["workers"]
        return next(str(one["status"]) for one in found if one["issue"] == worker)

    def until(self, worker: str, *wanted: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while (now := self.state(worker)) not in wanted:
            assert time.monotonic() < deadline, now


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with sshd(tmp_path / "sshd") as server:
        yield Desk(tmp_path, server)


def test_a_laptop_works_with_a_host_from_the_introduction_to_the_branch_at_home(desk: Desk) -> None:
    (desk.folder / "src").mkdir()
    rig = GitRig(desk.folder / "src")
    desk.add()
    assert desk.server.host_key in desk.config.read_text()
    script = "echo on the way; echo done > new.txt"
    spawned = desk.run(
        "spawn", "gt-1", "--title", "One", "--prompt", "Do it", "--on", "vm1",
        "--rig", str(rig.path), "--follow", "--", "sh", "-c", script,
    )  # fmt: skip
    assert spawned.returncode == 0, spawned.stderr
    assert "on the way" in spawned.stdout + spawned.stderr
    assert rig.show("outpost/gt-1", "new.txt") == "done"
    assert desk.state("gt-1") == "done"
    assert "gt-1.1" in desk.ok("workers", "--all")
    assert desk.ok("logs", "-f", "gt-1") == "on the way\n"
    assert "delivered" in desk.ok("mail", "send", "vm1:mayor/", "-s", "Hello", "-m", "How is it?")
    assert "Hello" in desk.ok("mail", "inbox", "vm1")
    assert "vm1" in desk.ok("list")
    asked = desk.run("ping", "--json").stdout
    assert "has no /proc" in asked
    assert "Traceback" not in asked
    doctor = desk.run("doctor", "vm1", "--json")
    missing = [one for one in json.loads(doctor.stdout)["findings"] if one["ok"] is False]
    assert [one["check"] for one in missing] == ["agent claude"], "nobody installed an agent there"
    assert desk.ok("clean", "gt-1")


def test_attach_and_stop(desk: Desk) -> None:
    desk.add()
    python = (sys.executable, "-I", "-S", "-c", AGENT)
    desk.ok("spawn", "gt-1", "--title", "One", "--on", "vm1", "--no-rig", "--interactive",
            "--", *python)  # fmt: skip
    near = Near(desk.argv("attach", "gt-1"), desk.env, 90, 30)
    try:
        near.until(b"ready")
        near.type(b"x")
        near.until(b"[78]")
        near.resize(100, 40)  # keys without a pause in between are text to tmux
        near.until(b"<100x39>")
        near.type(b"\x02d")
        assert near.end() == 0
        assert near.as_before()
    finally:
        near.close()
    desk.ok("stop", "gt-1", "--grace", "1s")
    desk.until("gt-1", "stopped")


def test_this_machine_takes_no_worker_and_says_why(desk: Desk) -> None:
    refused = desk.run("spawn", "gt-1", "--title", "One", "--no-rig", "--", "true")
    assert refused.returncode == 3
    assert "has no /proc" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert desk.ok("workers", "--all")
    for words in (("doctor",), ("bootstrap", "local", "--dry-run")):
        looked = desk.run(*words)
        assert looked.returncode == 1
        assert "/proc" in looked.stdout
        assert "Traceback" not in looked.stderr
    assert "git" not in desk.run("bootstrap", "local", "--dry-run").stdout  # it ended there


def test_a_worker_of_this_machine_is_not_taken_for_dead_when_proc_is_gone(desk: Desk) -> None:
    with_proc = desk.argv()[len(WITHOUT_PROC) :]
    spawn = ("spawn", "gt-1", "--title", "One", "--no-rig", "--", "sleep", "600")
    subprocess.run([*with_proc, *spawn], env=desk.env, check=True, capture_output=True)
    try:
        listed = desk.run("workers", "--json")
        (worker,) = json.loads(listed.stdout)["workers"]
        assert worker["status"] in ("queued", "starting", "working", "idle")
        assert "has no /proc" in desk.run("stop", "gt-1").stderr
    finally:
        for words in (("stop", "gt-1", "--grace", "0s"), ("wait", "gt-1")):
            subprocess.run([*with_proc, *words], env=desk.env, check=False, capture_output=True)


def test_a_host_without_proc_is_refused_before_anything_is_changed(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uname").write_text("#!/bin/sh\necho Darwin\n")
    (tools / "uname").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    with sshd(tmp_path / "sshd", within=WITHOUT_PROC, env={"PATH": path}) as server:
        desk = Desk(tmp_path, server)
        desk.add()
        before = sorted(server.home.rglob("*"))
        spawned = desk.run("spawn", "gt-1", "--title", "One", "--no-rig", "--on", "vm1",
                           "--", "true")  # fmt: skip
        assert spawned.returncode == 3
        assert "its /proc cannot be read" in spawned.stderr
        assert "vm1" in desk.ok("list")
        for words in (("doctor", "vm1"), ("bootstrap", "vm1")):
            looked = desk.run(*words)
            assert looked.returncode == 1
            assert "Darwin: workers need Linux, whose /proc" in looked.stdout
        assert sorted(server.home.rglob("*")) == before
