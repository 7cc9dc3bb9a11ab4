from __future__ import annotations

import os
from pathlib import Path

import pytest

from outpost_core.errors import WorkerError
from outpost_testing.gitrig import GitRig, GitWorker
from outpost_worker.repository import git

REF = "refs/outpost/gt-1.1"


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    return GitRig(tmp_path, {"README": "hello\n", "gone": "1"})


@pytest.fixture
def worker(rig: GitRig) -> GitWorker:
    worker = rig.worker()
    worker.prepare()
    return worker


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "RETRY_DELAYS", (0.01,))


def refuse(rig: GitRig) -> None:
    rig.hook("pre-receive", "exit 1")


def test_nothing_yet(rig: GitRig, worker: GitWorker) -> None:
    nowhere = {"ref": None, "commit": None, "pushed": False, "kept": None}
    assert worker.save() == {**nowhere, "nothing": True}
    assert rig.tip(REF) is None
    assert not worker.unpushed()


def test_everything_that_is_not_ignored(rig: GitRig, worker: GitWorker) -> None:
    (worker.work / ".git/info/exclude").write_text("ignored\n")
    worker.write("ignored", "1")
    tip = worker.commit("committed", "1")
    worker.write("staged", "1")
    worker.git("add", "staged")
    worker.write("untracked", "1")
    worker.write("README", "changed")
    (worker.work / "gone").unlink()
    before = worker.git("status", "--porcelain")
    index = (worker.work / ".git/index").read_bytes()
    assert worker.unpushed()
    saved = worker.save()
    assert saved == {
        "ref": REF,
        "commit": rig.tip(REF),
        "pushed": True,
        "kept": None,
        "nothing": False,
    }
    assert rig.files(REF) == ["README", "committed", "staged", "untracked"]
    assert rig.git("rev-parse", f"{REF}~1", cwd=rig.path) == tip
    assert (worker.work / ".git/index").read_bytes() == index
    assert worker.git("status", "--porcelain") == before
    assert worker.git("rev-parse", "HEAD") == tip
    assert not worker.unpushed()
    assert not list(worker.folder.glob("*.index*"))


def test_only_what_is_new(rig: GitRig, worker: GitWorker) -> None:
    worker.write("a", "1")
    first = worker.save()
    assert worker.save() == {**first, "nothing": True}
    worker.write("a", "2")
    assert worker.unpushed()
    second = worker.save()
    assert (second["nothing"], second["commit"]) == (False, rig.tip(REF))
    assert rig.show(REF, "a") == "2"
    tip = worker.commit("b", "1")
    assert worker.save()["commit"] == tip == rig.tip(REF)
    assert worker.save()["nothing"]


def test_a_change_of_the_same_size_in_the_second_of_the_checkout(
    rig: GitRig, worker: GitWorker
) -> None:
    changed, index = worker.work / "README", worker.work / ".git/index"
    then = changed.stat().st_mtime - 10
    worker.git("config", "core.trustctime", "false")  # nobody can set a file's ctime
    os.utime(changed, (then, then))
    worker.git("update-index", "--refresh")
    os.utime(index, (then, then))
    changed.write_text("hallo\n")
    os.utime(changed, (then, then))
    assert worker.unpushed()
    worker.save()
    assert rig.git("show", f"{REF}:README", cwd=rig.path) == "hallo"


def test_while_the_agent_holds_its_index(rig: GitRig, worker: GitWorker) -> None:
    worker.write("a", "1")
    lock = worker.work / ".git/index.lock"
    lock.touch()
    assert worker.save()["pushed"]
    assert lock.exists()


def test_in_the_middle_of_a_conflict(rig: GitRig, worker: GitWorker) -> None:
    worker.commit("README", "mine\n")
    worker.git("checkout", "-q", "-b", "theirs", "origin/main")
    worker.commit("README", "theirs\n")
    worker.git("merge", "-q", "polecat/gt-1", ok=False)
    assert worker.save()["pushed"]
    assert "<<<<" in rig.show(REF, "README")
    assert worker.git("status", "--porcelain").startswith("UU")


def test_other_branches_come_along(rig: GitRig, worker: GitWorker) -> None:
    side = worker.commit("side", "1")
    worker.git("checkout", "-q", "-b", "other", "origin/main")
    assert worker.unpushed()
    worker.save()
    assert side in rig.git("rev-list", REF, cwd=rig.path).split()
    assert not worker.unpushed()


def test_a_file_that_cannot_be_read(rig: GitRig, worker: GitWorker) -> None:
    worker.git("init", "-q", "empty")
    worker.write("a", "1")
    assert worker.save()["pushed"]
    assert "a" in rig.files(REF)


def test_kept_where_the_rig_refuses(rig: GitRig, worker: GitWorker) -> None:
    refuse(rig)
    worker.commit("a", "1")
    worker.write("b", "1")
    saved = worker.save()
    bundle = worker.folder / "checkpoint.bundle"
    assert (saved["ref"], saved["pushed"], saved["kept"]) == (None, False, str(bundle))
    rig.git("fetch", "-q", str(bundle), REF)
    assert rig.git("ls-tree", "--name-only", "FETCH_HEAD").split() == ["README", "a", "b", "gone"]
    assert not worker.unpushed()
    assert worker.save() == {**saved, "nothing": True}


def test_pushed_as_soon_as_the_rig_takes_it(rig: GitRig, worker: GitWorker) -> None:
    refuse(rig)
    worker.write("a", "1")
    kept = worker.save()
    rig.hook("pre-receive", "exit 0")
    saved = worker.save()
    assert (saved["ref"], saved["commit"], saved["kept"]) == (REF, kept["commit"], None)
    assert not (worker.folder / "checkpoint.bundle").exists()


