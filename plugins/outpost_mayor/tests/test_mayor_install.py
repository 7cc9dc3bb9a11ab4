"""`outpost serve --install`: the files that the system reads, and where secrets go."""

from __future__ import annotations

import json
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from servekit import PATIENCE, Town

from outpost_core.errors import OutpostError, UsageError
from outpost_mayor.serving import install
from outpost_mayor.serving.program import read_secrets


@pytest.fixture
def town(tmp_path: Path) -> Town:
    folder = tmp_path / "a b%c$d"
    folder.mkdir()
    return Town(folder)


def test_a_dry_run_shows_everything_and_writes_nothing(town: Town) -> None:
    before = sorted(town.home.rglob("*"))
    said = town.run("serve", "--install", "--dry-run", "--secret", "KEY", env={"KEY": "hunter2"})
    assert "KillMode=process" in said
    assert "would run: systemctl --user restart outpost-mayor.service" in said
    assert "hunter2" not in said
    assert sorted(town.home.rglob("*")) == before
    there = {"OUTPOST_CONFIG": str(town.config), "XDG_STATE_HOME": str(town.home / "states")}
    words = [sys.executable, "-m", "outpost_manager", "serve", "--install", "--dry-run", "--json"]
    done = subprocess.run(
        words,
        env={**town.env, **there},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )  # fmt: skip
    unit = json.loads(done.stdout)["text"]
    assert "--config" in unit, "the system's programs do not hear what the shell says"
    assert f'"--state" "{town.home}/states/outpost"'.replace("%", "%%") in unit.replace("$$", "$")
    assert sorted(town.home.rglob("*")) == before


def test_the_unit_is_one_that_systemd_takes_and_secrets_are_apart(town: Town) -> None:
    bin_ = town.home / "bin"
    bin_.mkdir()
    called = town.home / "called"
    (bin_ / "systemctl").write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$*\" >> '{called}'\n[ $2 != is-active ] || echo active\n"
    )
    (bin_ / "systemctl").chmod(0o755)
    town.env["PATH"] = f"{bin_}:{town.env['PATH']}"
    said = town.run("serve", "--install", "--secret", "KEY", env={"KEY": "hunter 2"})
    assert "the system says: active" in said
    assert called.read_text().splitlines() == [
        "--user daemon-reload", "--user enable outpost-mayor.service",
        "--user restart outpost-mayor.service", "--user is-active outpost-mayor.service",
    ]  # fmt: skip
    unit = town.home / ".config" / "systemd" / "user" / install.UNIT
    secrets = town.home / ".config" / "outpost" / install.SECRETS
    assert "hunter" not in unit.read_text() + said
    assert (secrets.stat().st_mode & 0o777, unit.stat().st_mode & 0o077) == (0o600, 0)
    assert read_secrets(secrets) == {"KEY": "hunter 2"}
    town.run("serve", "--install", "--secret", "OTHER", env={"OTHER": "x"})
    town.run("serve", "--install")
    assert read_secrets(secrets) == {"KEY": "hunter 2", "OTHER": "x"}
    if (verify := shutil.which("systemd-analyze")) is not None:
        done = subprocess.run(
            [verify, "--user", "verify", str(unit)], capture_output=True, text=True, check=False,
            env=town.env | {"XDG_RUNTIME_DIR": str(town.home)}, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert unit.name not in done.stderr, done.stderr
    argv = [sys.executable, "-m", "outpost_manager", "--config", str(town.config)]
    assert " ".join(map(install._quoted, argv)) in unit.read_text()
    assert "is removed" in town.run("serve", "--uninstall")
    assert not unit.exists()
    assert secrets.exists()
    assert "nothing was installed" in town.run("serve", "--uninstall")


def test_what_the_system_refuses_is_said(town: Town) -> None:
    bin_ = town.home / "bin"
    bin_.mkdir()
    (bin_ / "systemctl").write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2; exit 1\n")
    (bin_ / "systemctl").chmod(0o755)
    town.env["PATH"] = f"{bin_}:{town.env['PATH']}"
    assert "Failed to connect to bus" in town.run("serve", "--install", code=1)


def test_a_secret_that_is_not_there_is_refused_before_anything_is_written(town: Town) -> None:
    assert "KEY is not set" in town.run("serve", "--install", "--secret", "KEY", code=2)
    two = town.run("serve", "--install", "--secret", "KEY", code=2, env={"KEY": "a\nb"})
    assert "several lines" in two
    assert "exclude each other" in town.run("serve", "--install", "--status", code=2)
    assert not (town.home / ".config").exists()


def test_the_agent_of_macos_is_a_plist_with_the_same_program(tmp_path: Path) -> None:
    made = install.plan(["/x/python", "-m", "outpost_manager", "serve"],
                        {"HOME": str(tmp_path), "PATH": "/usr/bin"}, macos=True)  # fmt: skip
    said = plistlib.loads(made.text.encode())
    assert said["ProgramArguments"][:4] == ["/x/python", "-m", "outpost_manager", "serve"]
    assert said["AbandonProcessGroup"] is True
    assert made.unit == tmp_path / "Library" / "LaunchAgents" / "dev.outpost.mayor.plist"


def test_words_that_no_unit_can_hold_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot stand"):
        install._quoted("a\nExecStartPre=evil")
    assert issubclass(UsageError, OutpostError)
