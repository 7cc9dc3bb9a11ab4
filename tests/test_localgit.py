"""What git says of the folder that a user stands in; a failure of git is no answer."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from outpost_core.errors import UsageError
from outpost_manager.orders import localgit
from outpost_manager.orders.localgit import Around, LocalGit

UPSTREAM, FORK = "https://example.com/up/x.git", "git@example.com:me/x.git"


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL", "GIT_DIR", "GIT_AUTHOR_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def repo(home: Path) -> Path:
    made = home / "repo"
    made.mkdir()
    git(made, "init", "-q", "-b", "main")
    return made


def around(folder: Path, environ: Mapping[str, str] = os.environ) -> Around | None:
    return LocalGit(folder, environ).around()


def refused(folder: Path) -> UsageError:
    with pytest.raises(UsageError) as caught:
        around(folder)
    return caught.value


def test_only_gits_own_word_counts_for_none(home: Path) -> None:
    assert around(home) is None


def test_a_broken_configuration_is_told_with_its_hint(repo: Path, home: Path) -> None:
    (home / ".gitconfig").write_text("[user\n")
    error = refused(repo)
    assert "bad config line 1 in file" in error.message
    assert "correct that line" in error.hint
    # outside of a repository, too, nobody knows
    assert "bad config" in refused(home).message


def test_a_repository_of_another_user_is_told_with_its_hint(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    error = refused(repo)
    assert "dubious ownership" in error.message
    assert f"git config --global --add safe.directory {repo}" in error.hint


def test_a_missing_git_is_no_missing_repository(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(repo))
    assert "git is not found here" in refused(repo).message


def test_a_git_that_hangs_is_told(repo: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    (home / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (home / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    monkeypatch.setitem(localgit.git.__kwdefaults__ or {}, "patience", 0.2)
    assert "did not answer within 0.2 s" in refused(repo).message


def test_a_broken_repository_is_none_and_not_the_one_above(repo: Path) -> None:
    broken = repo / "vendor"
    (broken / ".git").mkdir(parents=True)
    (broken / "deep").mkdir()
    error = refused(broken / "deep")
    assert f"{broken}/.git is there, and git does not take it for a repository" in error.message
    (repo / ".git/HEAD").unlink()
    assert f"{repo}/.git" in refused(repo).message


def test_a_worktree_whose_repository_is_gone_is_told(home: Path) -> None:
    left = home / "left"
    left.mkdir()
    (left / ".git").write_text(f"gitdir: {home}/gone/.git/worktrees/left\n")
    assert "not a git repository: " in refused(left).message


def test_inside_of_dot_git_is_no_place(repo: Path) -> None:
    assert "must be run in a work tree" in refused(repo / ".git").message


def test_a_bare_repository_and_a_linked_worktree_are_found(repo: Path, home: Path) -> None:
    git(repo, "-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "--allow-empty", "-m", "1")
    git(home, "clone", "-q", "--bare", str(repo), "bare.git")
    git(home / "bare.git", "remote", "remove", "origin")
    assert around(home / "bare.git") == Around(top=home / "bare.git", rig=str(home / "bare.git"))
    git(repo, "worktree", "add", "-q", str(home / "linked"))
    assert around(home / "linked") == Around(top=home / "linked", rig=str(home / "linked"))


@pytest.mark.parametrize(
    ("words", "push"),
    [
        ((), ""),
        (("remote.origin.pushurl", FORK), FORK),
        (("remote.origin.pushurl", UPSTREAM), ""),
        (("remote.pushDefault", "origin"), ""),
        (("remote.pushDefault", "fork"), FORK),
        (("branch.main.pushRemote", "fork"), FORK),
        (("branch.other.pushRemote", "fork"), ""),
        (("url.git@example.com:me/.pushInsteadOf", "https://example.com/up/"), FORK),
        (("remote.pushDefault", FORK), FORK),
    ],
)
def test_work_goes_where_git_would_push_it(repo: Path, words: tuple[str, ...], push: str) -> None:
    git(repo, "remote", "add", "origin", UPSTREAM)
    git(repo, "remote", "add", "fork", FORK)
    if words:
        git(repo, "config", *words)
    assert around(repo) == Around(top=repo, rig=UPSTREAM, push=push)


def test_shortened_urls_are_written_out(repo: Path) -> None:
    git(repo, "config", "url.https://example.com/up/.insteadOf", "up:")
    git(repo, "remote", "add", "origin", "up:x.git")
    assert around(repo) == Around(top=repo, rig=UPSTREAM)


@pytest.mark.parametrize("guard", ["no_push", "DISABLED", "/dev/null", "no-push://x"])
@pytest.mark.parametrize("key", ["remote.origin.pushurl", "remote.pushDefault"])
def test_a_guard_against_pushing_is_one(repo: Path, guard: str, key: str) -> None:
    git(repo, "remote", "add", "origin", UPSTREAM)
    git(repo, "config", key, guard)
    error = refused(repo)
    assert "nothing is to be pushed from" in error.message
    assert repr(guard) in error.message
    assert "--rig" in error.hint


def test_who_the_user_is(repo: Path, home: Path) -> None:
    assert LocalGit(repo, {}).identity() == ("", "")
    (home / ".gitconfig").write_text("[user]\n\tname = Ä B\n\temail = a@b.example\n")
    assert LocalGit(home, {}).identity() == ("Ä B", "a@b.example")
    git(repo, "config", "user.email", "work@b.example")
    assert LocalGit(repo, {}).identity() == ("Ä B", "work@b.example")
    assert LocalGit(repo, {"GIT_AUTHOR_NAME": "C"}).identity() == ("C", "work@b.example")
    git(repo, "config", "user.name", "two\nlines")
    assert LocalGit(repo, {}).identity() == ("", "work@b.example")
