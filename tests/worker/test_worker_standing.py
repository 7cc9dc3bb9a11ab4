"""A worker pushes only while its claim stands: not after it was frozen and another one began."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from recordkit import OWNER, claim

from outpost_core.errors import WorkerError
from outpost_core.names import checkpoint_ref
from outpost_core.types import Delivery, Issue, Order, Result, State
from outpost_testing.gitrig import GitRig, GitWorker
from outpost_worker.folder import publish
from outpost_worker.record import standing
from outpost_worker.record.kinds import Claim, Record
from outpost_worker.record.places import on_rig
from outpost_worker.recovery import recover
from outpost_worker.repository import git

REF = checkpoint_ref("gt-1.1", OWNER)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "RETRY_DELAYS", (0.01,))


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    return GitRig(tmp_path, {"README": "hello\n"})


@pytest.fixture
def record(rig: GitRig, tmp_path: Path) -> Record:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    return on_rig(str(rig.path), str(other), OWNER)


def worker_at(rig: GitRig, root: Path, mine: Claim, **order: Any) -> GitWorker:
    """Prepare a worker that runs by a claim, on a machine of its own."""
    rig.root = root
    root.mkdir(exist_ok=True)
    record = order.pop("record", None) or standing.launched(mine)
    worker = rig.worker(owner=OWNER, record=record, **order)
    worker.prepare()
    return worker


def taken(record: Record) -> Claim:
    """Let the next leg begin."""
    found = record.read("gt-1.1")
    assert found is not None
    nxt = claim(instance=2, leg=found.claim.leg + 1)
    assert record.take_over(nxt, found.seen) == nxt
    return nxt


def test_a_branch_and_the_word_of_its_delivery_are_pushed_together(
    rig: GitRig, record: Record, tmp_path: Path
) -> None:
    mine = record.claim(claim())
    worker = worker_at(rig, tmp_path / "one", mine)
    worker.write("a", "1")
    done = worker.deliver()
    assert done["commit"] == rig.tip("polecat/gt-1")
    found = record.read("gt-1.1")
    assert found is not None
    assert found.claim == mine
    assert found.delivered is not None
    assert (found.delivered.state, found.delivered.branch, found.delivered.commit) == (
        State.DONE, "polecat/gt-1", done["commit"],
    )  # fmt: skip
    assert record.beat(mine).delivered == found.delivered  # a beat forgets nothing of it
    nxt = taken(record)
    again = record.read("gt-1.1")
    assert again is not None
    assert again.delivered == found.delivered  # so that the next leg runs no agent
    assert record.finish(nxt, again.delivered or Result(state=State.LOST), b"").commit


@pytest.mark.parametrize("atomic", ["true", "false"])
def test_a_superseded_worker_pushes_neither_its_branch_nor_a_checkpoint(
    rig: GitRig, record: Record, tmp_path: Path, atomic: str
) -> None:
    rig.git("config", "receive.advertiseAtomic", atomic, cwd=rig.path)
    worker = worker_at(rig, tmp_path / "one", record.claim(claim()))
    worker.write("a", "1")
    taken(record)
    with pytest.raises(WorkerError, match="another machine has this worker now") as caught:
        worker.deliver()
    assert caught.value.reason == "superseded"
    assert "leg 2 runs it" in caught.value.message
    assert rig.tip("polecat/gt-1") is None
    assert rig.tip(REF) is None
    kept = worker.folder / "checkpoint.bundle"
    assert str(kept) in caught.value.message
    assert kept.exists()
    assert worker.save()["pushed"] is False


def test_one_that_was_frozen_between_the_look_and_the_push_delivers_nothing(
    rig: GitRig, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = worker_at(rig, tmp_path / "one", record.claim(claim()))
    worker.write("a", "1")
    look = standing.Standing._next

    def then_freeze(self: standing.Standing, *args: Any) -> Any:
        seen = look(self, *args)
        monkeypatch.setattr(standing.Standing, "_next", look)
        taken(record)  # while it stands still
        return seen

    monkeypatch.setattr(standing.Standing, "_next", then_freeze)
    with pytest.raises(WorkerError, match="another machine has this worker now"):
        worker.deliver()
    assert rig.tip("polecat/gt-1") is None


def test_the_record_that_moves_by_our_own_beat_is_looked_at_again(
    rig: GitRig, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = record.claim(claim())
    worker = worker_at(rig, tmp_path / "one", mine)
    worker.write("a", "1")
    look, beats = standing.Standing._next, []

    def then_beat(self: standing.Standing, *args: Any) -> Any:
        seen = look(self, *args)
        if len(beats) < 3:
            beats.append(record.beat(mine))
        return seen

    monkeypatch.setattr(standing.Standing, "_next", then_beat)
    assert worker.deliver()["reason"] == "ok"
    assert rig.show("polecat/gt-1", "a") == "1"


@pytest.mark.parametrize("atomic", ["true", "false"])
def test_a_branch_with_other_work_is_left_as_it_is(
    rig: GitRig, record: Record, tmp_path: Path, atomic: str
) -> None:
    rig.git("config", "receive.advertiseAtomic", atomic, cwd=rig.path)
    worker = worker_at(rig, tmp_path / "one", record.claim(claim()))
    other = rig.commit({"b": "2"}, "polecat/gt-1")
    worker.write("a", "1")
    assert worker.deliver()["branch"] == "polecat/gt-1-1"
    assert rig.tip("polecat/gt-1") == other


def test_a_removed_record_is_a_claim_that_stands_no_more(
    rig: GitRig, record: Record, tmp_path: Path
) -> None:
    worker = worker_at(rig, tmp_path / "one", record.claim(claim()))
    worker.write("a", "1")
    record.forget("gt-1.1")
    with pytest.raises(WorkerError, match="somebody has removed it"):
        worker.deliver()
    assert rig.tip("polecat/gt-1") is None


@pytest.mark.parametrize(("code", "reason"), [(0, "ok"), (3, "superseded"), (1, "push_failed")])
def test_where_the_record_is_elsewhere_a_command_is_asked(
    rig: GitRig, tmp_path: Path, code: int, reason: str
) -> None:
    script = f"import sys; print('it says so', file=sys.stderr); sys.exit({code})"
    about = standing.launched(claim(), [sys.executable, "-c", script])
    worker = worker_at(rig, tmp_path / "one", claim(), record=about)
    worker.write("a", "1")
    if code == 0:
        assert worker.deliver()["reason"] == reason
        return
    with pytest.raises(WorkerError, match="it says so") as caught:
        worker.deliver()
    assert caught.value.reason == reason
    assert rig.tip("polecat/gt-1") is None


@pytest.mark.parametrize("fork", [False, True])
def test_the_next_leg_goes_on_from_the_checkpoint_of_the_one_before(
    rig: GitRig, tmp_path: Path, fork: bool
) -> None:
    goal, more = rig.path, {}
    if fork:
        goal = tmp_path / "fork.git"
        rig.git("clone", "-q", "--bare", str(rig.path), str(goal), cwd=tmp_path)
        more = {"push_url": str(goal)}
    (tmp_path / "other").mkdir(mode=0o700, exist_ok=True)
    record = on_rig(str(goal), str(tmp_path / "other"), OWNER)

    def tip(ref: str) -> str:
        return rig.git("rev-parse", "--verify", "-q", ref, cwd=goal, ok=False)

    first = worker_at(rig, tmp_path / "one", record.claim(claim()))
    first.order["delivery"].update(more)
    first.commit("a", "1")
    first.write("b", "2")
    assert first.save()["pushed"]
    before = tip(REF)

    nxt = taken(record)
    rig.root = tmp_path / "two"
    second = rig.worker(owner=OWNER, record=standing.launched(nxt))
    second.order["delivery"].update(more)
    space = second.prepare()
    assert space["checkpoint"] == before
    assert (second.work / "a").read_text() == "1"
    assert (second.work / "b").read_text() == "2"
    first.write("c", "late")
    assert first.save()["pushed"] is False  # of a machine that was thawed
    assert tip(REF) == before
    second.write("d", "4")
    assert second.save()["pushed"]
    assert tip(REF) != before
    assert second.deliver()["reason"] == "ok"
    assert tip(REF) == ""
    assert rig.git("show", "polecat/gt-1:b", cwd=goal) == "2"


def test_a_leg_that_has_nothing_to_add_takes_the_checkpoint_away_all_the_same(
    rig: GitRig, record: Record, tmp_path: Path
) -> None:
    first = worker_at(rig, tmp_path / "one", record.claim(claim()))
    first.commit("a", "1")
    assert first.save()["pushed"]
    second = worker_at(rig, tmp_path / "two", taken(record))
    assert second.deliver()["reason"] == "ok"
    assert rig.tip(REF) is None
    assert rig.show("polecat/gt-1", "a") == "1"


def test_a_supervisor_checks_what_was_sealed_with_its_launch(far: Any, tmp_path: Path) -> None:
    rig, record, _, folder = _published(far, tmp_path, {"PATH": os.environ["PATH"]})
    taken(record)
    far.start(folder).wait(60)
    result = far.result(folder)
    assert (result.state, result.reason) == (State.FAILED, "superseded")
    assert rig.tip("polecat/gt-1") is None
    assert rig.tip(REF) is None


def _published(far: Any, tmp_path: Path, env: dict[str, str]) -> tuple[GitRig, Record, Claim, Path]:
    rig = GitRig(tmp_path, {"README": "hello\n"})
    (tmp_path / "other").mkdir(mode=0o700)
    record = on_rig(str(rig.path), str(tmp_path / "other"), OWNER)
    order: Order = far.shell(
        "echo 1 > a", rig=str(rig.path), owner=OWNER, issue=Issue(id="gt-1"),
        delivery=Delivery(branch="polecat/gt-1", message="m"),
    )  # fmt: skip
    mine = record.claim(claim())
    folder, _ = publish.publish(far.root, order, env, record=standing.launched(mine))
    return rig, record, mine, folder


@pytest.mark.parametrize("fault", ["worker.committed", "worker.pushed", "worker.verified"])
def test_a_supervisor_that_is_killed_in_its_delivery_is_recovered_with_its_claim(
    far: Any, tmp_path: Path, fault: str
) -> None:
    rig, record, mine, folder = _published(far, tmp_path, {"PATH": os.environ["PATH"]})
    far.start(folder, fault=fault).wait(60)
    assert recover.recover(folder).reason == "ok"
    found = record.read("gt-1.1")
    assert found is not None
    assert found.claim == mine
    assert found.delivered is not None
    assert found.delivered.commit == rig.tip("polecat/gt-1")


_FREEZES = """#!/bin/sh
case " $* " in *" --atomic "*) : > {mark}; while [ ! -e {go} ]; do sleep 0.05; done;; esac
exec {git} "$@"
"""


def test_a_real_push_that_stands_still_while_another_machine_begins_changes_nothing(
    far: Any, tmp_path: Path
) -> None:
    bin_, mark, go = tmp_path / "bin", tmp_path / "frozen", tmp_path / "thawed"
    bin_.mkdir()
    (bin_ / "git").write_text(_FREEZES.format(mark=mark, go=go, git=shutil.which("git")))
    (bin_ / "git").chmod(0o755)
    env = {"PATH": f"{bin_}:{os.environ['PATH']}"}
    rig, record, _, folder = _published(far, tmp_path, env)
    far.start(folder)
    far.wait(mark.exists)
    nxt = taken(record)
    go.touch()
    far.started[-1].wait(60)
    assert far.result(folder).reason == "superseded"
    assert rig.tip("polecat/gt-1") is None
    assert rig.tip(REF) is None
    assert record.beat(nxt).claim == nxt
