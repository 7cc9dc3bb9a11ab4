"""`outpost bootstrap` and the rig of `outpost doctor`."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from outpost_core.hookspecs import hookimpl
from outpost_core.types import Finding, Step

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.cli.conftest import Cli


def test_each_step_is_shown_and_a_second_run_finds_it_done(outpost: Cli) -> None:
    first = outpost.ok("bootstrap", "here", "--agent", "claude", "--agent", "codex")
    assert "+ agent claude: in memory" in first
    assert "here: 2 done" in first
    assert "here: 2 there already" in outpost.ok(
        "bootstrap", "here", "--agent", "claude", "--agent", "codex"
    )


def test_a_dry_run_says_what_would_be_done(outpost: Cli) -> None:
    said = outpost.ok("bootstrap", "here", "--dry-run")
    assert "~ agent claude" in said  # the configuration's agent
    assert "1 would be done (dry run)" in said
    assert outpost.here.installed == set()


def test_json_has_each_step_once(outpost: Cli) -> None:
    said = outpost.json("bootstrap", "here")
    assert (said["outpost"], said["ok"], said["dry_run"]) == ("here", True, False)
    (step,) = said["steps"]
    assert (step["name"], step["state"]) == ("agent claude", "done")
    assert step["seconds"] >= 0


def test_a_failed_step_is_exit_code_1_with_its_hint(
    outpost: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    @hookimpl
    async def outpost_bootstrap(agents, dry_run):
        yield Step(name="git", state="doing")
        yield Step(name="git", state="failed", detail="no \x1b[31mroom", hint="make room")

    monkeypatch.setattr(outpost.here, "outpost_bootstrap", outpost_bootstrap)
    said = outpost.ok("bootstrap", "here", code=1)
    assert "✗ git: no" in said
    assert "\x1b" not in said
    assert "→ make room" in said
    assert outpost.json("bootstrap", "here", code=1)["ok"] is False


def test_what_is_no_step_is_a_defect_that_names_the_outpost(
    outpost: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    @hookimpl
    async def outpost_bootstrap(agents, dry_run):
        yield "git"

    monkeypatch.setattr(outpost.here, "outpost_bootstrap", outpost_bootstrap)
    result = outpost.run("bootstrap", "here")
    assert result.exit_code != 0
    assert "'here'" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_agent_is_refused_with_the_nearest_one(outpost: Cli) -> None:
    result = outpost.run("bootstrap", "here", "--agent", "cluade")
    assert result.exit_code == 2
    assert "claude" in result.stderr
    assert outpost.run("bootstrap", "nowhere").exit_code == 4


def test_an_outpost_that_can_not_be_set_up_says_so(outpost: Cli) -> None:
    outpost.here.capabilities -= {"bootstrap"}
    result = outpost.run("bootstrap", "here")
    assert result.exit_code == 2
    assert "cannot bootstrap" in result.stderr


def test_doctor_asks_an_outpost_about_the_repository_around(
    outpost: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    @hookimpl
    async def outpost_doctor(rig):
        asked.append(rig)
        return [Finding(check="rig", ok=True, detail=str(rig))]

    monkeypatch.setattr(outpost.here, "outpost_doctor", outpost_doctor)
    work = tmp_path / "app"
    subprocess.run(["git", "init", "-q", work], check=True)
    monkeypatch.chdir(work)
    url = "https://example.com/x.git"
    outpost.ok("doctor", "here")
    outpost.ok("doctor", "here", "--no-rig")
    outpost.ok("doctor", "here", "--rig", url)
    outpost.ok("doctor")
    assert asked == [str(work), None, url, None]
    assert outpost.run("doctor", "here", "--rig", url, "--no-rig").exit_code == 2
