"""Claude Code is told that a worker's folder is trusted, and nothing of its file is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from outpost_agents.claude import trust

WORK = "/somewhere/work"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / ".claude.json"
    made.write_text(json.dumps({"theme": "dark ☾", "projects": {"/mine": {"allowedTools": ["x"]}}}))
    made.chmod(0o640)
    return made


def accept(file: Path, work: str = WORK) -> bool:
    return trust.accept({"HOME": str(file.parent)}, work)


def test_it_is_written_down_and_the_rest_stays(file: Path) -> None:
    assert accept(file)
    said = json.loads(file.read_text())
    assert said["theme"] == "dark ☾"
    assert said["projects"] == {
        "/mine": {"allowedTools": ["x"]},
        WORK: {"hasTrustDialogAccepted": True},
    }
    assert file.stat().st_mode & 0o777 == 0o640
    before = file.stat().st_ino
    assert accept(file)
    assert file.stat().st_ino == before, "nothing was to be changed"
    assert [path.name for path in file.parent.iterdir()] == [".claude.json"]


def test_a_link_stays_one_and_another_folder_is_honoured(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "config"
    other.mkdir()
    (other / ".claude.json").symlink_to(file)
    assert trust.accept({"HOME": "/nowhere", "CLAUDE_CONFIG_DIR": str(other)}, WORK)
    assert (other / ".claude.json").is_symlink()
    assert WORK in json.loads(file.read_text())["projects"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"projects": 5}', '{"projects": {"%s": 1}}'])
def test_what_is_unusual_is_left_alone(file: Path, content: str) -> None:
    content = content.replace("%s", WORK)
    file.write_text(content)
    assert not accept(file)
    assert file.read_text() == content
    assert not Path(f"{file}.lock").exists()


def test_without_the_file_nothing_is_made(tmp_path: Path) -> None:
    assert not trust.accept({"HOME": str(tmp_path)}, WORK)
    assert not trust.accept({}, WORK)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_waited_for_and_a_dead_ones_is_taken(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "_PATIENCE", 0.2)
    lock = Path(f"{file}.lock")
    lock.mkdir()
    assert not accept(file)
    assert lock.exists(), "it is somebody's"
    old = time.time() - 60
    os.utime(lock, (old, old))
    assert accept(file)
    assert not lock.exists()


def test_many_at_once_lose_nothing(file: Path) -> None:
    program = (
        "import sys\nfrom outpost_agents.claude import trust\ntrust._PATIENCE = 60.0\n"
        "sys.exit(not trust.accept({'HOME': sys.argv[1]}, sys.argv[2]))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(file.parent), f"/work/{n}"])
        for n in range(12)
    ]
    assert [each.wait(120) for each in running] == [0] * 12
    assert len(json.loads(file.read_text())["projects"]) == 13
