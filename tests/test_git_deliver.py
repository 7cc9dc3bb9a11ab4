from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import farcode
import pytest

from outpost_core.errors import WorkerError
from outpost_testing.gitrig import GitRig, GitWorker
from outpost_worker.repository import git
from outpost_worker.work import deliver as delivery


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    return GitRig(tmp_path, {"README": "hello\n", "gone": "1", "dir/a": "1"})


@pytest.fixture
def worker(rig: GitRig) -> GitWorker:
    worker = rig.worker()
    worker.prepare()
    return worker


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "RETRY_DELAYS", (0.01, 0.01))


def fails(worker: GitWorker) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        worker.deliver()
    return caught.value


def delivered(worker: GitWorker, branch: str = "polecat/gt-1") -> dict[str, object]:
    """Deliver, and demand that the rig shows what the answer says and nothing is left over."""
    done = worker.deliver()
    assert (done["reason"], done["branch"]) == ("ok", branch)
    assert done["commit"] == worker.rig.tip(branch)
    assert worker.deliver()["commit"] == done["commit"]
    return done


class TestWhatTheAgentLeft:
    def test_changes_of_every_kind(self, rig: GitRig, worker: GitWorker) -> None:
        worker.write("README", "changed")
        worker.write("new/file", "1")
        worker.write(".gitignore", "ignored\n")
        worker.write("ignored", "1")
        worker.write("staged", "1")
        worker.git("add", "staged")
        (worker.work / "gone").unlink()
        (worker.work / "link").symlink_to("README")
        (worker.work / "dir/a").chmod(0o755)
        done = delivered(worker)
        files = [".gitignore", "README", "dir/a", "link", "new/file", "staged"]
        assert rig.files("polecat/gt-1") == files
        assert done["message"] == f"pushed polecat/gt-1 at {str(done['commit'])[:12]}"
        assert rig.git("log", "-1", "--format=%s", "polecat/gt-1", cwd=rig.path) == "gt-1: a title"
        assert rig.git("rev-parse", "polecat/gt-1~1", cwd=rig.path) == rig.tip("main")
        assert not worker.unpushed()

    def test_only_changes_of_tracked_files(self, rig: GitRig, worker: GitWorker) -> None:
        worker.write("README", "changed")
        (worker.work / "gone").unlink()
        delivered(worker)
        assert rig.files("polecat/gt-1") == ["README", "dir/a"]

    def test_nothing(self, rig: GitRig, worker: GitWorker) -> None:
        done = worker.deliver()
        assert done == {
            "reason": "nothing_to_commit",
            "branch": None,
            "commit": None,
            "pr_url": None,
            "checkpoint": None,
            "message": "the agent changed nothing",
        }
        assert rig.tip("polecat/gt-1") is None

    def test_only_what_is_ignored(self, rig: GitRig, worker: GitWorker) -> None:
        (worker.work / ".git/info/exclude").write_text("*.log\n")
        worker.write("x.log", "1")
        assert worker.deliver()["reason"] == "nothing_to_commit"
        assert not worker.unpushed()

    def test_its_own_commits(self, rig: GitRig, worker: GitWorker) -> None:
        worker.commit("one", "1")
        tip = worker.commit("two", "1")
        assert delivered(worker)["commit"] == tip

    def test_commits_and_changes(self, rig: GitRig, worker: GitWorker) -> None:
        tip = worker.commit("one", "1")
        worker.write("two", "1")
        delivered(worker)
        assert rig.git("rev-parse", "polecat/gt-1~1", cwd=rig.path) == tip

    def test_it_pushed_itself(self, rig: GitRig, worker: GitWorker) -> None:
        tip = worker.commit("one", "1")
        worker.git("push", "-q")
        assert rig.tip("polecat/gt-1") == tip
        assert delivered(worker)["commit"] == tip

    def test_another_branch(self, rig: GitRig, worker: GitWorker) -> None:
        worker.git("checkout", "-q", "-b", "mine")
        tip = worker.commit("one", "1")
        done = delivered(worker)
        assert done["commit"] == tip
        assert "worked on mine" in str(done["message"])
        assert rig.tip("mine") is None

    def test_another_branch_and_back(self, rig: GitRig, worker: GitWorker) -> None:
        worker.git("checkout", "-q", "-b", "mine")
        tip = worker.commit("one", "1")
        worker.git("checkout", "-q", "polecat/gt-1")
        assert delivered(worker)["commit"] == tip
        assert not worker.unpushed()

    def test_detached(self, rig: GitRig, worker: GitWorker) -> None:
        worker.git("checkout", "-q", "--detach")
        worker.commit("one", "1")
        worker.write("two", "1")
        assert "a detached HEAD" in str(delivered(worker)["message"])
        assert rig.files("polecat/gt-1")[-2:] == ["one", "two"]

    def test_back_on_the_base_with_changes_left(self, rig: GitRig, worker: GitWorker) -> None:
        tip = worker.commit("one", "1")
        worker.git("checkout", "-q", "--detach", "origin/main")
        worker.write("scratch", "1")
        done = delivered(worker)
        assert done["commit"] == tip
        assert done["checkpoint"] == "refs/outpost/gt-1.1"
        assert "refs/outpost/gt-1.1" in str(done["message"])
        assert rig.show("refs/outpost/gt-1.1", "scratch") == "1"

    def test_two_branches_with_work(self, rig: GitRig, worker: GitWorker) -> None:
        other = worker.commit("one", "1")
        worker.git("checkout", "-q", "-b", "mine", "origin/main")
        tip = worker.commit("two", "1")
        done = worker.deliver()
        assert done["commit"] == tip
        rescued = rig.git("rev-list", "refs/outpost/gt-1.1", cwd=rig.path).split()
        assert other in rescued
        assert done["checkpoint"] == "refs/outpost/gt-1.1"

    def test_only_the_bases_news(self, rig: GitRig, worker: GitWorker) -> None:
        rig.commit({"later": "1"})
        worker.git("pull", "-q", "--ff-only", "origin", "main")
        assert worker.deliver()["reason"] == "nothing_to_commit"

    def test_stale_locks(self, rig: GitRig, worker: GitWorker) -> None:
        worker.write("new", "1")
        for name in ("index.lock", "HEAD.lock", "refs/heads/polecat/gt-1.lock", "config.lock"):
            (worker.work / ".git" / name).touch()
        delivered(worker)

    def test_a_conflict(self, rig: GitRig, worker: GitWorker) -> None:
        worker.commit("README", "mine\n")
        worker.git("checkout", "-q", "-b", "theirs", "origin/main")
        worker.commit("README", "theirs\n")
        worker.git("merge", "-q", "polecat/gt-1", ok=False)
        error = fails(worker)
        assert error.reason == "commit_failed"
        assert "merge conflict in README" in error.message
        assert "kept in refs/outpost/gt-1.1" in error.message
        assert "<<<<" in rig.show("refs/outpost/gt-1.1", "README")
        assert rig.tip("polecat/gt-1") is None
        assert "<<<<" in (worker.work / "README").read_text()

    def test_a_merge_without_its_commit(self, rig: GitRig, worker: GitWorker) -> None:
        worker.commit("one", "1")
        worker.git("checkout", "-q", "-b", "mine", "origin/main")
        worker.commit("two", "1")
        worker.git("merge", "-q", "--no-commit", "--no-ff", "polecat/gt-1")
        delivered(worker)
        assert {"one", "two"} <= set(rig.files("polecat/gt-1"))

    def test_half_a_rebase(self, rig: GitRig, worker: GitWorker) -> None:
        worker.commit("README", "mine\n")
        worker.git("checkout", "-q", "-b", "theirs", "origin/main")
        worker.commit("README", "theirs\n")
        worker.git("rebase", "-q", "polecat/gt-1", ok=False)
        worker.write("README", "both\n")
        worker.git("add", "README")
        error = fails(worker)
        assert "rebase half done" in error.message

    def test_a_repository_inside(self, rig: GitRig, worker: GitWorker) -> None:
        for name in ("inner", "empty", "inner/deep", "dir"):
            (worker.work / name).mkdir(exist_ok=True)
            worker.git("init", "-q", name)
        worker.write("inner/kept", "1")
        worker.write("inner/.gitignore", "out\n")
        worker.write("inner/out", "1")
        worker.write("inner/deep/file", "1")
        worker.write("dir/b", "1")
        done = delivered(worker)
        files = ["README", "dir/a", "dir/b", "gone"]
        files += ["inner/.gitignore", "inner/deep/file", "inner/kept"]
        assert rig.files("polecat/gt-1") == files
        assert "inner/" in str(done["message"])

    def test_a_repository_inside_with_commits(self, rig: GitRig, worker: GitWorker) -> None:
        worker.git("init", "-q", "inner")
        worker.write("inner/kept", "1")
        worker.git("-C", "inner", "add", "kept")
        worker.git("-C", "inner", "commit", "-q", "-m", "x")
        (worker.work / "inner/kept").unlink()
        worker.write("inner/other", "1")
        delivered(worker)
        assert "inner/other" in rig.files("polecat/gt-1")
        assert "inner/kept" not in rig.files("polecat/gt-1")

    def test_a_linked_tree_inside(self, rig: GitRig, worker: GitWorker) -> None:
        worker.git("worktree", "add", "-q", "-b", "side", "trees/side")
        worker.write("new", "1")
        delivered(worker)
        assert not any(name.startswith("trees") for name in rig.files("polecat/gt-1"))

    def test_many_files(self, rig: GitRig, worker: GitWorker) -> None:
        (worker.work / "many").mkdir()
        for number in range(2000):
            (worker.work / f"many/{number}").write_text(str(number))
        delivered(worker)
        assert len(rig.files("polecat/gt-1")) == 2003

    def test_names_that_look_like_something_else(self, rig: GitRig, worker: GitWorker) -> None:
        names = ["-f", "--all", ":(exclude)x", "a\nb", "ü \udcff", '"q"', "*"]
        for name in names:
            worker.write(name, "1")
        delivered(worker)
        listed = subprocess.run(
            ["git", "ls-tree", "-rz", "--name-only", "polecat/gt-1"],
            cwd=rig.path,
            capture_output=True,
        )
        assert {os.fsencode(name) for name in names} <= set(listed.stdout.split(b"\0"))

    def test_no_repository_any_more(self, rig: GitRig, worker: GitWorker) -> None:
        import shutil

        shutil.rmtree(worker.work / ".git")
        worker.write("new", "1")
        delivered(worker)
        assert rig.files("polecat/gt-1") == ["README", "dir/a", "gone", "new"]
        assert rig.git("rev-parse", "polecat/gt-1~1", cwd=rig.path) == rig.tip("main")

    def test_it_removed_its_working_tree(self, rig: GitRig, worker: GitWorker) -> None:
        import shutil

        shutil.rmtree(worker.work)
        error = fails(worker)
        assert (error.reason, rig.tip("polecat/gt-1")) == ("commit_failed", None)
        assert error.message == "the agent removed its working tree"

    def test_a_broken_index(self, rig: GitRig, worker: GitWorker) -> None:
        mine = worker.commit("mine", "1")
        worker.write("new", "1")
        (worker.work / ".git/index").write_bytes(b"garbage")
        delivered(worker)
        assert rig.files("polecat/gt-1") == ["README", "dir/a", "gone", "mine", "new"]
        assert rig.git("rev-parse", "polecat/gt-1~1", cwd=rig.path) == mine

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("HEAD", ""),
            ("HEAD", "garbage"),
            ("refs/heads/polecat/gt-1", ""),
            ("objects", ""),
        ],
    )
    def test_a_broken_repository(
        self, rig: GitRig, worker: GitWorker, name: str, text: str
    ) -> None:
        worker.commit("mine", "1")
        worker.write("new", "1")
        path = worker.work / ".git" / name
        if path.is_dir():
            path.rename(path.with_name("moved"))
        path.write_text(text)
        done = delivered(worker)
        assert rig.files("polecat/gt-1") == ["README", "dir/a", "gone", "mine", "new"]
        assert rig.git("rev-parse", "polecat/gt-1~1", cwd=rig.path) == rig.tip("main")
        (broken,) = worker.folder.glob("broken-git-*")
        assert str(broken) in str(done["message"])

    @pytest.mark.parametrize(("name", "text"), [("config", "[[["), ("objects/info/alternates", "")])
    def test_what_only_its_own_git_needs_may_be_broken(
        self, rig: GitRig, worker: GitWorker, name: str, text: str
    ) -> None:
        mine = worker.commit("mine", "1")
        worker.write("new", "1")
        (worker.work / ".git" / name).write_text(text)
        delivered(worker)
        assert rig.files("polecat/gt-1") == ["README", "dir/a", "gone", "mine", "new"]
        assert rig.git("rev-parse", "polecat/gt-1~1", cwd=rig.path) == mine
        assert not list(worker.folder.glob("broken-git-*"))

    def test_another_repository_in_its_place(self, rig: GitRig, worker: GitWorker) -> None:
        import shutil

        shutil.rmtree(worker.work / ".git")
        worker.git("init", "-q", "-b", "main")
        worker.commit("new", "1")
        delivered(worker)
        assert rig.files("polecat/gt-1") == ["README", "dir/a", "gone", "new"]
        assert rig.git("rev-parse", "polecat/gt-1~1", cwd=rig.path) == rig.tip("main")

    def test_a_clone_in_its_place(self, rig: GitRig, worker: GitWorker) -> None:
        import shutil

        shutil.rmtree(worker.work)
        rig.git("clone", "-q", str(rig.path), str(worker.work))
        mine = worker.commit("new", "1")
        delivered(worker)
        assert rig.tip("polecat/gt-1") == mine

    def test_what_it_stashed_and_left(self, rig: GitRig, worker: GitWorker) -> None:
        worker.write("README", "stashed first")
        worker.git("stash", "-q")
        worker.write("README", "stashed last")
        worker.git("stash", "-q")
        assert worker.unpushed()
        done = worker.deliver()
        assert (done["reason"], done["checkpoint"]) == ("nothing_to_commit", "refs/outpost/gt-1.1")
        assert "in a stash; the work is kept in refs/outpost/gt-1.1" in str(done["message"])
        parents = rig.git("rev-parse", "refs/outpost/gt-1.1^@", cwd=rig.path).split()
        kept = [rig.show(parent, "README") for parent in parents[1:]]
        assert kept == ["stashed first", "stashed last"]
        assert not worker.unpushed()

    def test_it_led_origin_elsewhere(self, rig: GitRig, worker: GitWorker) -> None:
        worker.git("remote", "set-url", "origin", "/nowhere")
        worker.write("new", "1")
        delivered(worker)

    def test_it_led_every_push_elsewhere(self, rig: GitRig, worker: GitWorker) -> None:
        other = rig.folder / "other.git"
        rig.git("clone", "-q", "--bare", str(rig.path), str(other))
        worker.git("config", f"url.{other}.insteadOf", str(rig.path))
        worker.write("new", "1")
        delivered(worker)
        assert rig.git("for-each-ref", "refs/heads/polecat", cwd=other) == ""


