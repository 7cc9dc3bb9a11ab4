"""Repositories with git-lfs: a commit that is seen has its content on the rig."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from peers import MissingError

from outpost_core.errors import WorkerError
from outpost_testing.gitrig import GitRig, GitWorker
from outpost_worker.folder import files, outcome
from outpost_worker.recovery import cleaning
from outpost_worker.repository import git, mirror
from outpost_worker.work import lfs


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of a user who never said `git lfs install`."""
    if shutil.which("git-lfs") is None:
        raise MissingError("git-lfs is not installed: scripts/setup test installs it")
    config = tmp_path / "gitconfig"
    config.write_text("")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setattr(git, "RETRY_DELAYS", ())
    return config


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    rig = GitRig(tmp_path)
    rig.git("lfs", "install", "--local")
    (rig.seed / "old.bin").write_bytes(b"old content\0" * 99)
    rig.commit({".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
    assert (rig.path / "lfs/objects").is_dir()
    return rig


def prepared(rig: GitRig, issue: str = "gt-1", attempt: int = 1, **more: object) -> GitWorker:
    worker = rig.worker(issue, attempt, **more)
    worker.prepare()
    return worker


def oid(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def on_rig(rig: GitRig, content: str) -> bool:
    return lfs.is_whole(lfs.object_path(str(rig.path / "lfs"), oid(content)), oid(content))


def cloned(rig: GitRig, ref: str, name: str) -> str:
    """Return a file as a fresh clone gets it at a ref of the rig."""
    folder = rig.folder / "clone"
    shutil.rmtree(folder, ignore_errors=True)
    rig.git("init", "-q", str(folder), cwd=rig.folder)
    rig.git("lfs", "install", "--local", cwd=folder)
    rig.git("remote", "add", "origin", str(rig.path), cwd=folder)
    rig.git("fetch", "-q", "origin", f"{ref}:refs/heads/x", cwd=folder)
    rig.git("checkout", "-q", "x", cwd=folder)
    return (folder / name).read_text()


def shut(rig: GitRig) -> None:
    """Let the rig take no object any more: a file is where they would go."""
    shutil.move(rig.path / "lfs", rig.path / "lfs-away")
    (rig.path / "lfs").write_text("")


def test_the_tree_has_real_files_and_they_are_fetched_once(rig: GitRig) -> None:
    first = prepared(rig)
    shutil.move(rig.path / "lfs", rig.path / "lfs-away")
    second = prepared(rig, "gt-2")
    for worker in (first, second):
        assert (worker.work / "old.bin").read_bytes() == b"old content\0" * 99
        assert worker.git("status", "--porcelain") == ""
        assert worker.deliver()["reason"] == "nothing_to_commit"
        worker.git("lfs", "prune", "--force", ok=False)
    assert prepared(rig, "gt-3").space["lfs"]


def test_an_object_is_on_the_rig_before_the_branch(rig: GitRig) -> None:
    worker = prepared(rig)
    worker.write("new.bin", "new content")
    worker.commit("agents.bin", "of the agent")
    worker.commit("agents.bin", "of the agent, later")
    worker.write("last.bin", "last")
    done = worker.deliver()
    assert done["reason"] == "ok"
    for content in ("new content", "of the agent", "of the agent, later", "last"):
        assert on_rig(rig, content)
    assert cloned(rig, "refs/heads/polecat/gt-1", "last.bin") == "last"


def test_of_a_checkpoint_too(rig: GitRig) -> None:
    worker = prepared(rig)
    worker.write("new.bin", "new content")
    assert worker.save()["pushed"]
    assert on_rig(rig, "new content")
    again = prepared(rig, attempt=2, resume="refs/outpost/gt-1.1")
    assert (again.work / "new.bin").read_text() == "new content"


def test_a_push_of_the_agent_alone_does_not_count(rig: GitRig) -> None:
    worker = prepared(rig)
    worker.commit("new.bin", "new content")
    worker.git("-c", "core.hooksPath=/dev/null", "push", "-q")
    assert not on_rig(rig, "new content")
    assert worker.deliver()["commit"] == rig.tip("polecat/gt-1")
    assert on_rig(rig, "new content")


def test_what_the_agent_configured_leads_no_upload_astray(rig: GitRig) -> None:
    worker = prepared(rig)
    elsewhere = rig.folder / "elsewhere.git"
    rig.git("init", "-q", "--bare", str(elsewhere))
    for name in ("lfs.url", "remote.origin.lfsurl", "remote.outpost.lfsurl"):
        worker.git("config", name, f"file://{elsewhere}")
    worker.write("new.bin", "new content")
    assert worker.deliver()["reason"] == "ok"
    assert on_rig(rig, "new content")


def test_no_program_of_the_agent_runs_for_large_files(rig: GitRig, tmp_path: Path) -> None:
    mark, program = tmp_path / "ran", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {mark}\ncat\n")
    program.chmod(0o755)
    worker = prepared(rig)
    for name in ("filter.lfs.clean", "filter.lfs.process", "lfs.extension.x.clean",
                 "lfs.customtransfer.x.path", "lfs.customtransfer.lfs-standalone-file.path",
                 "core.sshCommand", "credential.helper", "core.hooksPath"):  # fmt: skip
        for place in ([], ["-f", ".lfsconfig"]):
            worker.git("config", *place, name, str(program))
    for place in ([], ["-f", ".lfsconfig"]):
        worker.git("config", *place, "lfs.standalonetransferagent", "x")
        worker.git("config", *place, "lfs.storage", str(tmp_path / "storage"))
    worker.git("config", "lfs.extension.x.priority", "0")
    worker.write("new.bin", "new content")
    assert worker.save()["pushed"]
    assert worker.deliver()["reason"] == "ok"
    assert on_rig(rig, "new content")
    assert not worker.unpushed()
    assert not mark.exists()
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize("kind", ["link", "pipe", "other", "storage"])
def test_an_object_of_the_agent_that_is_something_else(
    rig: GitRig, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "private").write_text("secret-key!")
    worker = prepared(rig)
    worker.write("new.bin", "new content")
    os.utime(worker.work / "new.bin", (1, 1))  # else git would read it once more
    worker.git("add", "-A")
    worker.git("commit", "-q", "-m", "x")
    storage = worker.work / ".git/lfs"
    path = Path(lfs.object_path(str(storage), oid("new content")))
    path.chmod(0o600)
    if kind == "storage":
        storage.rename(tmp_path / "moved")
        storage.symlink_to(tmp_path / "moved")
    elif kind == "other":
        path.write_text("secret-key!")
    else:
        path.unlink()
        if kind == "link":
            path.symlink_to(tmp_path / "private")
        else:
            os.mkfifo(path)
    with pytest.raises(WorkerError) as caught:
        worker.deliver()
    assert caught.value.reason == "lfs_failed"
    assert rig.tip("polecat/gt-1") is None
    assert "kept in" in caught.value.message
    for file in rig.folder.rglob("*"):
        if file.is_file() and "work" not in file.parts and file.name not in ("private", path.name):
            assert b"secret-key" not in file.read_bytes()


def test_a_pointer_without_its_object(rig: GitRig) -> None:
    worker = prepared(rig)
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 9\n"
    worker.write("x.bin", text)
    with pytest.raises(WorkerError, match="aaaa") as caught:
        worker.deliver()
    assert caught.value.reason == "lfs_failed"
    assert rig.tip("polecat/gt-1") is None


def test_a_failed_upload_is_a_failed_push_and_again_goes_on(rig: GitRig) -> None:
    worker = prepared(rig)
    worker.write("new.bin", "new content")
    shut(rig)
    with pytest.raises(WorkerError, match="the work is kept in") as caught:
        worker.deliver()
    assert caught.value.reason == "lfs_failed"
    assert caught.value.hint
    assert rig.tip("polecat/gt-1") is None
    assert rig.tip("refs/outpost/gt-1.1") is None
    (rig.path / "lfs").unlink()
    shutil.move(rig.path / "lfs-away", rig.path / "lfs")
    again = prepared(rig, attempt=2, resume="refs/outpost/gt-1.1")
    assert (again.work / "new.bin").read_text() == "new content"
    assert again.deliver()["reason"] == "ok"
    assert cloned(rig, "refs/heads/polecat/gt-1", "new.bin") == "new content"


def test_clean_keeps_the_objects_with_the_bundle(rig: GitRig) -> None:
    worker = prepared(rig)
    worker.write("new.bin", "new content")
    shut(rig)
    for name, value in ((files.ORDER, worker.order), (files.WORKSPACE, worker.space)):
        (worker.folder / name).write_text(json.dumps(value))
    from outpost_core import wire
    from outpost_core.types import Result

    result = wire.from_json(Result, outcome.result("failed", "agent_failed"))
    where, _ = cleaning.rescue(rig.root, worker.folder, result, force=False)
    assert where == str(rig.root / "rescued/gt-1.1.bundle")
    kept = lfs.object_path(str(rig.root / "rescued/gt-1.1.lfs"), oid("new content"))
    assert Path(kept).read_text() == "new content"


def test_a_bundle_that_is_not_needed_any_more_goes_with_its_objects(rig: GitRig) -> None:
    worker = prepared(rig)
    worker.write("new.bin", "new content")
    shut(rig)
    assert worker.save()["kept"]
    assert (worker.folder / "checkpoint.lfs").is_dir()
    (rig.path / "lfs").unlink()
    assert worker.save()["pushed"]
    assert not (worker.folder / "checkpoint.lfs").exists()


def test_without_git_lfs_the_agent_never_runs(
    rig: GitRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("git", "sh"):
        (folder / name).symlink_to(str(shutil.which(name)))
    worker = rig.worker()
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(WorkerError) as caught:
        worker.prepare()
    assert caught.value.reason == "lfs_missing"
    assert "git-lfs" in caught.value.hint


def test_an_object_that_the_rig_lacks(rig: GitRig) -> None:
    shutil.rmtree(rig.path / "lfs")
    with pytest.raises(WorkerError) as caught:
        prepared(rig)
    assert caught.value.reason == "lfs_failed"


def test_a_raw_blob_under_the_filter_is_no_work(rig: GitRig) -> None:
    (rig.seed / "raw").write_text("raw content")
    blob = rig.git("hash-object", "-w", "--no-filters", "raw")
    (rig.seed / "raw").unlink()
    rig.git("update-index", "--add", "--cacheinfo", f"100644,{blob},raw.bin")
    rig.git("commit", "-q", "-m", "raw")
    rig.git("push", "-q", "origin", "main")
    worker = prepared(rig)
    (worker.work / "raw.bin").touch()
    assert worker.save()["nothing"]
    assert worker.deliver()["reason"] == "nothing_to_commit"
    worker.write("raw.bin", "changed")
    assert worker.deliver()["reason"] == "ok"
    assert on_rig(rig, "changed")


def test_a_git_that_was_made_anew(rig: GitRig) -> None:
    worker = prepared(rig)
    worker.write("new.bin", "new content")
    shutil.rmtree(worker.work / ".git")
    assert worker.deliver()["reason"] == "ok"
    assert cloned(rig, "refs/heads/polecat/gt-1", "new.bin") == "new content"


@pytest.mark.parametrize("point", ["worker.lfs_uploaded", "worker.pushed", "worker.lfs_kept"])
def test_killed_and_done_again(rig: GitRig, point: str) -> None:
    worker = prepared(rig)
    worker.write("new.bin", "new content")
    if point == "worker.lfs_kept":
        shut(rig)
    asked = json.dumps([worker.order, str(worker.folder), worker.space])
    script = (
        "import json, sys\nfrom outpost_worker.work import deliver\n"
        "deliver.deliver(*json.loads(sys.argv[1]), print)"
    )
    env = {**os.environ, "OUTPOST_FAULT": point, "OUTPOST_GIT_RETRY": ""}
    done = subprocess.run(
        [sys.executable, "-c", script, asked], env=env, timeout=60, capture_output=True, check=False
    )
    assert done.returncode == -9, done.stderr
    if point == "worker.lfs_uploaded":
        assert on_rig(rig, "new content")
        assert rig.tip("polecat/gt-1") is None
    if point == "worker.lfs_kept":
        assert worker.unpushed()
        (rig.path / "lfs").unlink()
    assert worker.deliver()["reason"] == "ok"
    assert on_rig(rig, "new content")
    assert not worker.unpushed()


def test_a_file_url(rig: GitRig) -> None:
    worker = rig.worker(rig=f"file://{rig.path}")
    worker.prepare()
    assert (worker.work / "old.bin").read_bytes() == b"old content\0" * 99
    worker.write("new.bin", "new content")
    assert worker.deliver()["reason"] == "ok"
    assert on_rig(rig, "new content")


def test_the_mirror_keeps_what_a_worker_throws_away(rig: GitRig) -> None:
    worker = prepared(rig)
    shutil.rmtree(worker.work / ".git/lfs")
    content = "old content\0" * 99
    storage = os.path.join(mirror.mirror_path(str(rig.root), str(rig.path)), "lfs")
    assert lfs.is_whole(lfs.object_path(storage, oid(content)), oid(content))
