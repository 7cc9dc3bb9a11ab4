"""What would fail at the end is found before the agent runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from outpost_core.errors import WorkerError
from outpost_core.types import Agent, Delivery, Issue, Order
from outpost_core.wire import digest
from outpost_testing.gitrig import GitRig, GitWorker
from outpost_worker.repository import git, preflight


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    return GitRig(tmp_path)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "RETRY_DELAYS", (0.01,))


def fails(worker: GitWorker) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        worker.prepare()
    return caught.value


@pytest.mark.parametrize("other", ["polecat", "polecat/gt-1/more"])
def test_a_branch_in_the_way_is_found_before_the_agent_runs(rig: GitRig, other: str) -> None:
    rig.git("push", "-q", "origin", f"main:refs/heads/{other}")
    error = fails(rig.worker())
    assert error.reason == "branch_blocked"
    assert f"has a branch {other}," in error.message
    assert "--branch" in error.hint


def test_the_branch_itself_and_its_neighbours_are_not_in_the_way(rig: GitRig) -> None:
    for other in ("polecat/gt-1", "polecat/gt-11/x", "polecats"):
        rig.git("push", "-q", "origin", f"main:refs/heads/{other}")
    rig.git("push", "-q", "origin", "main:refs/tags/polecat")
    rig.worker().prepare()


def test_where_files_ignore_case_branches_do() -> None:
    refs = ["refs/heads/Polecat", "refs/heads/other"]
    assert preflight.blocking("polecat/x", refs, ignore_case=True) == "Polecat"
    assert preflight.blocking("polecat/x", refs, ignore_case=False) == ""
    assert preflight.blocking("OTHER", refs, ignore_case=True) == "other"
    assert preflight.blocking("other", refs, ignore_case=True) == ""


def test_a_partial_clone_is_named_with_its_origin(rig: GitRig, tmp_path: Path) -> None:
    rig.git("config", "uploadpack.allowFilter", "true", cwd=rig.path)
    rig.commit({"README": "other\n"})
    url = f"file://{rig.path}"
    part = tmp_path / "part"
    rig.git("clone", "-q", "--no-checkout", "--filter=blob:none", url, str(part))
    error = fails(rig.worker(rig=str(part)))
    assert error.reason == "rig_partial"
    assert f"--rig {url}" in error.hint
    assert "rm -r" not in error.hint
    # what the hint says works
    rig.git("fetch", "-q", "--refetch", "--no-filter", cwd=part)
    rig.worker(rig=str(part), issue="gt-2").prepare()


def test_a_broken_rig_is_not_blamed_on_the_mirror(rig: GitRig) -> None:
    rig.worker().prepare()
    commit = rig.commit({"x": "1"})
    blob = rig.git("rev-parse", f"{commit}:x")
    (rig.path / "objects" / blob[:2] / blob[2:]).unlink()
    error = fails(rig.worker(issue="gt-2"))
    assert "rm -r" not in error.hint
    assert f"git -C {rig.path} fsck" in error.hint


def test_a_mistake_in_the_users_configuration_is_not_blamed_on_the_mirror(
    rig: GitRig, fresh: Path
) -> None:
    rig.worker().prepare()
    (fresh / ".gitconfig").write_text("[user\n")
    error = fails(rig.worker(issue="gt-2"))
    assert "bad config" in error.message
    assert "rm -r" not in error.hint
    assert "correct that file" in error.hint


def test_a_rig_of_another_user_is_told_with_its_hint(
    rig: GitRig, monkeypatch: pytest.MonkeyPatch, fresh: Path
) -> None:
    os.chown(rig.path, 54321, 54321)
    error = fails(rig.worker())
    assert "dubious ownership" in error.message
    assert f"git config --global --add safe.directory {rig.path}" in error.hint


def test_what_is_foreseen_costs_no_process(
    rig: GitRig, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fresh / ".gitconfig").write_text("[user]\n\tname = T\n\temail = t@x\n")
    counting = tmp_path / "bin/git"
    counting.parent.mkdir()
    real = shutil.which("git")
    counting.write_text(
        "#!/bin/sh\n"
        "for word; do case $word in ls-remote|fetch|for-each-ref|read-tree|config|rev-parse)"
        f' echo $word >>{tmp_path}/asked; break;; esac; done\nexec {real} "$@"\n'
    )
    counting.chmod(0o755)
    rig.worker().prepare()
    monkeypatch.setenv("PATH", f"{counting.parent}:{os.environ['PATH']}")
    rig.worker(issue="gt-2").prepare()
    assert (tmp_path / "asked").read_text().split() == ["ls-remote", "read-tree"]


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of somebody whom git does not know."""
    made = tmp_path / "home"
    made.mkdir()
    for name in [name for name in os.environ if name.startswith(("GIT_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(made))
    monkeypatch.setenv("EMAIL", "")
    return made


def committed(worker: GitWorker) -> str:
    """Commit as an agent would; return the author."""
    worker.prepare()
    words = ("git", "-C", str(worker.work), "commit", "-q", "--allow-empty", "-m", "x")
    subprocess.run(words, check=True, capture_output=True)
    return worker.git("log", "-1", "--format=%an <%ae>")


def test_an_agent_on_a_fresh_host_can_commit(rig: GitRig, fresh: Path) -> None:
    assert committed(rig.worker()) == "outpost <outpost@localhost>"


def test_who_ordered_it_is_the_author_where_git_knows_nobody(rig: GitRig, fresh: Path) -> None:
    worker = rig.worker()
    worker.order["delivery"] |= {"user_name": 'A "B" C', "user_email": "a@b.example"}
    assert committed(worker) == 'A "B" C <a@b.example>'


@pytest.mark.parametrize("file", [".gitconfig", ".config/git/config", "included"])
def test_what_git_knows_there_comes_first(rig: GitRig, fresh: Path, file: str) -> None:
    path = fresh / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# me\n[User]\n\tName = There\n\temail = there@b.example\n")
    if file == "included":
        (fresh / ".gitconfig").write_text(f"[include]\n\tpath = {path}\n")
    worker = rig.worker()
    worker.order["delivery"] |= {"user_name": "A", "user_email": "a@b.example"}
    assert committed(worker) == "There <there@b.example>"


def test_half_of_a_name_is_completed(rig: GitRig, fresh: Path) -> None:
    (fresh / ".gitconfig").write_text("[user]\n\tname = There\n[sendemail]\n\temail = no\n")
    worker = rig.worker()
    worker.order["delivery"] |= {"user_name": "A", "user_email": "a@b.example"}
    assert committed(worker) == "There <a@b.example>"


def test_a_key_for_signing_that_is_not_there_stops_no_commit(rig: GitRig, fresh: Path) -> None:
    (fresh / ".gitconfig").write_text(
        "[user]\n\tname = T\n\temail = t@x\n\tsigningKey = nobody\n[commit]\n\tgpgSign = true\n"
        "[tag]\n\tgpgSign = true\n"
    )
    worker = rig.worker()
    assert committed(worker) == "T <t@x>"
    worker.git("tag", "-a", "-m", "x", "v1")


def test_a_fork_gets_the_work_and_the_rig_does_not(rig: GitRig, tmp_path: Path) -> None:
    fork = tmp_path / "fork.git"
    rig.git("clone", "-q", "--bare", str(rig.path), str(fork))
    rig.commit({"later": "1"})  # the fork is behind
    rig.git("push", "-q", str(fork), "main~1:refs/heads/polecat")  # in the way, but at the fork
    worker = rig.worker(branch="work/gt-1")
    worker.order["delivery"]["push_url"] = str(fork)
    assert worker.prepare()["base_commit"] == rig.tip("main")
    worker.write("new", "1")
    saved = worker.save()
    assert saved["pushed"]
    assert "refs/outpost/" in rig.git("for-each-ref", cwd=fork)
    later = rig.worker(issue="gt-1", attempt=2, branch="work/gt-1", resume=saved["ref"])
    later.order["delivery"]["push_url"] = str(fork)
    later.prepare()
    assert (later.work / "new").read_text() == "1"
    delivered = worker.deliver()
    assert (delivered["reason"], delivered["branch"]) == ("ok", "work/gt-1")
    assert rig.git("rev-parse", "work/gt-1", cwd=fork) == delivered["commit"]
    assert rig.git("for-each-ref", "--format=%(refname)", cwd=rig.path) == "refs/heads/main"


def test_who_ordered_is_no_part_of_the_identity_and_where_it_goes_is() -> None:
    def order(**more: str) -> Order:
        delivery = Delivery(branch="b", message="m", **more)  # type: ignore[arg-type]
        return Order(issue=Issue(id="x"), agent=Agent(argv=("a",)), rig="/r", delivery=delivery)

    assert digest(order()) == digest(order(user_name="A", user_email="a@b"))
    assert digest(order()) != digest(order(push_url="/fork"))