class TestIdentity:
    def author(self, rig: GitRig) -> str:
        return rig.git("log", "-1", "--format=%an <%ae> %cn", "polecat/gt-1", cwd=rig.path)

    def test_from_the_order(self, rig: GitRig) -> None:
        worker = rig.worker(author_name='A "quoted" Name', author_email="a@b")
        worker.prepare()
        assert worker.git("config", "user.name") == 'A "quoted" Name'
        worker.write("new", "1")
        worker.deliver()
        assert self.author(rig) == 'A "quoted" Name <a@b> A "quoted" Name'

    def test_from_git(
        self, rig: GitRig, worker: GitWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "config").write_text("[user]\nname = Me\nemail = me@here\n")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
        worker.write("new", "1")
        worker.deliver()
        assert self.author(rig) == "Me <me@here> Me"

    def test_nobodys(self, rig: GitRig, worker: GitWorker, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
        monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        monkeypatch.delenv("EMAIL", raising=False)
        worker.write("new", "1")
        assert worker.save()["pushed"]
        worker.deliver()
        assert self.author(rig) == "outpost <outpost@localhost> outpost"

    def test_a_message_of_any_shape(self, rig: GitRig) -> None:
        worker = rig.worker(message="# no comment\n\n-x $(id) ü")
        worker.prepare()
        worker.write("new", "1")
        worker.deliver()
        text = rig.git("log", "-1", "--format=%B", "polecat/gt-1", cwd=rig.path)
        assert text == "# no comment\n\n-x $(id) ü"


class TestTheRemoteBranch:
    def test_other_work_is_left_alone(self, rig: GitRig, worker: GitWorker) -> None:
        theirs = rig.commit({"theirs": "1"}, "polecat/gt-1")
        worker.write("mine", "1")
        done = delivered(worker, "polecat/gt-1-1")
        assert rig.tip("polecat/gt-1") == theirs
        assert "polecat/gt-1 on the rig has other work" in str(done["message"])
        assert not worker.unpushed()

    def test_a_second_attempt(self, rig: GitRig, worker: GitWorker) -> None:
        worker.write("one", "1")
        first = delivered(worker)["commit"]
        again = rig.worker(attempt=2)
        assert again.prepare()["remote_tip"] == first
        again.write("two", "1")
        delivered(again, "polecat/gt-1-2")
        assert rig.tip("polecat/gt-1") == first

    def test_a_second_attempt_from_the_first(self, rig: GitRig, worker: GitWorker) -> None:
        worker.write("one", "1")
        first = worker.deliver()["commit"]
        again = rig.worker(attempt=2, resume=first)
        space = again.prepare()
        assert (space["start_commit"], space["base_commit"]) == (first, rig.tip("main"))
        done = again.deliver()
        assert (done["reason"], done["commit"]) == ("nothing_to_commit", first)
        again.write("two", "1")
        delivered(again)
        assert {"one", "two"} <= set(rig.files("polecat/gt-1"))

    def test_every_name_is_taken(self, rig: GitRig, worker: GitWorker) -> None:
        rig.commit({"theirs": "1"}, "polecat/gt-1")
        rig.commit({"theirs": "2"}, "polecat/gt-1-1")
        worker.write("mine", "1")
        done = worker.deliver()
        assert done["branch"] == f"polecat/gt-1-1-{done['commit'][:8]}"
        assert worker.deliver()["branch"] == done["branch"]

    def test_someone_went_on_from_there(self, rig: GitRig, worker: GitWorker) -> None:
        worker.write("mine", "1")
        done = worker.deliver()
        further = rig.commit({"more": "1"}, "polecat/gt-1")
        again = worker.deliver()
        assert (again["branch"], again["commit"]) == ("polecat/gt-1", done["commit"])
        assert rig.tip("polecat/gt-1") == further

    def test_a_folder_of_that_name(self, rig: GitRig, worker: GitWorker) -> None:
        rig.commit({"x": "1"}, "polecat")
        worker.write("mine", "1")
        assert fails(worker).reason == "push_failed"

    def test_base_that_is_checked_out_there(self, rig: GitRig) -> None:
        worker = rig.worker(rig=str(rig.seed), branch="main")
        worker.prepare()
        worker.write("mine", "1")
        error = fails(worker)
        assert error.reason == "push_failed"
        assert "currently checked out" in error.message


@pytest.mark.parametrize(
    "cause",
    [
        "ssh: Could not resolve hostname git.example: Name or service not known",
        "me@git.example: Permission denied (publickey).",
        "Host key verification failed.",
    ],
)
def test_what_ssh_said_is_quoted_beside_gits_own_words(tmp_path: Path, cause: str) -> None:
    fatal = "fatal: Could not read from remote repository."
    err = f"{cause}\n{fatal}\n\nPlease make sure you have the correct access rights.\n"
    said = git.Git(str(tmp_path)).words(git.Done(128, b"", err))
    assert said == f"{cause}; {fatal}"


class TestPushFails:
    def test_a_hook_refuses(self, rig: GitRig, worker: GitWorker) -> None:
        rig.hook("pre-receive", "echo not on a Friday >&2; exit 1")
        worker.write("new", "1")
        error = fails(worker)
        bundle = worker.folder / "checkpoint.bundle"
        assert error.reason == "push_failed"
        assert "not on a Friday" in error.message
        assert str(bundle) in error.message
        assert sum("no answer" in text for text in worker.reports) == 0
        assert not worker.unpushed()
        rig.git("fetch", "-q", str(bundle), "refs/outpost/gt-1.1")
        assert rig.git("show", "FETCH_HEAD:new") == "1"

    def test_a_hook_refuses_branches_only(self, rig: GitRig, worker: GitWorker) -> None:
        rig.hook("update", 'case "$1" in refs/heads/*) exit 1; esac')
        worker.write("new", "1")
        assert "kept in refs/outpost/gt-1.1" in fails(worker).message
        assert rig.show("refs/outpost/gt-1.1", "new") == "1"

    def test_the_rig_is_gone_for_a_while(self, rig: GitRig, worker: GitWorker) -> None:
        # As an unreachable host would: git's answer does not say that the rig is not there.
        away = rig.path / "config.away"
        config = rig.path / "config"
        config.rename(away)
        config.write_text("[core\n")
        worker.write("new", "1")

        def report(text: str) -> None:
            if "trying again" in text:
                away.replace(config)

        assert worker.deliver(report)["reason"] == "ok"

    def test_another_push_of_the_same_was_quicker(self, rig: GitRig, worker: GitWorker) -> None:
        """As when a killed delivery is done again while its push is still arriving."""
        mark = rig.folder / "mark"
        rig.hook("update", f'[ -e {mark} ] || {{ touch {mark}; git update-ref "$1" "$3"; }}')
        worker.write("mine", "1")
        delivered(worker)
        assert mark.exists()

    def test_the_rig_stays_away(self, rig: GitRig, worker: GitWorker) -> None:
        (rig.path / "config").write_text("[core\n")
        worker.write("new", "1")
        error = fails(worker)
        assert error.reason == "push_failed"
        assert sum("trying again" in text for text in worker.reports) == 2
        assert (worker.folder / "checkpoint.bundle").exists()

    def test_the_rig_is_gone_for_good(self, rig: GitRig, worker: GitWorker) -> None:
        rig.path.rename(rig.folder / "moved")
        worker.write("new", "1")
        error = fails(worker)
        assert error.reason == "push_failed"
        assert not any("trying again" in text for text in worker.reports)
        assert (worker.folder / "checkpoint.bundle").exists()

    def test_it_is_taken_later(self, rig: GitRig, worker: GitWorker) -> None:
        rig.hook("pre-receive", "exit 1")
        worker.write("new", "1")
        fails(worker)
        rig.hook("pre-receive", "exit 0")
        done = delivered(worker)
        assert done["checkpoint"] is None
        assert not (worker.folder / "checkpoint.bundle").exists()

    def test_answered_but_not_there(self, rig: GitRig, worker: GitWorker) -> None:
        rig.hook("post-receive", "git update-ref -d refs/heads/polecat/gt-1")
        worker.write("new", "1")
        error = fails(worker)
        assert error.reason == "verify_failed"
        assert "is at nothing" in error.message
        assert "kept in refs/outpost/gt-1.1" in error.message
        assert rig.show("refs/outpost/gt-1.1", "new") == "1"

    def test_answered_and_gone(self, rig: GitRig, worker: GitWorker) -> None:
        rig.hook("post-receive", f"mv {rig.path} {rig.path}.gone")
        worker.write("new", "1")
        error = fails(worker)
        assert error.reason == "verify_failed"
        assert (worker.folder / "checkpoint.bundle").exists()

    def test_a_full_disk_is_told(self, worker: GitWorker) -> None:
        done = git.Done(1, b"", "fatal: write error: No space left on device")
        assert git.Git(str(worker.work)).error(done, "x", "push_failed").reason == "disk_full"


DELIVER = """
import json, sys
from outpost_worker.work import deliver
order, folder, space = json.loads(sys.argv[1])
print(json.dumps(deliver.deliver(order, folder, space, lambda text: None)))
"""


def elsewhere(worker: GitWorker, **env: str) -> subprocess.CompletedProcess[str]:
    words = json.dumps([worker.order, str(worker.folder), worker.space])
    return subprocess.run(
        [sys.executable, "-c", DELIVER, words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": farcode.PYTHONPATH, **env},
    )


@pytest.mark.parametrize("point", ["worker.committed", "worker.pushed", "worker.verified"])
def test_killed_and_delivered_again(rig: GitRig, worker: GitWorker, point: str) -> None:
    worker.write("new", "1")
    assert elsewhere(worker, OUTPOST_FAULT=point).returncode == -signal.SIGKILL
    commit = worker.own("rev-parse", "HEAD")
    assert commit != worker.space["base_commit"]
    done = json.loads(elsewhere(worker).stdout)
    assert (done["reason"], done["commit"]) == ("ok", commit)
    assert rig.tip("polecat/gt-1") == commit
    assert rig.git("rev-list", "--count", "main..polecat/gt-1", cwd=rig.path) == "1"


class TestPullRequest:
    def run(self, rig: GitRig, script: str, *args: str, issue: str = "gt-1") -> dict[str, object]:
        worker = rig.worker(issue, pr_command=["sh", "-c", script, "pr", *args])
        worker.prepare()
        worker.order["issue"]["title"] = "a {branch} $(id)"
        worker.write("new", "1")
        return worker.deliver()

    def test_the_last_url_counts(self, rig: GitRig) -> None:
        script = 'echo see http://x/1 and; echo "made (https://h/pull/7)." >&2; echo bye'
        assert self.run(rig, script)["pr_url"] == "https://h/pull/7"

    def test_placeholders_and_folder(self, rig: GitRig) -> None:
        out = rig.folder / "out"
        script = f'printf "%s|" "$@" > {out}; pwd >> {out}'
        self.run(rig, script, "{branch}", "--base={base}", "{title}", "{issue}{issue}", "{else}")
        words = "polecat/gt-1|--base=main|a {branch} $(id)|gt-1gt-1|{else}|"
        folder = rig.root / "workers/gt-1.1"
        assert out.read_text() == f"{words}{folder}/git\n"

    def test_it_asks_git_about_the_worker_and_not_about_what_the_agent_configured(
        self, rig: GitRig
    ) -> None:
        out = rig.folder / "out"
        script = "git remote get-url origin; git branch --show-current; git status --porcelain"
        script = f"({script}; ls $GIT_WORK_TREE) > {out}"
        worker = rig.worker(pr_command=["sh", "-c", script])
        worker.prepare()
        worker.git("config", "core.fsmonitor", f"touch {rig.folder}/ran #")
        worker.git("remote", "set-url", "origin", "/elsewhere")
        worker.write("new", "1")
        worker.deliver()
        assert out.read_text().split() == [str(rig.path), "polecat/gt-1", "README", "dir",
            "gone", "new"]  # fmt: skip
        assert not (rig.folder / "ran").exists()

    def test_failing(self, rig: GitRig) -> None:
        done = self.run(rig, "echo exists: https://h/pull/7; echo sorry; exit 3")
        assert (done["reason"], done["pr_url"]) == ("ok", "https://h/pull/7")
        assert "the pull-request command ended with 3: sorry" in str(done["message"])
        assert rig.tip("polecat/gt-1") == done["commit"]

    def test_missing(self, rig: GitRig) -> None:
        worker = rig.worker(pr_command=["/nowhere/gh"])
        worker.prepare()
        worker.write("new", "1")
        done = worker.deliver()
        assert (done["reason"], done["pr_url"]) == ("ok", None)
        assert "could not be run: No such file" in done["message"]

    def test_hanging(self, rig: GitRig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(delivery, "PR_TIMEOUT", 0.2)
        assert "did not end within 0.2 s" in str(self.run(rig, "exec sleep 600")["message"])

    def test_not_without_work(self, rig: GitRig) -> None:
        worker = rig.worker(pr_command=["sh", "-c", f"touch {rig.folder}/ran"])
        worker.prepare()
        worker.deliver()
        assert not (rig.folder / "ran").exists()


def test_the_far_side_starts_light() -> None:
    script = "import sys; from outpost_worker.work import deliver; print(*sys.modules)"
    path = f"import sys; sys.path[:0] = {farcode.ROOTS!r}; "
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", path + script], capture_output=True, text=True
    )
    heavy = {"typing", "re", "subprocess", "dataclasses", "enum", "hashlib", "json", "pathlib"}
    assert done.returncode == 0
    assert not heavy & set(done.stdout.split())
