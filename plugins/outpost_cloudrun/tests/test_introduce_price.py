"""`outpost add cloudrun`: what an hour costs is said, and agreed to, before anything is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from outpost_cloudrun.options import CloudRunOptions
from outpost_cloudrun.plugin import outpost_backends
from outpost_manager.cli.app import cli
from outpost_manager.cli.session import Session
from outpost_manager.config import load_config

WORDS = ("add", "cloudrun", "burst", "--project", "my-gcp-project", "--service", "worker")
BOTH = ("--region", "us-central1", "--region", "europe-west4")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("OUTPOST_")]:
        monkeypatch.delenv(name)
    return tmp_path / "outposts.yaml"


def add(file: Path, *more: str) -> Result:
    options = ["--config", str(file), "--state", str(file.parent / "state")]
    how: dict[str, Any] = {"prog_name": "outpost", "obj": Session()}
    return CliRunner().invoke(cli, [*options, *WORDS, *more], **how)


def test_several_regions_are_several_outposts_each_with_its_price(file: Path) -> None:
    done = add(file, *BOTH, "--max-workers", "20", "--trust-on-first-use")
    assert done.exit_code == 0, done.stderr
    made = load_config(file, {"cloudrun": outpost_backends()}).outposts[-2:]
    assert [each.name for each in made] == ["burst-us-central1", "burst-europe-west4"]
    regions = []
    for each in made:
        assert isinstance(each.options, CloudRunOptions)
        regions.append(each.options.region)
    assert regions == ["us-central1", "europe-west4"]
    assert done.stderr.count("a container that works costs") == 2
    assert "at most" in done.stderr
    assert "--cost-cap-hourly" in done.stderr
    assert "→ outpost bootstrap burst-europe-west4" in done.stdout


def test_nothing_is_written_until_the_price_is_agreed_to(file: Path) -> None:
    done = add(file, *BOTH)
    assert done.exit_code == 2
    assert not file.exists()
    assert "USD an hour" in done.stderr
    assert "--cost-cap-hourly USD" in done.stderr


def test_a_cap_is_what_it_can_come_to_and_no_question_is_left(file: Path) -> None:
    done = add(file, *BOTH[:2], "--cost-cap-hourly", "5")
    assert done.exit_code == 0, done.stderr
    assert "never more than 5 USD in any hour" in done.stderr
