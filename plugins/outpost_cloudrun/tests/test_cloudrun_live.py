"""`make cloudrun-live`: its commands are tried against the emulator, as with an account."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulkit import IMAGE
from keeperkit import runtime

from outpost_cloudrun.testing.emulator import emulating
from outpost_cloudrun.testing.knobs import Image

SCRIPT = Path(__file__).parents[3] / "scripts" / "cloudrun-live"


def live(**env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "XDG_RUNTIME_DIR") if name in os.environ}
    return subprocess.run(
        [SCRIPT], env={**kept, **env}, capture_output=True, text=True, timeout=280, check=False
    )


def test_without_an_account_it_says_what_it_needs() -> None:
    done = live(HOME="/nonexistent")
    assert done.returncode == 0
    assert done.stdout.startswith("skipped: PROJECT is not set")


def test_its_commands_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = tmp_path / "bin" / "claude"
    agent.parent.mkdir()
    agent.write_text("#!/bin/sh\n")
    agent.chmod(0o755)
    image = Image(env={"PATH": f"{agent.parent}:/usr/bin:/bin", "OUTPOST_LOOK": "0.3"})
    with (
        runtime(monkeypatch),
        emulating(tmp_path / "google", images={IMAGE: image}) as google,
    ):
        done = live(
            **google.environment,
            HOME=str(tmp_path),
            PROJECT="proj-1",
            REGION="us-central1",
            BUCKET="outpost",
            IMAGE=IMAGE,
            OUTPOST=str(Path(sys.executable).parent / "outpost"),
            OPTIONS=f"endpoint: {google.admin}\nauth: metadata",
            KEEP="1",
        )
        left = [*google.cloud.jobs, *google.cloud.instances]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all of it works: service job instance" in done.stdout
    assert not left
