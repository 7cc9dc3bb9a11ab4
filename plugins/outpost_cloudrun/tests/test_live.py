"""What `make cloudrun-live` tries with an account, tried without one: nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from keeperkit import keepers
from wholekit import IMAGE, PROJECT, git, whole

from outpost_cloudrun.testing.live import Live, run

ROOT = Path(__file__).parents[3]


@pytest.mark.slow(75)
@pytest.mark.apart
@pytest.mark.parametrize("mode", ["service", "job", "instance"])
def test_all_of_it_in_each_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    folder = tmp_path / "live"
    folder.mkdir()
    with whole(tmp_path, monkeypatch) as desk:
        live = Live(
            folder=folder,
            pause=10.0,
            environ={
                **os.environ,
                "OUTPOST_LIVE_PROJECT": PROJECT,
                "OUTPOST_LIVE_IMAGE": IMAGE,
                "OUTPOST_LIVE_RIG": desk.rig,
                "OUTPOST_LIVE_AUTH": "metadata",
                "OUTPOST_LIVE_ENDPOINT": desk.google.admin,
                "OUTPOST_LIVE_MODES": mode,
            },
        )
        said: list[str] = []
        good = run(live, said.append)
        print("\n".join(said))
        assert good, said
        assert len(said) == 1 + 4
        assert keepers(desk.run) == []
        rig = desk.google.folder / "rigs" / "rig.git"
        left = git(rig, "for-each-ref", "--format=%(refname)")
        assert left == "refs/heads/main"
        journal = desk.google.journal
        assert len(journal.entries("service.deleted")) == (1 if mode == "service" else 0)
        for kind in ("job", "instance"):
            for what in ("created", "deleted"):
                made = journal.entries(f"{kind}.{what}")
                assert len(made) == (3 if kind == mode else 0), (kind, what)


def test_what_is_not_so_is_told_and_what_was_made_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with whole(tmp_path, monkeypatch) as desk:
        live = Live(
            folder=tmp_path,
            environ={
                **os.environ,
                "OUTPOST_LIVE_PROJECT": PROJECT,
                "OUTPOST_LIVE_IMAGE": IMAGE,
                "OUTPOST_LIVE_RIG": desk.rig,
                "OUTPOST_LIVE_AUTH": "metadata",
                "OUTPOST_LIVE_ENDPOINT": desk.google.admin,
                "OUTPOST_LIVE_MODES": "job",
            },
        )
        monkeypatch.setattr(
            Live, "trials", lambda self: iter([("wrong", lambda: self.check_done(
                self.spawn("job", "wrong", "exit 3")))])
        )  # fmt: skip
        said: list[str] = []
        assert not run(live, said.append)
        assert len(said) == 1
        assert said[0].startswith("✗ wrong: ")
        assert "job.deleted" in (desk.google.folder / "journal.ndjson").read_text()


def test_without_an_account_nothing_is_tried_and_that_is_said() -> None:
    made = subprocess.run(
        ["make", "-n", "--no-print-directory", "cloudrun-live"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.rstrip().endswith("python -m outpost_cloudrun.testing.live")
    environ = {name: value for name, value in os.environ.items() if "LIVE" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "outpost_cloudrun.testing.live"],
        env=environ, capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert "Nothing was tried: OUTPOST_LIVE_PROJECT, OUTPOST_LIVE_IMAGE" in done.stderr
