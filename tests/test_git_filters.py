"""Files that git must not commit for us: what a checkout made different, what lacks its filter."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from outpost_core.errors import WorkerError
from outpost_testing.gitrig import GitRig, GitWorker
from outpost_worker.folder import files, outcome
from outpost_worker.recovery import cleaning


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of a user who has none, and of a system without any."""
    config = tmp_path / "gitconfig"
    config.write_text("")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return config


def prepared(rig: GitRig, issue: str = "gt-1", attempt: int = 1) -> GitWorker:
    worker = rig.worker(issue, attempt)
    worker.prepare()
    return worker


def raw(rig: GitRig, name: str, content: bytes) -> None:
    """Bring a blob to the rig as it stands, past attributes."""
    (rig.seed / name).write_bytes(content)
    rig.git("add", "-A")
    rig.git("commit", "-q", "-m", name)
    rig.git("push", "-q", "origin", "main")


class TestDirtOfTheCheckout:
    @pytest.fixture(params=["*.txt text", "*.txt eol=lf", "*.txt ident text"])
    def rig(self, request: pytest.FixtureRequest, tmp_path: Path) -> GitRig:
        rig = GitRig(tmp_path)
        raw(rig, "a.txt", b"a $Id: x$\r\nb\r\n")
        raw(rig, "b.txt", b"a\r\nb\r\n")
        rig.commit({".gitattributes": request.param + "\n"})
        # the new attributes have changed these in the seed's index as well
        for name, content in (("a.txt", b"a $Id: x$\r\n"), ("b.txt", b"a\r\nb\r\n")):
            (rig.seed / "blob").write_bytes(content)
            blob = rig.git("hash-object", "-w", "--no-filters", "blob")
            rig.git("update-index", "--cacheinfo", f"100644,{blob},{name}")
        (rig.seed / "blob").unlink()
        rig.git("commit", "-q", "-m", "raw")
        rig.git("push", "-q", "origin", "main")
        return rig

    def test_who_does_nothing_delivers_nothing(self, rig: GitRig) -> None:
        worker = prepared(rig)
        (worker.work / "a.txt").touch()
        (worker.work / "b.txt").touch()
        assert worker.save()["nothing"]
        assert worker.deliver()["reason"] == "nothing_to_commit"
        assert not worker.unpushed()
        assert rig.tip("polecat/gt-1") is None

    def test_staged_by_the_agent_too(self, rig: GitRig) -> None:
        worker = prepared(rig)
        worker.git("add", "--renormalize", "-A")
        assert worker.save()["nothing"]
        assert worker.deliver()["reason"] == "nothing_to_commit"

    def test_what_the_agent_changed_is_delivered(self, rig: GitRig) -> None:
        worker = prepared(rig)
        (worker.work / "a.txt").touch()
        (worker.work / "b.txt").write_bytes(b"mine\r\n")
        worker.write("new", "1")
        saved = worker.save()
        assert saved["pushed"]
        assert worker.deliver()["reason"] == "ok"
        for ref in (saved["commit"], "polecat/gt-1"):
            changed = rig.git("diff", "--name-only", "main", ref, cwd=rig.path)
            assert changed.splitlines() == ["b.txt", "new"]
        assert rig.show("polecat/gt-1", "b.txt") == "mine"


def test_a_tree_without_attributes_costs_no_process(tmp_path: Path) -> None:
    from outpost_worker.repository import attributes
    from outpost_worker.repository.git import Git

    worker = prepared(GitRig(tmp_path, {"README": "1", "dir/a": "1"}))

    class Silent(Git):
        def run(self, *args: str, **_: object) -> None:  # type: ignore[override]
            raise AssertionError(args)

    git = Silent(str(worker.work / ".git"), str(worker.work))
    assert attributes.texts(git) == []
    assert set(worker.space) & {"lfs", "lacking"} == set()


def test_attributes_that_convert_nothing_are_no_reason_to_compare() -> None:
    from outpost_worker.repository import attributes

    assert not attributes.convert(["* text=auto\n*.png binary -text\n# a filter=x\n*.c diff=c\n"])
    assert attributes.convert(["*.sh eol=lf"])
    assert attributes.convert(["*.x filter=y"])
    assert attributes.filters(["*.x filter=y -filter=z\n*.q !filter\n"]) == {"y"}