def test_kept_where_the_rig_is_gone(rig: GitRig, worker: GitWorker) -> None:
    rig.path.rename(rig.folder / "moved")
    worker.write("a", "1")
    assert worker.save()["kept"]


def test_an_empty_rig_that_is_gone(tmp_path: Path) -> None:
    rig = GitRig(tmp_path, files={})
    worker = rig.worker()
    worker.prepare()
    rig.path.rename(rig.folder / "moved")
    worker.write("a", "1")
    assert worker.save()["kept"]


def test_without_a_repository(worker: GitWorker) -> None:
    (worker.work / ".git/HEAD").unlink()
    with pytest.raises(WorkerError) as caught:
        worker.save()
    assert caught.value.reason == "commit_failed"
    assert worker.unpushed()


def test_after_the_end_a_broken_repository_is_mended(rig: GitRig, worker: GitWorker) -> None:
    worker.commit("a", "1")
    worker.save()
    worker.write("b", "1")
    (worker.work / ".git/HEAD").unlink()
    assert worker.save(ended=True)["pushed"]
    assert rig.files(REF) == ["README", "a", "b", "gone"]
    assert not worker.unpushed()


def test_a_shallow_rig_is_mended_too(rig: GitRig) -> None:
    rig.commit({"more": "1"})
    worker = rig.worker(depth=1, rig=f"file://{rig.path}")
    worker.prepare()
    worker.write("a", "1")
    (worker.work / ".git/HEAD").unlink()
    assert worker.save(ended=True)["pushed"]
    assert rig.files(REF) == ["README", "a", "gone", "more"]


def test_it_leaves_the_rig_with_the_delivery(rig: GitRig, worker: GitWorker) -> None:
    worker.write("a", "1")
    worker.save()
    assert rig.tip(REF)
    assert worker.deliver()["checkpoint"] is None
    assert rig.tip(REF) is None
    assert worker.save() == {
        "ref": None,
        "commit": None,
        "pushed": False,
        "kept": None,
        "nothing": True,
    }


class TestResume:
    def again(self, rig: GitRig, resume: str) -> GitWorker:
        worker = rig.worker(attempt=2, resume=resume)
        worker.prepare()
        return worker

    def test_from_a_checkpoint(self, rig: GitRig, worker: GitWorker) -> None:
        tip = worker.commit("committed", "1")
        worker.write("open", "1")
        worker.save()
        again = self.again(rig, REF)
        # What was committed is committed, what was open is open.
        assert again.space["start_commit"] == tip
        assert again.git("rev-parse", "HEAD") == tip
        assert again.git("status", "--porcelain") == "A  open"
        done = again.deliver()
        assert rig.files("polecat/gt-1") == ["README", "committed", "gone", "open"]
        assert rig.git("log", "-1", "--format=%s", done["commit"], cwd=rig.path) == "gt-1: a title"
        assert rig.git("rev-parse", f"{done['commit']}~1", cwd=rig.path) == tip

    def test_from_commits_only(self, rig: GitRig, worker: GitWorker) -> None:
        tip = worker.commit("committed", "1")
        worker.save()
        again = self.again(rig, REF)
        done = again.deliver()
        assert (done["reason"], done["commit"]) == ("ok", tip)

    def test_from_what_is_delivered_there_is_nothing_to_rescue(
        self, rig: GitRig, worker: GitWorker
    ) -> None:
        worker.commit("committed", "1")
        again = self.again(rig, str(worker.deliver()["commit"]))
        assert again.deliver()["reason"] == "nothing_to_commit"
        saved = again.save(ended=True)
        assert (saved["ref"], saved["kept"], saved["nothing"]) == (None, None, True)
        assert rig.tip("refs/outpost/gt-1.2") is None
        more = again.commit("more", "1")
        assert again.save(ended=True)["commit"] == more

    def test_from_a_bundle(self, rig: GitRig, worker: GitWorker) -> None:
        refuse(rig)
        worker.write("open", "1")
        worker.save()
        again = self.again(rig, REF)
        assert again.git("status", "--porcelain") == "A  open"

    def test_of_a_shallow_rig(self, rig: GitRig) -> None:
        for number in range(3):
            rig.commit({"file": str(number)})
        url = f"file://{rig.path}"
        worker = rig.worker(rig=url, depth=1)
        worker.prepare()
        worker.write("open", "1")
        worker.save()
        again = rig.worker(attempt=2, resume=REF, rig=url, depth=1)
        again.prepare()
        assert again.git("status", "--porcelain") == "A  open"
        assert again.deliver()["reason"] == "ok"

    def test_of_an_empty_rig(self, tmp_path: Path) -> None:
        rig = GitRig(tmp_path, files={})
        worker = rig.worker()
        worker.prepare()
        worker.write("open", "1")
        worker.save()
        again = self.again(rig, REF)
        assert (again.work / "open").exists()
        assert again.deliver()["reason"] == "ok"

    @pytest.mark.parametrize(
        "resume", ["refs/outpost/gt-9.1", "refs/outpost/../../x", "main", "-x", "0" * 40, "HEAD~1"]
    )
    def test_what_is_not_there(self, rig: GitRig, resume: str) -> None:
        with pytest.raises(WorkerError) as caught:
            rig.worker(resume=resume).prepare()
        assert caught.value.reason == "base_not_found"
        assert "could not resume" in caught.value.message
