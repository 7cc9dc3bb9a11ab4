"""What a checkpoint beside an agent at work holds was reached in the tree through no link."""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from outpost_core.errors import WorkerError
from outpost_testing.gitrig import GitRig, GitWorker
from outpost_worker.folder import files
from outpost_worker.repository import changes, git, reached, snapshot
from outpost_worker.repository.owngit import Own
from outpost_worker.work import committing
from outpost_worker.work.workspace import repository

REF = "refs/outpost/gt-1.1"
EXCHANGE = 2


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    return GitRig(tmp_path, {"README": "hello\n", "dir/old": "old\n", "run": "1"})


@pytest.fixture
def worker(rig: GitRig) -> GitWorker:
    worker = rig.worker()
    worker.prepare()
    return worker


@pytest.fixture
def private(tmp_path: Path) -> Path:
    path = tmp_path / "private"
    path.mkdir()
    for name in ("key", "old"):
        (path / name).write_text("secret-key\n")
    return path


def staged(
    worker: GitWorker,
    names: list[str],
    private: Path,
    meanwhile: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Stage other content than there is, as git does that was led astray; returns what stays."""
    index = str(worker.folder / "index")
    ours = repository(worker.order, str(worker.folder))
    shutil.copy(worker.folder / "git/index", index)
    env = {"GIT_INDEX_FILE": index}
    ours.must("add", "-A", doing="", reason="", env=env)
    blob = ours.run("hash-object", "-w", "--stdin", stdin=str(private / "key")).text
    for name in names:
        entry = f"100644,{blob},{name}"
        ours.must("update-index", "--add", "--cacheinfo", entry, doing="", reason="", env=env)
    meanwhile()
    reached.only(ours, str(worker.folder), str(worker.space["base_commit"]), env)
    listed = ours.must("ls-files", "--stage", "-z", doing="", reason="", env=env).text
    found = {}
    for entry in filter(None, listed.split("\0")):
        about, _, name = entry.partition("\t")
        found[name] = ours.run("cat-file", "blob", about.split()[1]).out.decode()
    return found


FIRST = {"README": "hello\n", "dir/old": "old\n", "run": "1"}


def test_a_file_is_staged_as_it_is(worker: GitWorker, private: Path) -> None:
    worker.write("new", "mine")
    worker.write("dir/old", "changed")
    worker.write("dir/right", "1")
    found = staged(worker, ["new", "dir/old", "README"], private)
    assert found == {**FIRST, "new": "mine", "dir/old": "changed", "dir/right": "1"}


@pytest.mark.parametrize("kind", ["link", "gone", "file"])
def test_what_cannot_be_reached_is_as_it_was(worker: GitWorker, private: Path, kind: str) -> None:
    """As if each folder had been a real one when git looked."""
    worker.write("sub/key", "dummy")
    worker.write("dir/old", "changed")
    (worker.work / "link").symlink_to("README")

    def exchange() -> None:
        for name in ("dir", "sub"):
            shutil.rmtree(worker.work / name)
            if kind == "link":
                (worker.work / name).symlink_to(private)
            elif kind == "file":
                worker.write(name, "a file")
        (worker.work / "run").unlink()
        (worker.work / "run").symlink_to(private / "key")
        (worker.work / "link").unlink()
        (worker.work / "link").symlink_to(private)

    found = staged(worker, ["dir/old", "sub/key", "sub/deep/key", "run"], private, exchange)
    assert found == FIRST


def test_filters_of_the_user_run_on_what_is_staged_anew(
    worker: GitWorker, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "filter.rot.clean")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "tr a-z n-za-m")
    worker.write(".gitattributes", "*.rot filter=rot\n*.txt text\n")
    worker.write("a.rot", "hello")
    (worker.work / "b.txt").write_bytes(b"a\r\n")
    found = staged(worker, ["a.rot", "b.txt"], private)
    assert (found["a.rot"], found["b.txt"]) == ("uryyb", "a\n")


def test_before_the_first_commit(tmp_path: Path) -> None:
    rig = GitRig(tmp_path, files={})
    worker = rig.worker()
    worker.prepare()
    worker.write("first", "1")
    assert worker.save()["pushed"]
    assert rig.show(REF, "first") == "1"


def test_an_agent_that_exchanges_a_folder_for_a_link(
    rig: GitRig, worker: GitWorker, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git, "RETRY_DELAYS", ())
    folder, link = worker.work / "sub", worker.folder / "link"
    for number in range(20):
        worker.write(f"sub/{number}", "dummy")
        (private / str(number)).write_text("secret-key")
    link.symlink_to(private)
    libc, stop = ctypes.CDLL(None), threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            libc.renameat2(-100, os.fsencode(folder), -100, os.fsencode(link), EXCHANGE)

    thread = threading.Thread(target=exchange)
    thread.start()
    saved = 0
    try:
        for _ in range(8):
            with suppress(WorkerError):  # git may find nothing in its place each time: kept later
                worker.save()
                saved += 1
            assert rig.git("log", "--all", "-S", "secret-key", "--format=%h", cwd=rig.path) == ""
    finally:
        stop.set()
        thread.join()
    assert saved
    worker.save()


@pytest.mark.parametrize(
    ("fence", "sure"),
    [("namespace", True), ("off", True), ("none", True), ("", True), (None, True),
     ("landlock 5", False), ("namespace without processes of its own", False)],
)  # fmt: skip
@pytest.mark.parametrize("step", ["deliver", "save"])
def test_what_an_agent_may_have_left_behind_gets_nothing_either(
    rig: GitRig,
    worker: GitWorker,
    private: Path,
    monkeypatch: pytest.MonkeyPatch,
    fence: str | None,
    sure: bool,
    step: str,
) -> None:
    """As if git had been led astray; where nothing can be at work any more, nobody looks again."""
    files.store(str(worker.folder), files.STATE, {"state": "working", "fence": fence})
    real = changes.stage

    def astray(ours: Own, *args: Any, env: dict[str, str] | None = None, **more: Any) -> list[str]:
        nested = real(ours, *args, env=env, **more)
        blob = ours.run("hash-object", "-w", "--stdin", stdin=str(private / "key")).text
        entry = f"100644,{blob},sub/key"
        ours.must("update-index", "--add", "--cacheinfo", entry, doing="", reason="", env=env)
        return nested

    monkeypatch.setattr(committing, "stage", astray)
    monkeypatch.setattr(snapshot, "stage", astray)
    worker.write("sub/key", "dummy")
    saved = worker.deliver() if step == "deliver" else worker.save(ended=True)
    ref = saved.get("branch") or saved["ref"]
    assert rig.show(ref, "sub/key") == ("secret-key" if sure else "dummy")
