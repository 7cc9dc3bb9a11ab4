"""A delivered branch links only to commits of submodules that their remotes show."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from outpost_core.errors import WorkerError
from outpost_testing.gitrig import GitRig, GitWorker
from outpost_worker.folder import files, outcome
from outpost_worker.repository import git
from outpost_worker.repository.mirror import mirror_path
from outpost_worker.work import lfs
from outpost_worker.work.submodule_push import resolve

BRANCH = "polecat/gt-1"
REF = "refs/outpost/gt-1.1"


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow submodules with paths as URLs, as somebody has to who has such ones."""
    monkeypatch.setattr(git, "RETRY_DELAYS", (0.01,))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.file.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")


def bare(rig: GitRig, name: str) -> Path:
    """Make a repository beside the rig, with one commit."""
    path, seed = rig.folder / f"{name}.git", rig.folder / f"{name}-seed"
    rig.git("init", "-q", "--bare", "-b", "main", str(path))
    rig.git("clone", "-q", str(path), str(seed))
    (seed / "base").write_text(name)
    rig.git("add", "-A", cwd=seed)
    rig.git("commit", "-q", "-m", name, cwd=seed)
    rig.git("push", "-q", "origin", "HEAD:main", cwd=seed)
    return path


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    return GitRig(tmp_path)


@pytest.fixture
def lib(rig: GitRig) -> Path:
    path = bare(rig, "lib")
    rig.git("submodule", "--quiet", "add", str(path), "lib")
    rig.commit({})
    return path


@pytest.fixture
def worker(rig: GitRig, lib: Path) -> GitWorker:
    worker = rig.worker()
    worker.prepare()
    return worker


def init(worker: GitWorker) -> None:
    worker.git("submodule", "--quiet", "update", "--init", "--recursive")


def edit(worker: GitWorker, path: str = "lib", name: str = "f", text: str = "work") -> str:
    """Commit in a submodule, as an agent does that commits."""
    worker.write(f"{path}/{name}", text)
    worker.git("-C", path, "add", "-A")
    worker.git("-C", path, "commit", "-q", "-m", name)
    return worker.git("-C", path, "rev-parse", "HEAD")


def clone(rig: GitRig, branch: str = BRANCH) -> Path:
    """Clone what was delivered, with its submodules, as anybody would."""
    path = rig.folder / "clone"
    rig.git("clone", "-q", "--recurse-submodules", "-b", branch, str(rig.path), str(path))
    return path


def tip(rig: GitRig, path: Path, branch: str = BRANCH) -> str:
    return rig.git("rev-parse", "-q", "--verify", f"refs/heads/{branch}", cwd=path, ok=False)


def refused(worker: GitWorker) -> WorkerError:
    """Deliver, which has to fail since a submodule's commits could not be pushed."""
    with pytest.raises(WorkerError) as caught:
        worker.deliver()
    assert caught.value.reason == "submodule_unpushed"
    assert worker.rig.tip(BRANCH) is None
    return caught.value


def kept(worker: GitWorker, name: str) -> Path:
    """Unpack a bundle out of the worker's archive and clone it; returns the clone."""
    with tarfile.open(worker.rig.root / "rescued" / f"{worker.id}.tar") as archive:
        archive.extractall(worker.rig.folder / "kept", filter="data")
    back = worker.rig.folder / "back"
    bundle = worker.rig.folder / "kept" / "repositories" / f"{name}.bundle"
    worker.rig.git("init", "-q", str(back))
    worker.rig.git("fetch", "-q", str(bare_of(worker, name)), "main", cwd=back, ok=False)
    worker.rig.git("fetch", "-q", str(bundle), "refs/outpost/kept/*:refs/kept/*", cwd=back)
    return back


def bare_of(worker: GitWorker, name: str) -> Path:
    return worker.rig.folder / f"{name.rpartition('/')[2]}.git"


