from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from outpost_testing.gitrig import GitRig
from outpost_worker.work import beads


def bd(path: str, cwd: Path, *args: str) -> str:
    env = {**os.environ, "PATH": path, "BEADS_NO_DAEMON": "1", "HOME": str(cwd)}
    done = subprocess.run(
        ["bd", *args], cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.beads
@pytest.mark.parametrize("ignore", [True, False])
def test_the_real_bd_reads_the_issue_and_nothing_else_happens(
    tmp_path: Path, bd_path: str, monkeypatch: pytest.MonkeyPatch, ignore: bool
) -> None:
    rig = GitRig(tmp_path)
    bd(bd_path, rig.seed, "--sandbox", "init", "--prefix", "gt", "--quiet", "--skip-hooks")
    bd(bd_path, rig.seed, "--no-daemon", "create", "Fix it", "--id", "gt-1", "-d", "long text")
    if not ignore:
        (rig.seed / ".beads/.gitignore").write_text("")
        for path in (rig.seed / ".beads").iterdir():
            if path.suffix not in (".jsonl", ".yaml", ".json", ".md") and path.name[0] != ".":
                path.unlink()
    rig.commit({"x": "1"})
    refs = rig.git("for-each-ref", cwd=rig.path)
    monkeypatch.setenv("PATH", bd_path)
    worker = rig.worker()
    space = worker.prepare()
    assert space["beads"] == "bd 0.47.1 has the issue"
    assert "long text" in bd(bd_path, worker.work, "--no-daemon", "show", "gt-1", "--json")
    assert worker.git("status", "--porcelain") == ""
    assert not worker.unpushed()
    assert worker.deliver()["reason"] == "nothing_to_commit"
    assert rig.git("for-each-ref", cwd=rig.path) == refs

    other = rig.worker("gt-404")
    assert "does not have the issue" in other.prepare()["beads"]


def provide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> str:
    programs = tmp_path / "bin"
    programs.mkdir()
    if script is not None:
        (programs / "bd").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{script}\n')
        (programs / "bd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    work = tmp_path / "work"
    (work / ".git/info").mkdir(parents=True)
    (work / ".beads").mkdir()
    return beads.provide(str(work), "gt-1", lambda text: None)


@pytest.mark.parametrize("version", ["0.51.0", "0.60.1-rc1", "1.0.5", "strange", ""])
def test_a_newer_bd_is_only_asked_for_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    said = provide(tmp_path, monkeypatch, f"echo bd version {version}")
    assert "the order carries the issue" in said
    assert (tmp_path / "asked").read_text() == "--version\n"


def test_no_bd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert provide(tmp_path, monkeypatch, None).startswith("bd is not installed")


def test_a_failing_bd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = '[ "$1" = --version ] && echo bd version 0.47.1 && exit; echo broken; exit 1'
    assert "(broken)" in provide(tmp_path, monkeypatch, script)


def test_a_hanging_bd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beads, "BD_TIMEOUT", 0.2)
    script = '[ "$1" = --version ] && echo bd version 0.47.1 && exit; exec sleep 600'
    assert "no end within" in provide(tmp_path, monkeypatch, script)


def test_a_rig_without_beads(tmp_path: Path) -> None:
    assert beads.provide(str(tmp_path), "gt-1", lambda text: None) == ""
