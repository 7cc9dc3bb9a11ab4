"""Refs for unpushed work belong to the ledger that ordered them, and bundles are continued from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from outpost_core.errors import WorkerError
from outpost_core.names import checkpoint_ref, owner_of
from outpost_manager.ledger import Ledger
from outpost_manager.ledger.schema import MIGRATIONS
from outpost_manager.ledger.store import Store
from outpost_testing.gitrig import GitRig, GitWorker
from outpost_worker.folder import files
from outpost_worker.repository import bundles, git
from outpost_worker.repository.refs import NOTE

A, B = "a" * 16, "b" * 16


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "RETRY_DELAYS", (0.01,))


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    return GitRig(tmp_path, {"README": "hello\n"})


@pytest.fixture
def at(rig: GitRig, tmp_path: Path) -> Callable[..., GitWorker]:
    """Make a prepared worker of an owner, in a state folder of its own."""

    def make(owner: str, attempt: int = 1, root: str = "", **order: object) -> GitWorker:
        rig.root = tmp_path / (root or f"state-{owner[:1] or 'old'}")
        worker = rig.worker(attempt=attempt, owner=owner, **order)
        worker.prepare()
        return worker

    return make


def test_two_ledgers_keep_the_same_issue_apart(rig: GitRig, at: Callable[..., GitWorker]) -> None:
    workers = [at(A), at(B)]
    for worker, text in zip(workers, "AB", strict=True):
        worker.write("mine", text)
        assert worker.save()["ref"] == checkpoint_ref("gt-1.1", worker.order["owner"])
    assert rig.show(checkpoint_ref("gt-1.1", A), "mine") == "A"
    workers[1].deliver()
    assert rig.tip(checkpoint_ref("gt-1.1", B)) is None
    assert rig.show(checkpoint_ref("gt-1.1", A), "mine") == "A"


def test_names_of_both_kinds_live_beside_each_other(
    rig: GitRig, at: Callable[..., GitWorker]
) -> None:
    for owner in ("", A):
        worker = at(owner)
        worker.write("mine", owner or "old")
        assert worker.save()["pushed"]
    assert rig.show("refs/outpost/gt-1.1", "mine") == "old"


@pytest.mark.parametrize("first", [True, False])
def test_a_value_that_is_not_ours_is_neither_moved_nor_removed(
    rig: GitRig, at: Callable[..., GitWorker], first: bool
) -> None:
    worker, ref = at(A), checkpoint_ref("gt-1.1", A)
    if first:
        worker.write("mine", "1")
        assert worker.save()["pushed"]
    theirs = rig.commit({"theirs": "1"}, "theirs")
    rig.git("update-ref", ref, theirs, cwd=rig.path)
    worker.write("mine", "2")
    saved = worker.save()
    assert (saved["pushed"], saved["kept"]) == (False, str(worker.folder / "checkpoint.bundle"))
    assert rig.tip(ref) == theirs
    worker.deliver()
    assert rig.tip(ref) == theirs


def test_a_push_before_a_crash_is_known_as_ours(rig: GitRig, at: Callable[..., GitWorker]) -> None:
    worker, ref = at(A), checkpoint_ref("gt-1.1", A)
    worker.write("mine", "1")
    pushed = worker.save()["commit"]
    # as if it had been killed between the push and the two notes
    files.store(str(worker.folder), NOTE, {"ref": ref, "seen": "", "tried": [pushed]})
    (worker.folder / "checkpoint").unlink()
    worker.write("mine", "2")
    assert worker.save()["pushed"]
    assert rig.show(ref, "mine") == "2"


def test_what_somebody_removed_is_pushed_again(rig: GitRig, at: Callable[..., GitWorker]) -> None:
    worker, ref = at(A), checkpoint_ref("gt-1.1", A)
    worker.write("mine", "1")
    worker.save()
    rig.git("update-ref", "-d", ref, cwd=rig.path)
    worker.write("mine", "2")
    assert worker.save()["pushed"]
    assert rig.show(ref, "mine") == "2"


def test_a_push_that_went_elsewhere_is_no_rescue(
    rig: GitRig,
    at: Callable[..., GitWorker],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = at(A)
    rig.git("clone", "-q", "--bare", str(rig.path), "trap.git", cwd=tmp_path)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{tmp_path}/trap.git.pushInsteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(rig.path))
    worker.write("mine", "1")
    assert worker.save()["kept"]


class TestBundle:
    @pytest.mark.parametrize("cleaned", [False, True])
    def test_the_next_attempt_goes_on_from_it(
        self, rig: GitRig, at: Callable[..., GitWorker], cleaned: bool
    ) -> None:
        ref = checkpoint_ref("gt-1.1", A)
        worker = at(A)
        worker.write("old", "1")
        assert worker.save()["pushed"]
        rig.hook("pre-receive", "exit 1")
        tip = worker.commit("committed", "1")
        worker.write("open", "1")
        kept = worker.save()["kept"]
        if cleaned:
            bundles.keep(str(worker.folder.parents[1]), kept, "gt-1.1", A)
            worker.folder.rename(worker.folder.parents[1] / "gone")
        # newer than what the rig has under the same name
        again = at(A, 2, resume=ref)
        assert again.git("rev-parse", "HEAD") == tip
        assert sorted(os.listdir(again.work)) == [".git", "README", "committed", "old", "open"]

    def test_it_needs_nothing_of_the_rig_but_the_base(
        self, rig: GitRig, at: Callable[..., GitWorker], tmp_path: Path
    ) -> None:
        rig.commit({"feature": "1"}, "feature")
        worker = at(A)
        rig.hook("pre-receive", "exit 1")
        worker.git("merge", "-q", "origin/feature")
        worker.write("open", "1")
        kept = worker.save()["kept"]
        rig.hook("pre-receive", "exit 0")
        rig.git("branch", "-D", "feature", cwd=rig.path)
        rig.git("reflog", "expire", "--expire=now", "--all", cwd=rig.path)
        rig.git("gc", "-q", "--prune=now", cwd=rig.path)
        (tmp_path / "other").mkdir()
        bundles.keep(str(tmp_path / "other"), kept, "gt-1.1", A)
        again = at(A, 2, root="other", resume=checkpoint_ref("gt-1.1", A))
        assert sorted(os.listdir(again.work)) == [".git", "README", "feature", "open"]

    def test_a_base_that_the_rig_has_lost_is_taken_from_the_mirror(
        self, rig: GitRig, at: Callable[..., GitWorker]
    ) -> None:
        worker = at(A)
        rig.hook("pre-receive", "exit 1")
        worker.write("open", "1")
        worker.save()
        rig.hook("pre-receive", "exit 0")
        rig.git("checkout", "-q", "--orphan", "fresh")
        rig.git("commit", "-q", "-m", "another history")
        rig.git("push", "-q", "--force", "origin", "fresh:main")
        again = at(A, 2, resume=checkpoint_ref("gt-1.1", A))
        assert (again.work / "open").read_text() == "1"

    def test_a_broken_one_is_named_and_nothing_is_begun(
        self, rig: GitRig, at: Callable[..., GitWorker]
    ) -> None:
        worker = at(A)
        rig.hook("pre-receive", "exit 1")
        worker.write("open", "x" * 5000)
        kept = Path(worker.save()["kept"])
        data = kept.read_bytes()
        kept.write_bytes(data[: len(data) - 30] + b"\0" * 30)
        with pytest.raises(WorkerError, match=r"checkpoint\.bundle"):
            at(A, 2, resume=checkpoint_ref("gt-1.1", A))

    def test_two_owners_of_one_host_keep_both(
        self, rig: GitRig, at: Callable[..., GitWorker], tmp_path: Path
    ) -> None:
        rig.hook("pre-receive", "exit 1")
        places = set()
        for owner in (A, B, ""):
            worker = at(owner)
            worker.write("mine", owner)
            places.add(bundles.keep(str(tmp_path), worker.save()["kept"], "gt-1.1", owner))
        assert len(places) == 3
        for owner in (A, B, ""):
            assert bundles.find(str(tmp_path), checkpoint_ref("gt-1.1", owner)) in places


def test_a_ledger_has_one_id_and_an_older_one_is_given_one(tmp_path: Path) -> None:
    Store(tmp_path / "old", migrations=MIGRATIONS[:2]).close()
    ids = []
    for name in ("old", "old", "new"):
        ledger = Ledger(tmp_path / name)
        ids.append(ledger.id)
        ledger.close()
    assert ids[0] == ids[1] != ids[2]
    assert all(owner_of(checkpoint_ref("gt-1.1", one), "gt-1.1") == one for one in ids)


#: Saves the work of one worker, and dies at the named point.
SAVE = """
import json, os, sys
point, order, folder, space = json.load(sys.stdin)
os.environ["OUTPOST_FAULT"] = point
from outpost_worker.work import checkpoint
checkpoint.save(order, folder, space, ended=True)
"""


def killed_at(worker: GitWorker, point: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAVE],
        input=json.dumps([point, worker.order, str(worker.folder), worker.space]),
        text=True, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, (point, done.stderr)


@pytest.mark.parametrize("more", [False, True], ids=["same work", "more work since"])
@pytest.mark.parametrize("point", ["checkpoint.noted", "checkpoint.pushed"])
def test_a_push_that_is_killed_is_finished_and_still_known_as_ours(
    rig: GitRig, at: Callable[..., GitWorker], point: str, more: bool
) -> None:
    worker, ref = at(A), checkpoint_ref("gt-1.1", A)
    worker.write("mine", "1")
    killed_at(worker, point)
    assert (rig.tip(ref) is None) == (point == "checkpoint.noted")
    if more:
        worker.write("mine", "2")
    saved = worker.save(ended=True)
    assert (saved["pushed"], saved["ref"], saved["kept"]) == (True, ref, None)
    assert rig.show(ref, "mine") == ("2" if more else "1")
    assert worker.deliver()["checkpoint"] is None
    assert rig.tip(ref) is None


def test_a_bundle_that_was_kept_before_a_kill_is_kept_once(
    rig: GitRig, at: Callable[..., GitWorker]
) -> None:
    worker, ref = at(A), checkpoint_ref("gt-1.1", A)
    worker.write("mine", "1")
    hook = rig.path / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    killed_at(worker, "checkpoint.kept")
    saved = worker.save(ended=True)
    assert saved["kept"] == str(Path(worker.folder) / "checkpoint.bundle")
    assert ref in rig.git("bundle", "list-heads", saved["kept"], cwd=rig.path)
    hook.unlink()
    assert worker.save(ended=True)["pushed"]
    assert rig.show(ref, "mine") == "1"


def test_two_pushes_at_once_lose_nothing(rig: GitRig, at: Callable[..., GitWorker]) -> None:
    """Two owners with the same issue push to one rig in the same moment, many times."""
    workers = [at(A), at(B)]
    for turn in range(5):
        for worker, name in zip(workers, "AB", strict=True):
            worker.write("mine", f"{name}{turn}")
        with ThreadPoolExecutor(2) as pool:
            saved = [*pool.map(lambda worker: worker.save(), workers)]
        assert [each["pushed"] for each in saved] == [True, True]
        for owner, name in ((A, "A"), (B, "B")):
            assert rig.show(checkpoint_ref("gt-1.1", owner), "mine") == f"{name}{turn}"