class TestPushed:
    def test_a_commit(self, rig: GitRig, lib: Path, worker: GitWorker) -> None:
        init(worker)
        made = edit(worker)
        done = worker.deliver()
        assert (done["reason"], done["checkpoint"]) == ("ok", None)
        assert tip(rig, lib) == made
        assert (clone(rig) / "lib/f").read_text() == "work"
        assert not worker.unpushed()

    def test_an_edit(self, rig: GitRig, lib: Path, worker: GitWorker) -> None:
        init(worker)
        worker.write("lib/f", "work")
        done = worker.deliver()
        assert (done["reason"], done["checkpoint"]) == ("ok", None)
        assert (clone(rig) / "lib/f").read_text() == "work"
        assert rig.git("log", "-1", "--format=%s", BRANCH, cwd=lib) == "gt-1: a title"
        assert worker.git("-C", "lib", "branch", "--show-current") == "", "it is the agent's"
        assert not worker.unpushed()

    @pytest.mark.parametrize("where", [".gitmodules", ".git/config"])
    def test_an_edit_that_git_was_told_to_ignore(
        self, rig: GitRig, lib: Path, worker: GitWorker, where: str
    ) -> None:
        init(worker)
        worker.git("config", "-f", where, "submodule.lib.ignore", "all")
        worker.write("lib/f", "work")
        worker.deliver()
        assert (clone(rig) / "lib/f").read_text() == "work"

    def test_one_whose_git_file_was_removed(self, rig: GitRig, worker: GitWorker) -> None:
        init(worker)
        (worker.work / "lib/.git").unlink()
        worker.write("lib/f", "work")
        worker.deliver()
        assert (clone(rig) / "lib/f").read_text() == "work"

    def test_inner_ones_first(self, rig: GitRig) -> None:
        inner, outer = bare(rig, "inner"), bare(rig, "outer")
        seed = rig.folder / "outer-seed"
        rig.git("submodule", "--quiet", "add", "../inner.git", "inner", cwd=seed)
        rig.git("commit", "-q", "-m", "inner", cwd=seed)
        rig.git("push", "-q", "origin", "HEAD:main", cwd=seed)
        rig.git("submodule", "--quiet", "add", "../outer.git", "deps/outer")
        rig.commit({})
        worker = rig.worker()
        worker.prepare()
        init(worker)
        worker.write("deps/outer/inner/f", "work")
        assert worker.deliver()["checkpoint"] is None
        assert tip(rig, inner)
        assert tip(rig, outer)
        assert (clone(rig) / "deps/outer/inner/f").read_text() == "work"

    def test_one_that_the_agent_added(self, rig: GitRig, worker: GitWorker) -> None:
        other = bare(rig, "other")
        worker.git("submodule", "--quiet", "add", str(other), "other")
        assert worker.deliver()["reason"] == "ok"
        assert not tip(rig, other), "its remote showed the commit already"
        edit(worker, "other")
        worker.deliver()
        assert (clone(rig) / "other/f").read_text() == "work"

    def test_a_commit_that_the_remote_has_gone_on_from(
        self, rig: GitRig, lib: Path, worker: GitWorker
    ) -> None:
        seed = rig.folder / "lib-seed"
        for name in ("one", "two"):
            (seed / name).write_text(name)
            rig.git("add", "-A", cwd=seed)
            rig.git("commit", "-q", "-m", name, cwd=seed)
            rig.git("push", "-q", "origin", "HEAD:main", cwd=seed)
        init(worker)
        worker.git("-C", "lib", "fetch", "-q", "origin")
        worker.git("-C", "lib", "checkout", "-q", "origin/main~1")
        worker.git("-C", "lib", "update-ref", "-d", "refs/remotes/origin/main")
        worker.deliver()
        assert (clone(rig) / "lib/one").exists()
        assert not tip(rig, lib)

    def test_beside_a_branch_that_went_another_way(
        self, rig: GitRig, lib: Path, worker: GitWorker
    ) -> None:
        other = rig.git("commit-tree", "main^{tree}", "-m", "other", cwd=lib)
        rig.git("update-ref", f"refs/heads/{BRANCH}", other, cwd=lib)
        init(worker)
        made = edit(worker)
        worker.deliver()
        assert tip(rig, lib) == other
        assert tip(rig, lib, f"{BRANCH}-1") == made
        assert (clone(rig) / "lib/f").exists()

    def test_nothing_is_done_for_those_that_are_as_they_were(
        self, rig: GitRig, lib: Path, worker: GitWorker
    ) -> None:
        lib.rename(rig.folder / "away")
        worker.write("f", "work")
        assert worker.deliver()["reason"] == "ok"

    def test_what_only_the_checkout_made_different_is_no_edit(self, rig: GitRig, lib: Path) -> None:
        seed = rig.folder / "lib-seed"
        (seed / "a.txt").write_bytes(b"a\r\n")
        rig.git("add", "-A", cwd=seed)
        (seed / ".gitattributes").write_text("*.txt text\n")
        rig.git("commit", "-q", "-m", "crlf", cwd=seed)
        rig.git("add", ".gitattributes", cwd=seed)
        rig.git("commit", "-q", "-m", "attributes", cwd=seed)
        rig.git("push", "-q", "origin", "HEAD:main", cwd=seed)
        rig.git("submodule", "--quiet", "update", "--remote")
        rig.commit({})
        worker = rig.worker()
        worker.prepare()
        init(worker)
        assert worker.git("-C", "lib", "status", "--porcelain") == "M a.txt"
        assert worker.deliver()["reason"] == "nothing_to_commit"
        worker.write("lib/f", "work")
        worker.deliver()
        changed = rig.git("diff", "--name-only", f"main..{BRANCH}", cwd=lib)
        assert changed == "f"

    def test_large_files(self, rig: GitRig, lib: Path) -> None:
        seed = rig.folder / "lib-seed"
        (seed / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
        rig.git("add", "-A", cwd=seed)
        rig.git("commit", "-q", "-m", "lfs", cwd=seed)
        rig.git("push", "-q", "origin", "HEAD:main", cwd=seed)
        rig.git("submodule", "--quiet", "update", "--remote")
        rig.commit({})
        worker = rig.worker()
        worker.prepare()
        init(worker)
        worker.git("-C", "lib", "lfs", "install", "--local")
        content = "large\n" * 1000
        worker.write("lib/big.bin", content)
        worker.deliver()
        assert rig.git("show", f"{BRANCH}:big.bin", cwd=lib).startswith("version https://git-lfs")
        oid = hashlib.sha256(content.encode()).hexdigest()
        assert lfs.is_whole(lfs.object_path(str(lib / "lfs"), oid), oid)


class TestUnpushed:
    def test_a_remote_that_refuses(self, rig: GitRig, lib: Path, worker: GitWorker) -> None:
        init(worker)
        made = edit(worker)
        worker.write("lib/g", "more")
        worker.write("own", "work")
        (lib / "hooks/pre-receive").write_text("#!/bin/sh\necho not you >&2\nexit 1\n")
        (lib / "hooks/pre-receive").chmod(0o755)
        error = refused(worker)
        linked = worker.own("rev-parse", "HEAD:lib")
        for part in ("submodule lib", linked[:12], str(lib), "not you", REF, "rescued/gt-1.1.tar"):
            assert part in error.message
        assert error.hint
        assert rig.show(REF, "own") == "work"
        back = kept(worker, "lib")
        assert rig.git("show", f"{linked}:g", cwd=back) == "more"
        assert rig.git("show", f"{made}:f", cwd=back) == "work"
        assert not worker.unpushed()

    def test_what_git_does_not_allow(
        self, lib: Path, worker: GitWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        init(worker)
        edit(worker)
        monkeypatch.setenv("GIT_CONFIG_COUNT", "0")
        error = refused(worker)
        assert "transport 'file' not allowed" in error.message
        assert "protocol.file.allow" in error.hint

    def test_a_path_of_another_machine(self, rig: GitRig, lib: Path, worker: GitWorker) -> None:
        init(worker)
        edit(worker)
        lib.rename(rig.folder / "away")
        assert "no such path on the machine where the worker ran" in refused(worker).message
        assert not worker.unpushed()

    def test_a_push_that_is_answered_and_dropped(
        self, rig: GitRig, lib: Path, worker: GitWorker
    ) -> None:
        init(worker)
        edit(worker)
        hook = lib / "hooks/post-receive"
        hook.write_text(f"#!/bin/sh\ngit update-ref -d refs/heads/{BRANCH}\n")
        hook.chmod(0o755)
        assert "is at nothing" in refused(worker).message

    def test_files_in_one_that_was_never_initialised(self, worker: GitWorker) -> None:
        worker.write("lib/f", "work")
        assert "submodule lib: there are files" in refused(worker).message
        with tarfile.open(worker.rig.root / "rescued/gt-1.1.tar") as archive:
            assert "files/lib/f" in archive.getnames()
        assert not worker.unpushed()
        worker.write("lib/f", "other work")
        assert worker.unpushed()

    def test_a_commit_that_is_nowhere(self, worker: GitWorker) -> None:
        worker.git("update-index", "--cacheinfo", f"160000,{'1' * 40},lib")
        worker.git("commit", "-q", "-m", "a link")
        assert "1" * 12 in refused(worker).message

    def test_added_from_the_workers_own_folder(self, worker: GitWorker) -> None:
        worker.git("clone", "-q", "--bare", str(worker.rig.path), ".git/other.git")
        url = str(worker.work / ".git/other.git")
        worker.git("submodule", "--quiet", "add", url, "other")
        assert "in the worker's own folder" in refused(worker).message

    def test_a_rig_of_another_machine(self, rig: GitRig, worker: GitWorker) -> None:
        init(worker)
        edit(worker)
        copy = rig.root / "hosted" / "rig.git"
        rig.git("clone", "-q", "--bare", str(rig.path), str(copy))
        mirror = mirror_path(str(rig.root), str(rig.path))
        os.rename(mirror, mirror_path(str(rig.root), str(copy)))
        worker.order["rig"] = str(copy)
        assert "a path of the rig's machine" in refused(worker).message
        assert not worker.unpushed()


class TestWhereItGoes:
    @pytest.mark.parametrize("how", ["config", "insteadof", "origin", "pushurl"])
    def test_not_where_the_agent_configured(
        self, rig: GitRig, lib: Path, worker: GitWorker, how: str
    ) -> None:
        evil = bare(rig, "evil")
        init(worker)
        edit(worker)
        rewrite = f"url.{evil}.insteadOf"
        for argv in {
            "config": [("config", "submodule.lib.url", str(evil))],
            "insteadof": [("config", rewrite, str(lib)), ("-C", "lib", "config", rewrite, "/")],
            "origin": [("-C", "lib", "remote", "set-url", "origin", str(evil))],
            "pushurl": [("-C", "lib", "config", "remote.origin.pushurl", str(evil))],
        }[how]:
            worker.git(*argv)
        worker.deliver()
        assert tip(rig, lib)
        assert not tip(rig, evil)
        assert (clone(rig) / "lib/f").exists()

    def test_not_to_another_url_in_gitmodules(
        self, rig: GitRig, lib: Path, worker: GitWorker
    ) -> None:
        evil = bare(rig, "evil")
        init(worker)
        edit(worker)
        worker.git("config", "-f", ".gitmodules", "submodule.lib.url", str(evil))
        error = refused(worker)
        assert str(evil) in error.message
        assert tip(rig, lib), "it is safe at the URL of the base"
        assert not tip(rig, evil)

    @pytest.mark.parametrize("url", ["ext::sh -c true", "--upload-pack=true", "-x"])
    def test_no_url_that_runs_something(self, worker: GitWorker, url: str) -> None:
        worker.git("init", "-q", "other")
        edit(worker, "other")
        worker.git("add", "other")
        worker.git("config", "-f", ".gitmodules", "submodule.other.path", "other")
        worker.git("config", "-f", ".gitmodules", "submodule.other.url", url)
        assert "cannot be a rig" in refused(worker).message

    def test_no_repository_outside_is_committed_to(self, rig: GitRig, worker: GitWorker) -> None:
        mine = rig.folder / "lib-seed"
        before = rig.git("rev-parse", "HEAD", cwd=mine)
        init(worker)
        (worker.work / "lib/.git").write_text(f"gitdir: {mine}/.git\n")
        worker.write("lib/f", "work")
        assert "which is not the worker's" in refused(worker).message
        assert rig.git("rev-parse", "HEAD", cwd=mine) == before
        assert not (mine / ".git/refs/heads" / BRANCH).exists()
        with tarfile.open(rig.root / "rescued/gt-1.1.tar") as archive:
            assert "files/lib/f" in archive.getnames()

    def test_relative_urls(self) -> None:
        for above, told, url in (
            ("https://host/a/b.git", "../c.git", "https://host/a/c.git"),
            ("https://host/a/b.git/", "./c", "https://host/a/b.git/c"),
            ("git@host:a/b.git", "../../c", "git@host:c"),
            ("git@host:b.git", "../c/", "git@host:c"),
            ("/srv/rig.git", "../lib.git", "/srv/lib.git"),
            ("/srv/rig.git", "https://host/c", "https://host/c"),
        ):
            assert resolve(above, told) == url


class TestNoSubmodule:
    """`git add nested/` makes a link that nobody can follow."""

    @pytest.mark.parametrize("committed", [False, True])
    def test_files_are_delivered_instead(
        self, rig: GitRig, worker: GitWorker, committed: bool
    ) -> None:
        worker.git("init", "-q", "nested")
        made = edit(worker, "nested")
        worker.git("add", "nested")
        if committed:
            worker.git("commit", "-q", "-m", "nested")
        worker.write("nested/g", "more")
        done = worker.deliver()
        assert "nested/" in done["message"]
        assert {"nested/f", "nested/g"} <= set(rig.files(BRANCH))
        back = kept(worker, "nested")
        assert made in rig.git("rev-list", "--all", cwd=back)

    def test_its_git_was_removed(self, rig: GitRig, worker: GitWorker) -> None:
        worker.git("init", "-q", "nested")
        edit(worker, "nested")
        worker.git("add", "nested")
        worker.git("commit", "-q", "-m", "nested")
        subprocess.run(["rm", "-rf", str(worker.work / "nested/.git")], check=True)
        worker.deliver()
        assert "nested/f" in rig.files(BRANCH)

    def test_on_a_branch_that_is_not_checked_out(self, rig: GitRig, worker: GitWorker) -> None:
        worker.git("init", "-q", "nested")
        edit(worker, "nested")
        worker.git("add", "nested")
        worker.git("commit", "-q", "-m", "nested")
        subprocess.run(["rm", "-rf", str(worker.work / "nested")], check=True)
        worker.git("checkout", "-q", "-f", "--detach", "origin/main")
        assert "no .gitmodules names" in refused(worker).message


SCRIPT = """
import json, sys
from outpost_shared import faults
from outpost_worker.work import checkpoint, deliver
point, order, folder, space = json.loads(sys.stdin.read())
faults.arm(point)
deliver.deliver(order, folder, space, lambda _: None)
checkpoint.save(order, folder, space, ended=True)
"""


class TestKilled:
    def kill_at(self, worker: GitWorker, point: str) -> None:
        import json

        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input=json.dumps([point, worker.order, str(worker.folder), worker.space]),
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
            env=dict(os.environ),
        )
        assert done.returncode == -signal.SIGKILL, done.stderr

    @pytest.mark.parametrize("point", ["worker.submodules_committed", "worker.submodules_pushed"])
    def test_a_delivery_is_finished(
        self, rig: GitRig, lib: Path, worker: GitWorker, point: str
    ) -> None:
        init(worker)
        worker.write("lib/f", "work")
        self.kill_at(worker, point)
        assert rig.tip(BRANCH) is None
        done = worker.deliver()
        assert (done["reason"], done["checkpoint"]) == ("ok", None)
        assert (clone(rig) / "lib/f").read_text() == "work"
        assert rig.git("rev-list", "--count", BRANCH, "^main", cwd=lib) == "1"
        names = rig.git("for-each-ref", "--format=%(refname)", cwd=lib).splitlines()
        assert names == ["refs/heads/main", f"refs/heads/{BRANCH}"]

    @pytest.mark.parametrize("point", ["worker.packed", "worker.kept"])
    def test_a_rescue_is_finished(self, rig: GitRig, worker: GitWorker, point: str) -> None:
        worker.git("init", "-q", "nested")
        made = edit(worker, "nested")
        self.kill_at(worker, point)
        saved = worker.save(ended=True)
        assert saved["archive"] == str(rig.root / "rescued/gt-1.1.tar")
        assert os.listdir(rig.root / "rescued") == ["gt-1.1.tar"]
        assert made in rig.git("rev-list", "--all", cwd=kept(worker, "nested"))
        assert not worker.unpushed()


class TestCheckpoint:
    def test_while_the_agent_runs(self, rig: GitRig, lib: Path, worker: GitWorker) -> None:
        init(worker)
        made = edit(worker)
        worker.write("lib/g", "not committed")
        saved = worker.save()
        assert saved["archive"] == str(rig.root / "rescued/gt-1.1.tar")
        back = kept(worker, "lib")
        assert made in rig.git("rev-list", "--all", cwd=back)
        assert "g" in rig.git("log", "--all", "--format=", "--name-only", cwd=back).split()
        done = worker.deliver()
        assert (done["reason"], done["checkpoint"]) == ("ok", None)
        assert os.listdir(rig.root / "rescued") == []

    def test_what_the_agent_calls_a_remote_is_not_believed(
        self, rig: GitRig, lib: Path, worker: GitWorker
    ) -> None:
        init(worker)
        made = edit(worker)
        worker.git("-C", "lib", "update-ref", "refs/remotes/origin/mine", made)
        (lib / "hooks/pre-receive").write_text("#!/bin/sh\nexit 1\n")
        (lib / "hooks/pre-receive").chmod(0o755)
        assert "rescued/gt-1.1.tar" in refused(worker).message
        assert made in rig.git("rev-list", "--all", cwd=kept(worker, "lib"))
        (lib / "hooks/pre-receive").unlink()
        done = worker.deliver()
        assert (done["reason"], done["checkpoint"]) == ("ok", None)


class TestAgain:
    """`--again` continues from what was kept of a submodule, where it is kept."""

    @pytest.fixture
    def failed(self, rig: GitRig, lib: Path, worker: GitWorker) -> str:
        """Fail since the remote of the submodule refuses; returns its commit."""
        init(worker)
        made = edit(worker)
        worker.write("own", "work")
        (lib / "hooks/pre-receive").write_text("#!/bin/sh\nexit 1\n")
        (lib / "hooks/pre-receive").chmod(0o755)
        refused(worker)
        (lib / "hooks/pre-receive").unlink()
        return made

    @pytest.mark.parametrize("cleaned", [False, True])
    def test_it_is_checked_out(
        self, rig: GitRig, lib: Path, worker: GitWorker, failed: str, cleaned: bool
    ) -> None:
        if cleaned:
            subprocess.run(["rm", "-rf", str(worker.folder)], check=True)
        second = rig.worker(attempt=2, resume=REF)
        second.prepare()
        assert (second.work / "lib/f").read_text() == "work"
        init(second)
        assert second.git("-C", "lib", "rev-parse", "HEAD") == failed
        assert second.git("status", "--porcelain") == ""
        second.deliver()
        assert tip(rig, lib) == failed
        assert (clone(rig) / "lib/f").read_text() == "work"

    def test_with_what_was_not_committed(self, rig: GitRig, worker: GitWorker) -> None:
        init(worker)
        worker.write("lib/f", "not committed")
        worker.write("own", "work")
        worker.save(ended=True)
        second = rig.worker(attempt=2, resume=REF)
        second.prepare()
        assert (second.work / "lib/f").read_text() == "not committed"
        assert second.git("-C", "lib", "status", "--porcelain") == "?? f"

    @pytest.mark.parametrize("owner", ["", "b" * 16])
    def test_where_there_is_work_in_the_submodule_alone(
        self, rig: GitRig, worker: GitWorker, owner: str
    ) -> None:
        init(worker)
        worker.write("lib/f", "not committed")
        assert worker.save(ended=True)["ref"] is None
        files.store(str(worker.folder), files.ORDER, worker.order)
        failed = outcome.result("failed", "agent_failed")
        files.store(str(worker.folder), files.RESULT, failed)
        second = rig.worker(attempt=2, **({"owner": owner} if owner else {}))
        second.prepare()
        assert (second.work / "lib/f").exists() == (not owner)

    def test_what_cannot_be_brought_back_is_named(
        self, rig: GitRig, lib: Path, worker: GitWorker, failed: str
    ) -> None:
        lib.rename(rig.folder / "away")
        second = rig.worker(attempt=2, resume=REF)
        second.prepare()
        assert any("lib stays in" in said and ".tar" in said for said in second.reports)
        assert os.listdir(second.work / "lib") == []
