"""What git leaves out of `git add -A`, and what other repositories in the tree hold, is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from outpost_testing.gitrig import GitRig, GitWorker
from outpost_worker.folder import files, outcome
from outpost_worker.repository import git

REF = "refs/outpost/gt-1.1"
#: Root reads everything, unless it gives that up; for anybody else this changes nothing.
POWERLESS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    return GitRig(tmp_path, {"README": "hello\n", "src/a": "1", "docs/d": "1"})


@pytest.fixture
def worker(rig: GitRig) -> GitWorker:
    worker = rig.worker()
    worker.prepare()
    return worker


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "RETRY_DELAYS", (0.01,))


def archived(worker: GitWorker) -> list[str]:
    """Return the names in the worker's archive, which is private."""
    path = worker.rig.root / "rescued" / f"{worker.id}.tar"
    assert path.stat().st_mode & 0o077 == 0
    with tarfile.open(path) as archive:
        return archive.getnames()


def powerless(worker: GitWorker, call: str) -> str:
    """Run Python on a worker in a process that may not read what nobody may read."""
    script = (
        "import json, sys\nfrom outpost_core.errors import WorkerError\n"
        "from pathlib import Path\n"
        "from outpost_worker.work import checkpoint, deliver\n"
        "from outpost_worker.recovery import cleaning\n"
        "order, folder, space = json.loads(sys.stdin.read())\n"
        f"try:\n    print(json.dumps({call}))\n"
        "except WorkerError as error:\n    print(json.dumps([error.reason, str(error)]))\n"
    )
    prefix = POWERLESS if os.geteuid() == 0 else []
    done = subprocess.run(
        [*prefix, sys.executable, "-c", script],
        input=json.dumps([worker.order, str(worker.folder), worker.space]),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestHidden:
    @pytest.mark.parametrize("options", [[], ["--sparse-index"]])
    def test_outside_of_a_sparse_checkout(
        self, rig: GitRig, worker: GitWorker, options: list[str]
    ) -> None:
        worker.git("sparse-checkout", "set", *options, "src")
        assert not (worker.work / "docs").exists()
        worker.write("docs/new", "1")
        worker.write("docs/d", "changed")
        worker.write("src/a", "changed")
        assert worker.save()["pushed"]
        assert rig.files(REF) == ["README", "docs/d", "docs/new", "src/a"]
        assert rig.show(REF, "docs/d") == "changed"
        assert worker.deliver()["reason"] == "ok"
        assert rig.files("polecat/gt-1") == ["README", "docs/d", "docs/new", "src/a"]
        assert rig.show("polecat/gt-1", "docs/d") == "changed"
        assert not worker.unpushed()

    def test_what_a_sparse_checkout_leaves_out_was_not_deleted(
        self, rig: GitRig, worker: GitWorker
    ) -> None:
        worker.git("sparse-checkout", "set", "src")
        assert worker.save()["nothing"]
        assert worker.deliver()["reason"] == "nothing_to_commit"
        worker.write("src/b", "1")
        worker.deliver()
        assert rig.files("polecat/gt-1") == ["README", "docs/d", "src/a", "src/b"]

    @pytest.mark.parametrize("flag", ["--skip-worktree", "--assume-unchanged"])
    def test_told_not_to_look(self, rig: GitRig, worker: GitWorker, flag: str) -> None:
        worker.git("update-index", flag, "README", "docs/d")
        worker.write("README", "changed")
        assert worker.unpushed()
        assert worker.save()["pushed"]
        assert rig.show(REF, "README") == "changed"
        assert worker.deliver()["reason"] == "ok"
        assert rig.show("polecat/gt-1", "README") == "changed"
        assert "docs/d" in rig.files("polecat/gt-1")

    def test_told_not_to_look_at_what_it_removes(self, rig: GitRig, worker: GitWorker) -> None:
        worker.git("update-index", "--assume-unchanged", "README")
        (worker.work / "README").unlink()
        worker.deliver()
        assert rig.files("polecat/gt-1") == ["docs/d", "src/a"]

    @pytest.mark.parametrize("version", ["2", "3", "4"])
    def test_every_format_of_the_index(self, rig: GitRig, worker: GitWorker, version: str) -> None:
        worker.write("n" * 250 + "/" + "m" * 250, "1")
        worker.git("add", "-A")
        worker.git("update-index", "--index-version", version)
        worker.git("update-index", "--assume-unchanged", "src/a")
        worker.write("src/a", "changed")
        worker.save()
        assert rig.show(REF, "src/a") == "changed"

    def test_a_split_index(self, rig: GitRig, worker: GitWorker) -> None:
        worker.git("update-index", "--split-index")
        worker.git("update-index", "--assume-unchanged", "src/a")
        worker.write("src/a", "changed")
        worker.save()
        assert rig.show(REF, "src/a") == "changed"


class TestUnreadable:
    def close(self, worker: GitWorker, kind: str) -> str:
        worker.write("readable", "1")
        worker.write("shut/file", "1")
        path = {"file": "shut/file", "folder": "shut", "search": "shut", "tracked": "src"}[kind]
        (worker.work / path).chmod(0o600 if kind == "search" else 0)
        return path

    @pytest.mark.parametrize("kind", ["file", "folder", "search", "tracked"])
    def test_it_is_named_and_the_rest_is_kept(
        self, rig: GitRig, worker: GitWorker, kind: str
    ) -> None:
        path = self.close(worker, kind)
        said = powerless(worker, "checkpoint.save(order, folder, space, ended=True)")
        assert f'"unreadable": {{"{path}' in said
        assert "readable" in rig.files(REF)
        said = powerless(worker, "deliver.deliver(order, folder, space, print)")
        assert "commit_failed" in said
        assert path in said
        assert "Permission denied" in said
        assert rig.tip("polecat/gt-1") is None
        assert powerless(worker, "deliver.unpushed(folder, space)") == "true\n"

    def test_what_is_ignored_does_not_count(self, rig: GitRig, worker: GitWorker) -> None:
        (worker.work / ".git/info/exclude").write_text("shut\n")
        self.close(worker, "folder")
        assert "unreadable" not in powerless(
            worker, "checkpoint.save(order, folder, space, ended=True)"
        )
        assert '"ok"' in powerless(worker, "deliver.deliver(order, folder, space, lambda _: 0)")

    def test_clean_refuses_it_unless_forced(self, rig: GitRig, worker: GitWorker) -> None:
        path = self.close(worker, "folder")
        ended = {**outcome.result("failed", "agent_failed"), "finished_at": 1.0}
        for name, content in (
            (files.ORDER, worker.order),
            (files.WORKSPACE, worker.space),
            (files.RESULT, ended),
        ):
            files.store(str(worker.folder), name, content)
        call = "(c := cleaning.clean(Path(folder).parent.parent, Path(folder), force={}))"
        call = f"[{call}.removed, c.rescued, c.detail]"
        removed, _, detail = json.loads(powerless(worker, call.format(False)))
        assert not removed
        assert f"{path} (Permission denied)" in detail
        assert (worker.work / "readable").exists()
        assert "readable" in rig.files(REF)
        removed, rescued, detail = json.loads(powerless(worker, call.format(True)))
        assert removed
        assert rescued == REF
        assert f"{path} (Permission denied)" in detail
        assert not worker.folder.exists()


class TestLinkedTrees:
    @pytest.mark.parametrize("where", ["sub", "../beside"])
    def test_what_is_in_no_commit(self, rig: GitRig, worker: GitWorker, where: str) -> None:
        worker.git("worktree", "add", "-q", where, "-b", "side")
        worker.write(f"{where}/f", "work")
        worker.write(f"{where}/README", "changed")
        assert worker.unpushed()
        done = worker.deliver()
        assert (done["reason"], done["checkpoint"]) == ("nothing_to_commit", REF)
        assert REF in done["message"]
        assert not (rig.root / "rescued").exists()
        tip = rig.git("rev-parse", f"{REF}^2", cwd=rig.path)
        assert rig.files(tip) == ["README", "docs/d", "f", "src/a"]
        if where == "sub":
            assert rig.files(REF) == ["README", "docs/d", "src/a", "sub/README", "sub/f"]
        assert not worker.unpushed()
        assert worker.save()["nothing"]
        worker.write(f"{where}/f", "more")
        assert worker.unpushed()

    def test_an_empty_one_is_not_rescued(self, rig: GitRig, worker: GitWorker) -> None:
        worker.git("worktree", "add", "-q", "sub", "-b", "side")
        assert not worker.unpushed()
        assert worker.save(ended=True)["commit"] is None
        assert rig.tip(REF) is None
        assert worker.deliver()["checkpoint"] is None

    def test_a_detached_commit(self, rig: GitRig, worker: GitWorker) -> None:
        worker.git("worktree", "add", "-q", "--detach", "sub")
        worker.write("sub/f", "work")
        worker.git("-C", "sub", "add", "f")
        worker.git("-C", "sub", "commit", "-q", "-m", "f")
        tip = worker.git("-C", "sub", "rev-parse", "HEAD")
        assert worker.unpushed()
        assert worker.deliver()["checkpoint"] == REF
        assert tip in rig.git("rev-list", REF, cwd=rig.path)
        assert not worker.unpushed()

    def test_a_delivery_that_holds_all_leaves_no_checkpoint(
        self, rig: GitRig, worker: GitWorker
    ) -> None:
        worker.git("worktree", "add", "-q", "sub", "-b", "side")
        worker.write("sub/f", "work")
        worker.save()
        worker.git("-C", "sub", "add", "f")
        worker.git("-C", "sub", "commit", "-q", "-m", "f")
        done = worker.deliver()
        assert (done["reason"], done["checkpoint"]) == ("ok", None)
        assert rig.tip(REF) is None


class TestNested:
    def test_commits_are_kept_beside_the_files(self, rig: GitRig, worker: GitWorker) -> None:
        worker.git("init", "-q", "inner")
        worker.write("inner/gone", "1")
        worker.git("-C", "inner", "add", "gone")
        worker.git("-C", "inner", "commit", "-q", "-m", "x")
        (worker.work / "inner/gone").unlink()
        worker.write("inner/here", "1")
        done = worker.deliver()
        kept = rig.root / "rescued" / "gt-1.1.tar"
        assert (done["reason"], done["checkpoint"]) == ("ok", str(kept))
        assert "inner/here" in rig.files("polecat/gt-1")
        assert archived(worker) == ["repositories/inner.bundle"]
        with tarfile.open(kept) as archive:
            archive.extractall(rig.folder, filter="data")
        rig.git("clone", "-q", "-b", "master", "repositories/inner.bundle", "back", cwd=rig.folder)
        assert (rig.folder / "back/gone").exists()
        assert not worker.unpushed()

    @pytest.mark.parametrize("kind", ["commit", "edit", "stash", "branch"])
    def test_in_an_ignored_folder(self, rig: GitRig, worker: GitWorker, kind: str) -> None:
        (worker.work / ".git/info/exclude").write_text("vendor\n")
        worker.git("clone", "-q", str(rig.path), "vendor/lib")
        assert not worker.unpushed()
        assert worker.deliver()["checkpoint"] is None
        worker.write("vendor/lib/README", "changed")
        inside = ("-C", "vendor/lib")
        if kind == "branch":
            worker.git(*inside, "checkout", "-q", "-b", "mine")
        if kind in ("commit", "branch"):
            worker.git(*inside, "commit", "-qam", "x")
            worker.git(*inside, "checkout", "-q", "main")
        if kind == "stash":
            worker.git(*inside, "stash", "-q")
        assert worker.unpushed()
        assert worker.deliver()["checkpoint"].endswith("rescued/gt-1.1.tar")
        assert archived(worker) == ["repositories/vendor/lib.bundle"]
        assert not worker.unpushed()

    def test_one_that_git_cannot_read(self, rig: GitRig, worker: GitWorker) -> None:
        (worker.work / ".git/info/exclude").write_text("vendor\n")
        worker.git("init", "-q", "vendor")
        worker.write("vendor/f", "1")
        worker.git("-C", "vendor", "add", "f")
        worker.git("-C", "vendor", "commit", "-q", "-m", "x")
        (worker.work / "vendor/.git/HEAD").write_text("garbage")
        worker.save(ended=True)
        assert "repositories/vendor/HEAD" in archived(worker)

    def test_an_archive_is_not_replaced_by_another_workers(
        self, rig: GitRig, worker: GitWorker
    ) -> None:
        (rig.root / "rescued").mkdir()
        (rig.root / "rescued/gt-1.1.tar").write_text("of an earlier worker")
        worker.git("init", "-q", "inner")
        worker.git("-C", "inner", "commit", "-q", "--allow-empty", "-m", "x")
        assert worker.save(ended=True)["archive"].endswith("gt-1.1-2.tar")
        assert (rig.root / "rescued/gt-1.1.tar").read_text() == "of an earlier worker"


class TestReadBack:
    def test_a_checkpoint_that_the_rig_drops(self, rig: GitRig, worker: GitWorker) -> None:
        worker.write("a", "1")
        rig.hook("post-receive", "git update-ref -d refs/outpost/gt-1.1")
        saved = worker.save()
        assert (saved["ref"], saved["pushed"]) == (None, False)
        assert Path(saved["kept"]).exists()

    def test_a_checkpoint_that_was_removed_since(self, rig: GitRig, worker: GitWorker) -> None:
        worker.write("a", "1")
        worker.save()
        rig.git("update-ref", "-d", REF, cwd=rig.path)
        assert worker.save(ended=True)["commit"] == rig.tip(REF)
