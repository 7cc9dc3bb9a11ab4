"""An agent's session comes along to the working tree of the next attempt."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from outpost_agents.claude import sessions

SESSION = "35814092-99b2-4a66-99e1-1dc2cbd7fc10"
ARGV = ("claude", "-p", "--resume", SESSION, "--", "{prompt}")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    project = tmp_path / "home" / ".claude" / "projects" / "-w-x-1-work"
    project.mkdir(parents=True)
    (project / f"{SESSION}.jsonl").write_text("what was said\n")
    return tmp_path / "home"


def work_of(tmp_path: Path) -> Path:
    work = tmp_path / "x.2" / "work_tree"
    work.mkdir(parents=True)
    return work


@pytest.mark.parametrize("variable", ["HOME", "CLAUDE_CONFIG_DIR"])
def test_the_session_is_copied_to_where_it_is_looked_for(
    home: Path, tmp_path: Path, variable: str
) -> None:
    work = work_of(tmp_path)
    config = home / ".claude"
    env = {"HOME": str(home)}
    if variable == "CLAUDE_CONFIG_DIR":
        env = {"HOME": "/nowhere", variable: str(config)}
    for _ in range(2):
        assert sessions.bring(ARGV, env, str(work))
    name = "".join(c if c.isalnum() else "-" for c in str(work.resolve()))
    copied = config / "projects" / name / f"{SESSION}.jsonl"
    assert copied.read_text() == "what was said\n"
    assert copied.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]


@pytest.mark.parametrize(
    "argv",
    [
        ("claude", "-p", "--", "{prompt}"),
        ("claude", "--resume"),
        ("other", "--resume", SESSION),
        ("claude", "--resume", "../../etc/passwd"),
        ("claude", "--resume", "0" * 36),
    ],
)
def test_anything_else_is_left_alone(home: Path, tmp_path: Path, argv: tuple[str, ...]) -> None:
    before = sorted(home.rglob("*"))
    assert not sessions.bring(argv, {"HOME": str(home)}, str(work_of(tmp_path)))
    assert sorted(home.rglob("*")) == before
    assert not sessions.bring(ARGV, {"HOME": "/nowhere"}, str(tmp_path))


@pytest.mark.parametrize("what", ["file", "folder", "pipe", "target", "projects"])
def test_what_an_agent_put_in_the_place_of_a_session_is_not_followed(
    home: Path, tmp_path: Path, what: str
) -> None:
    work, projects = work_of(tmp_path), home / ".claude/projects"
    private = home / "private"
    private.mkdir()
    (private / f"{SESSION}.jsonl").write_text("a key")
    session = projects / "-w-x-1-work" / f"{SESSION}.jsonl"
    name = "".join(c if c.isalnum() else "-" for c in str(work.resolve()))
    if what in ("file", "pipe"):
        session.unlink()
    if what == "file":
        session.symlink_to(private / f"{SESSION}.jsonl")
    elif what == "pipe":
        os.mkfifo(session)
    elif what == "folder":
        shutil.rmtree(session.parent)
        session.parent.symlink_to(private)
    elif what == "target":
        (private / f"{SESSION}.jsonl").unlink()
        (projects / name).symlink_to(private)
    else:
        shutil.rmtree(projects)
        projects.symlink_to(home)
        private.rename(home / "p")
    assert not sessions.bring(ARGV, {"HOME": str(home)}, str(work))
    assert not (projects / name).exists() or not any((projects / name).iterdir())
