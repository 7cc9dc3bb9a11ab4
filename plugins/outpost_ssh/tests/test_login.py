"""What a login shell sets up is found out once, whatever the shell is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from outpost_ssh.far import login


def environ(home: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(home), "PATH": "/usr/bin:/bin", "SHELL": "/bin/bash", **more}


def test_variables_of_a_profile_are_told(tmp_path: Path) -> None:
    (tmp_path / ".profile").write_text("export A='two\nlines' PATH=/opt/x:$PATH\n")
    told = login.environment(environ(tmp_path))
    assert told["A"] == "two\nlines"
    assert told["PATH"].startswith("/opt/x:")


def test_what_belongs_to_the_connection_is_left_out(tmp_path: Path) -> None:
    of_it = dict.fromkeys(login.OF_THE_CONNECTION, "x")
    told = login.environment(environ(tmp_path, **of_it))
    assert not set(told) & {*of_it, "SHLVL", "PWD", "_"}


def test_a_forwarded_agent_wins_over_one_of_the_profile(tmp_path: Path) -> None:
    (tmp_path / ".profile").write_text("export SSH_AUTH_SOCK=/run/own\n")
    assert login.environment(environ(tmp_path))["SSH_AUTH_SOCK"] == "/run/own"
    forwarded = environ(tmp_path, SSH_AUTH_SOCK="/tmp/ssh-x/agent.1")
    assert login.environment(forwarded)["SSH_AUTH_SOCK"] == "/tmp/ssh-x/agent.1"


@pytest.mark.parametrize("shell", ["/usr/sbin/nologin", "/nowhere/sh", "/bin/false", ""])
def test_without_a_shell_that_tells_it_is_what_it_was(tmp_path: Path, shell: str) -> None:
    told = login.environment(environ(tmp_path, SHELL=shell, A="1"))
    assert told["A"] == "1"
    assert told["PATH"]


def test_what_a_profile_leaves_running_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".profile").write_text(f"export A=1\nsleep 300 & echo $! >{tmp_path}/pid\n")
    begun = time.monotonic()
    assert login.environment(environ(tmp_path))["A"] == "1"
    assert time.monotonic() - begun < login.PATIENCE
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")


def test_endless_noise_ends_the_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "PATIENCE", 1.0)
    (tmp_path / ".profile").write_text("export A=1; yes\n")
    assert login.environment(environ(tmp_path, B="2"))["B"] == "2"
