"""The command of `git_credentials`: what it prints is a login, or the worker is not started."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from outpost_cloudrun.options import CloudRunOptions
from outpost_core.errors import SpawnRefusedError
from outpost_exec import gitlogin

RIG = "https://github.com/a/b"


def asked(tmp_path: Path, script: str, rig: str | None = RIG) -> str:
    """Return what the command is taken to print."""
    argv = (sys.executable, "-c", script)
    options = CloudRunOptions(url="https://x.example", git_credentials=argv)
    return asyncio.run(gitlogin.git_login(options.git_credentials, tmp_path, rig))


def test_it_knows_the_repository_and_runs_in_the_folder_of_the_configuration(
    tmp_path: Path,
) -> None:
    script = "import os; print(os.environ['OUTPOST_RIG'].replace('/', '_'), os.getcwd(), sep='-')"
    assert asked(tmp_path, script) == f"{RIG.replace('/', '_')}-{tmp_path}\n".replace("://", ":__")
    assert asked(tmp_path, script, rig=None) == ""
    none = CloudRunOptions(url="https://x.example")
    assert asyncio.run(gitlogin.git_login(none.git_credentials, tmp_path, RIG)) == ""


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("raise SystemExit('no such account')", "it ended with 1: no such account"),
        ("pass", "printed nothing usable"),
        ("print('x' * 100_000)", "printed nothing usable"),
        ("print('not a token: log in first')", "git cannot log in with what was given"),
        ("print('-----BEGIN OPENSSH PRIVATE KEY-----')", "the private key in it is not whole"),
    ],
)
def test_what_is_no_login_starts_nothing_and_is_not_shown(
    tmp_path: Path, script: str, said: str
) -> None:
    with pytest.raises(SpawnRefusedError, match=said) as caught:
        asked(tmp_path, script)
    assert "log in first" not in str(caught.value)
    assert caught.value.hint


def test_a_command_that_hangs_or_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gitlogin, "_PATIENCE", 0.2)
    with pytest.raises(SpawnRefusedError, match=r"it took over 0\.2 s"):
        asked(tmp_path, "import time; time.sleep(60)")
    options = CloudRunOptions(url="https://x.example", git_credentials=("/no/such/program",))
    with pytest.raises(SpawnRefusedError, match="/no/such/program"):
        asyncio.run(gitlogin.git_login(options.git_credentials, tmp_path, RIG))
