"""What stays behind in the user's own repository is said; `--base HEAD` means theirs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from outpost_core.errors import UsageError
from outpost_manager.orders.localgit import LocalGit
from outpost_manager.orders.unpushed import base_of, left


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=x", "-c", "user.email=x@x")
    argv = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(argv, check=True, capture_output=True).stdout.decode().strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "main", "seed")
    (tmp_path / "seed/a").write_text("1")
    git(tmp_path / "seed", "add", "-A")
    git(tmp_path / "seed", "commit", "-qm", "1")
    git(tmp_path, "clone", "-q", "--bare", "seed", "rig.git")
    git(tmp_path, "clone", "-q", "rig.git", "clone")
    return tmp_path / "clone"


def said(folder: Path, base: str | None = None) -> str:
    return str(left(LocalGit(folder, {}), base) or "")


def test_nothing_is_said_where_nothing_stays_behind(clone: Path, tmp_path: Path) -> None:
    assert said(clone) == said(tmp_path) == ""
    git(clone, "checkout", "-q", "-b", "feature")
    assert said(clone) == ""


def test_what_stays_behind_is_counted(clone: Path) -> None:
    main = git(clone, "rev-parse", "--short", "HEAD")
    git(clone, "checkout", "-q", "-b", "feature")
    git(clone, "commit", "-q", "--allow-empty", "-m", "mine")
    start = f"the worker starts from main at {main}"
    assert said(clone) == f"{start}; 1 commit of feature is not pushed"
    git(clone, "commit", "-q", "--allow-empty", "-m", "mine")
    (clone / "a").write_text("2")
    (clone / "new").write_text("3")
    assert said(clone) == (
        f"{start}; 2 commits of feature are not pushed; 2 files are changed here"
    )
    git(clone, "push", "-q", "origin", "feature")
    assert said(clone) == f"{start}; 2 files are changed here"
    head = git(clone, "rev-parse", "HEAD")
    assert said(clone, head) == (f"the worker starts from {head[:7]}; 2 files are changed here")
    assert said(clone, "feature").startswith(f"the worker starts from feature at {head[:7]}; 2 ")


def test_a_repository_without_origin_is_its_own_rig(clone: Path) -> None:
    git(clone, "remote", "remove", "origin")
    git(clone, "commit", "-q", "--allow-empty", "-m", "mine")
    assert said(clone) == ""
    (clone / "a").write_text("2")
    head = git(clone, "rev-parse", "--short", "HEAD")
    assert said(clone) == f"the worker starts from main at {head}; 1 file is changed here"
    local = LocalGit(clone, {})
    assert base_of(local, "HEAD") == "HEAD"
    assert base_of(local, "HEAD~1") == git(clone, "rev-parse", "HEAD~1")


def test_head_is_the_users_own_where_the_rig_has_it(clone: Path) -> None:
    first = git(clone, "rev-parse", "HEAD")
    git(clone, "checkout", "-q", "-b", "feature")
    git(clone, "commit", "-q", "--allow-empty", "-m", "mine")
    local = LocalGit(clone, {})
    assert base_of(local, "main") == "main"
    assert base_of(local, None) is None
    assert base_of(local, "HEAD~1") == first
    with pytest.raises(UsageError, match="1 of its commits are not pushed") as caught:
        base_of(local, "HEAD")
    assert "git push" in caught.value.hint
    assert "--rig ." in caught.value.hint
    git(clone, "push", "-q", "origin", "feature")
    assert base_of(local, "HEAD") == git(clone, "rev-parse", "HEAD")
    with pytest.raises(UsageError, match="there is no 'HEAD~9' here"):
        base_of(local, "HEAD~9")