class TestMissingFilter:
    @pytest.fixture
    def rig(self, tmp_path: Path) -> GitRig:
        rig = GitRig(tmp_path)
        raw(rig, "old.secret", b"\0GITCRYPT\0xyz")
        rig.commit({"sub/.gitattributes": "*.key filter=vault\n"})
        rig.commit({".gitattributes": "*.secret filter=git-crypt diff=git-crypt\n"})
        return rig

    def test_it_is_committed_nowhere_and_kept_here(self, rig: GitRig) -> None:
        worker = prepared(rig)
        assert any("git-crypt, vault is missing here" in said for said in worker.reports)
        worker.write("p.secret", "hunter2")
        worker.write("old.secret", "hunter3")
        worker.write("sub/x.key", "hunter4")
        worker.git("add", "p.secret")
        worker.write("work", "1")
        saved = worker.save()
        assert saved["pushed"]
        changed = rig.git("diff", "--name-only", "main", saved["commit"], cwd=rig.path)
        assert changed == "work"
        done = worker.deliver()
        assert (done["reason"], done["branch"]) == ("filter_missing", "polecat/gt-1")
        assert rig.git("diff", "--name-only", "main", "polecat/gt-1", cwd=rig.path) == "work"
        for name in ("p.secret", "old.secret", "sub/x.key", "git-crypt"):
            assert name in done["message"]
        with tarfile.open(done["checkpoint"]) as tar:
            assert tar.getnames() == ["old.secret", "p.secret", "sub/x.key"]
        assert Path(done["checkpoint"]).stat().st_mode & 0o077 == 0
        assert not worker.unpushed()
        worker.write("p.secret", "hunter5")
        assert worker.unpushed()
        assert rig.git("log", "--all", "-S", "hunter", "--format=%h", cwd=rig.path) == ""

    def test_the_worker_is_not_done(self, rig: GitRig) -> None:
        worker = prepared(rig)
        worker.write("p.secret", "hunter2")
        result = outcome.result("done", "ok")
        outcome.add_delivery(result, {"answer": worker.deliver()}, "")
        assert (result["state"], result["reason"]) == ("failed", "filter_missing")
        assert result["checkpoint"].endswith("gt-1.1.unfiltered.tar")

    def test_an_archive_of_an_earlier_worker_stays(self, rig: GitRig) -> None:
        worker = prepared(rig)
        earlier = rig.root / "rescued/gt-1.1.unfiltered.tar"
        earlier.parent.mkdir()
        earlier.write_text("of an earlier worker")
        worker.write("p.secret", "hunter2")
        for _ in range(2):  # the second finds its own
            assert worker.deliver()["checkpoint"].endswith("gt-1.1-2.unfiltered.tar")
        assert earlier.read_text() == "of an earlier worker"

    def test_a_commit_of_the_agent_does_not_leak_it_either(self, rig: GitRig) -> None:
        worker = prepared(rig)
        worker.commit("p.secret", "hunter2")
        worker.write("more", "1")
        saved = worker.save()
        assert not saved["pushed"]
        with pytest.raises(WorkerError, match=r"p\.secret") as caught:
            worker.deliver()
        assert caught.value.reason == "filter_missing"
        assert rig.tip("polecat/gt-1") is None
        assert rig.tip("refs/outpost/gt-1.1") is None
        assert (worker.folder / "checkpoint.bundle").exists()

    @pytest.mark.parametrize("command", ["exit 1; cat", "/nowhere/program %f", "no-such-program"])
    def test_a_filter_that_does_not_run(self, rig: GitRig, settings: Path, command: str) -> None:
        settings.write_text(f'[filter "git-crypt"]\n\tclean = "{command}"\n\tsmudge = cat\n')
        worker = prepared(rig)
        worker.write("p.secret", "hunter2")
        worker.write("work", "1")
        done = worker.deliver()
        assert done["reason"] == "filter_missing"
        assert "p.secret" not in rig.files("polecat/gt-1")
        assert "work" in rig.files("polecat/gt-1")

    def test_a_filter_that_runs(self, rig: GitRig, settings: Path) -> None:
        settings.write_text('[filter "git-crypt"]\n\tclean = tr a-z n-za-m\n\tsmudge = cat\n')
        worker = prepared(rig)
        worker.write("p.secret", "hello")
        assert worker.save()["pushed"]
        assert worker.deliver()["reason"] == "ok"
        assert rig.show("polecat/gt-1", "p.secret") == "uryyb"

    def test_attributes_that_the_agent_wrote(self, tmp_path: Path) -> None:
        rig = GitRig(_made(tmp_path / "plain"))
        worker = prepared(rig)
        worker.write("dir/.gitattributes", "*.env filter=sops\n")
        worker.write("dir/x.env", "hunter2")
        assert worker.deliver()["reason"] == "filter_missing"
        assert rig.files("polecat/gt-1") == ["README", "dir/.gitattributes"]

    def test_clean_keeps_it(self, rig: GitRig) -> None:
        worker = prepared(rig)
        worker.write("p.secret", "hunter2")
        for name, value in ((files.ORDER, worker.order), (files.WORKSPACE, worker.space)):
            (worker.folder / name).write_text(json.dumps(value))
        from outpost_core import wire
        from outpost_core.types import Result

        result = wire.from_json(Result, outcome.result("failed", "agent_failed"))
        where, _ = cleaning.rescue(rig.root, worker.folder, result, force=False)
        assert where is not None
        with tarfile.open(where) as tar:
            member = tar.extractfile("p.secret")
            assert member is not None
            assert member.read() == b"hunter2"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


class TestARefusedCommitOfOurs:
    """What the agent committed is delivered also where the remote refuses what it left."""

    @pytest.fixture
    def rig(self, tmp_path: Path) -> GitRig:
        rig = GitRig(tmp_path)
        rig.hook(
            "pre-receive",
            "while read old new ref; do\n"
            " git ls-tree -r --name-only $new | grep -q big && echo File big/x is big && exit 1\n"
            "done\nexit 0",
        )
        return rig

    def test_its_own_commits_go_first(self, rig: GitRig) -> None:
        worker = prepared(rig)
        tip = worker.commit("own", "1")
        worker.write("big/x", "1")
        worker.write("small", "1")
        done = worker.deliver()
        assert (done["reason"], done["commit"]) == ("push_failed", tip)
        assert rig.tip("polecat/gt-1") == tip
        assert "uncommitted: big/x" in done["message"]
        assert done["checkpoint"] == str(worker.folder / "checkpoint.bundle")
        assert not worker.unpushed()

    def test_without_commits_of_its_own(self, rig: GitRig) -> None:
        worker = prepared(rig)
        worker.write("big/x", "1")
        with pytest.raises(WorkerError, match="uncommitted: big/x") as caught:
            worker.deliver()
        assert caught.value.reason == "push_failed"
        assert "checkpoint.bundle" in caught.value.message
