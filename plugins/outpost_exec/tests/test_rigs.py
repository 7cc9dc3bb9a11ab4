"""Rigs that are paths of this machine, at an outpost that is another one: what comes of it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from rigkit import Laptop, at_laptop

from outpost_core.errors import SpawnRefusedError, UnreachableError
from outpost_core.types import State
from outpost_exec.rigs import retrieval
from outpost_shared.progress import reporting

HOLD = "while :; do sleep 0.1; done"


def test_work_arrives_in_the_repository_of_this_machine(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        status = await laptop.run(laptop.open(), laptop.order("cat README; echo new >new.txt"))
        assert status.state is State.DONE, status
        assert status.result is not None
        assert status.result.branch == "polecat/gt-1"
        assert status.result.commit == laptop.rig.tip("polecat/gt-1")
        assert laptop.rig.show("polecat/gt-1", "new.txt") == "new"
        assert (laptop.far / "workers/gt-1.1/output.log").read_text() == "hello\n"

    at_laptop(tmp_path, test)


def test_a_worker_ends_while_this_machine_is_away(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        first = laptop.open()
        order = laptop.order("sleep 0.5; echo new >new.txt")
        await first.outpost_spawn(order)
        await first.cut()
        await laptop.ended_there(order.worker)
        with pytest.raises(UnreachableError):
            await first.outpost_list()
        assert laptop.rig.tip("polecat/gt-1") is None
        stranger = laptop.open()  # sees the same workers, and has nothing to do with this one
        stranger.context = type(stranger.context)(state_dir=laptop.folder / "other")
        (seen,) = await stranger.outpost_list()
        assert (seen.state, seen.detail) == (State.WORKING, "waits to be fetched")
        first.away = False
        ended = (await laptop.end(first))[order.worker]
        assert ended.state is State.DONE
        assert laptop.rig.show("polecat/gt-1", "new.txt") == "new"

    at_laptop(tmp_path, test)


def test_it_is_not_done_before_the_commit_is_seen_here(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost, order = await laptop.unfetched()
        laptop.rig.path.rename(laptop.folder / "elsewhere")
        (seen,) = await outpost.outpost_list()
        assert seen.state is State.WORKING
        assert seen.result is None
        assert seen.detail.startswith("waits to be fetched: there is no repository at ")
        (laptop.folder / "elsewhere").rename(laptop.rig.path)
        ended = (await laptop.end(outpost))[order.worker]
        assert ended.state is State.DONE
        assert laptop.rig.tip("polecat/gt-1") is not None

    at_laptop(tmp_path, test)


def test_a_branch_that_moved_meanwhile_is_left_alone(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost, order = await laptop.unfetched()
        mine = laptop.rig.commit({"mine": "x\n"}, "polecat/gt-1")
        result = (await laptop.end(outpost))[order.worker].result
        assert result is not None
        assert result.branch == "polecat/gt-1-1"
        assert "polecat/gt-1 has other work" in result.message
        assert laptop.rig.tip("polecat/gt-1") == mine
        assert laptop.rig.show("polecat/gt-1-1", "new.txt") == "new"

    at_laptop(tmp_path, test)


def test_a_branch_that_went_on_from_the_work_holds_it(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        order = laptop.order("echo new >new.txt")
        status = await laptop.run(outpost, order)
        assert status.result is not None
        tip = laptop.rig.commit({"more": "x\n"}, "polecat/gt-1")
        again = (await laptop.end(laptop.open()))[order.worker]
        assert again.result == status.result
        assert laptop.rig.tip("polecat/gt-1") == tip

    at_laptop(tmp_path, test)


def test_a_checked_out_branch_does_not_move_under_its_user(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        seed = laptop.rig.seed
        before = laptop.rig.git("rev-parse", "HEAD")
        order = laptop.order("echo new >new.txt", rig=seed, branch="main")
        result = (await laptop.run(laptop.open(), order)).result
        assert result is not None
        assert (result.state, result.branch) == (State.DONE, "main-1")
        assert laptop.rig.git("rev-parse", "HEAD") == before
        assert laptop.rig.git("status", "--porcelain") == ""
        assert laptop.rig.git("show", "main-1:new.txt") == "new"

    at_laptop(tmp_path, test)


def test_a_stopped_worker_s_checkpoint_comes_home_and_is_resumed_elsewhere(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        order = laptop.order(f"echo half >half.txt; touch up; {HOLD}")
        await outpost.outpost_spawn(order)
        up = laptop.far / "workers" / order.worker / "work" / "up"
        while not up.exists():
            await asyncio.sleep(0.02)
        await outpost.outpost_stop(order.worker, 1.0)
        result = (await laptop.end(outpost))[order.worker].result
        assert result is not None
        ref = "refs/outpost/gt-1.1"
        assert (result.state, result.checkpoint) == (State.STOPPED, ref)
        assert laptop.rig.show(ref, "half.txt") == "half"
        elsewhere = laptop.open(far=laptop.folder / "far2")
        elsewhere.context = type(elsewhere.context)(state_dir=laptop.folder / "near2")
        again = laptop.order("cat half.txt", attempt=2, resume=ref)
        await laptop.run(elsewhere, again)
        log = laptop.folder / "far2" / "workers" / again.worker / "output.log"
        assert log.read_text() == "half\n"

    at_laptop(tmp_path, test)


def test_a_rig_that_refuses_the_branch_keeps_the_work_and_says_so(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        laptop.rig.hook("update", 'case "$1" in refs/heads/*) echo not today >&2; exit 1;; esac')
        order = laptop.order("echo precious >precious.txt")
        result = (await laptop.run(laptop.open(), order)).result
        assert result is not None
        assert (result.state, result.reason, result.commit) == (State.FAILED, "push_failed", None)
        assert "not today" in result.message
        assert result.checkpoint == "refs/outpost/gt-1.1"
        assert laptop.rig.show(result.checkpoint, "precious.txt") == "precious"

    at_laptop(tmp_path, test)


def test_a_worker_that_changes_nothing_ends_without_a_way_home(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        result = (await laptop.run(outpost, laptop.order("true"))).result
        assert result is not None
        assert (result.reason, result.branch) == ("nothing_to_commit", None)
        assert "x-rig-want" not in outpost.calls

    at_laptop(tmp_path, test)


def test_checkpoints_of_a_worker_at_work_come_home_and_go_when_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(laptop: Laptop) -> None:
        monkeypatch.setattr(retrieval, "LIVE_EVERY", 0.0)
        rig, ref = laptop.rig, "refs/outpost/gt-1.1"
        outpost = laptop.open()
        script = "echo 1 >n; until [ -e $OUTPOST_WORKER_DIR/go ]; do sleep 0.1; done; echo 2 >n;"
        script += "until [ -e $OUTPOST_WORKER_DIR/end ]; do sleep 0.1; done"
        await outpost.outpost_spawn(laptop.order(script, checkpoint_every=0.2))
        folder = laptop.far / "workers" / "gt-1.1" / "exchange"
        await laptop.until(outpost, lambda _: rig.tip(ref) is not None)
        assert rig.show(ref, "n") == "1"
        (folder / "go").touch()
        await laptop.until(outpost, lambda _: rig.show(ref, "n") == "2")
        (folder / "end").touch()
        result = (await laptop.end(outpost))["gt-1.1"].result
        assert result is not None
        assert (result.state, result.checkpoint) == (State.DONE, None)
        assert rig.git("for-each-ref", "refs/outpost", cwd=rig.path) == ""
        assert rig.show("polecat/gt-1", "n") == "2"

    at_laptop(tmp_path, test)


def test_a_branch_in_the_place_of_a_folder_of_branches_keeps_the_work_and_says_so(
    tmp_path: Path,
) -> None:
    async def test(laptop: Laptop) -> None:
        outpost, order = await laptop.unfetched()
        laptop.rig.git("branch", "polecat", "main", cwd=laptop.rig.path)
        result = (await laptop.end(outpost))[order.worker].result
        assert result is not None
        assert (result.state, result.reason) == (State.FAILED, "push_failed")
        assert laptop.rig.show("refs/outpost/gt-1.1", "new.txt") == "new"

    at_laptop(tmp_path, test)


def test_a_failed_agent_s_work_comes_home_as_a_checkpoint(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        order = laptop.order("echo half >half.txt; exit 3")
        result = (await laptop.run(laptop.open(), order)).result
        assert result is not None
        assert (result.state, result.checkpoint) == (State.FAILED, "refs/outpost/gt-1.1")
        assert laptop.rig.show("refs/outpost/gt-1.1", "half.txt") == "half"

    at_laptop(tmp_path, test)


def test_a_kept_ref_of_other_work_is_moved_aside_not_overwritten(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        old = laptop.rig.commit({"old": "x\n"}, "old")
        outpost, _ = await laptop.unfetched("echo half >half.txt; exit 3")
        laptop.rig.git("update-ref", "refs/outpost/gt-1.1", old, cwd=laptop.rig.path)
        await laptop.end(outpost)
        assert laptop.rig.show("refs/outpost/gt-1.1", "half.txt") == "half"
        assert laptop.rig.tip(f"refs/outpost/gt-1.1-{old[:8]}") == old

    at_laptop(tmp_path, test)


def test_many_spawns_at_once_send_the_repository_once(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        orders = [laptop.order("true", issue=f"gt-{n}") for n in range(30)]
        await asyncio.gather(*(outpost.outpost_spawn(order) for order in orders))
        assert outpost.calls.count("x-rig-take") == 1
        assert outpost.calls.count("x-rig-refs") <= 3
        await laptop.end(outpost)

    at_laptop(tmp_path, test)


def test_an_idle_list_costs_one_request(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        await laptop.run(outpost, laptop.order("echo new >new.txt"))
        outpost.calls.clear()
        await outpost.outpost_list()
        assert outpost.calls == ["list"]

    at_laptop(tmp_path, test)


def test_what_changed_here_is_there_for_the_next_worker(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        laptop.rig.commit({"x": "x\n"}, "old")
        await laptop.run(outpost, laptop.order("true"))
        laptop.rig.commit({"README": "changed\n"})
        laptop.rig.git("push", "-q", "origin", ":old")
        laptop.rig.git("checkout", "-q", "--orphan", "fresh")
        laptop.rig.git("commit", "-q", "-m", "another history")
        laptop.rig.git("push", "-q", "--force", "origin", "fresh:other/one")
        order = laptop.order("cat README; git branch -r", issue="gt-2")
        await laptop.run(outpost, order)
        log = (laptop.far / "workers" / order.worker / "output.log").read_text()
        assert log.startswith("changed\n")
        assert "origin/old" not in log
        assert "origin/other/one" in log

    at_laptop(tmp_path, test)


def test_history_that_was_rewritten_here_is_rewritten_there(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        await laptop.run(outpost, laptop.order("true"))
        (laptop.rig.seed / "README").write_text("rewritten\n")
        laptop.rig.git("commit", "-q", "-a", "--amend", "-m", "rewritten")
        laptop.rig.git("push", "-q", "--force", "origin", "main")
        order = laptop.order("cat README", issue="gt-2")
        await laptop.run(outpost, order)
        assert (laptop.far / "workers" / order.worker / "output.log").read_text() == "rewritten\n"

    at_laptop(tmp_path, test)


def test_what_is_not_home_yet_is_not_overwritten_by_what_is_sent(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost, _ = await laptop.unfetched()
        mine = laptop.rig.commit({"mine": "x\n"}, "polecat/gt-1")
        other = laptop.order("true", issue="gt-2")
        await outpost.outpost_spawn(other)
        await laptop.end(outpost)
        assert laptop.rig.tip("polecat/gt-1") == mine
        assert laptop.rig.show("polecat/gt-1-1", "new.txt") == "new"
        await laptop.run(outpost, laptop.order("true", issue="gt-3"))
        (copy,) = laptop.copies()  # now it follows this machine again
        assert laptop.rig.git("rev-parse", "polecat/gt-1", cwd=copy) == mine

    at_laptop(tmp_path, test)


def test_controllers_with_the_same_path_keep_apart(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        mine = laptop.open()
        await laptop.run(mine, laptop.order("cat README"))
        other = laptop.open()  # another machine, whose path leads elsewhere
        other.context = type(other.context)(state_dir=laptop.folder / "near2")
        laptop.rig.path.rename(laptop.folder / "mine.git")
        laptop.rig.git(
            "clone", "-q", "--bare", str(laptop.folder / "mine.git"), str(laptop.rig.path)
        )
        theirs = laptop.rig.commit({"README": "theirs\n"})
        order = laptop.order("cat README; echo new >new.txt", issue="gt-2")
        await other.outpost_spawn(order)
        await laptop.ended_there(order.worker)
        seen = {status.id: status for status in await mine.outpost_list()}
        assert seen[order.worker].state is State.WORKING
        assert laptop.rig.tip("polecat/gt-2") is None
        await laptop.end(other, order.worker)
        assert (laptop.far / "workers" / order.worker / "output.log").read_text() == "theirs\n"
        assert laptop.rig.git("rev-parse", "polecat/gt-2^", cwd=laptop.rig.path) == theirs
        assert len(laptop.copies()) == 2

    at_laptop(tmp_path, test)


def test_work_that_nobody_fetches_is_given_up_by_a_stop_from_another_machine(
    tmp_path: Path,
) -> None:
    async def test(laptop: Laptop) -> None:
        mine, other = laptop.open(), laptop.open()
        other.context = type(other.context)(state_dir=laptop.folder / "near2")
        order = laptop.order("echo new >new.txt")
        await mine.outpost_spawn(order)
        await laptop.ended_there(order.worker)
        await mine.outpost_stop(order.worker, 1.0)  # one's own is brought home all the same
        (waiting,) = await other.outpost_list()
        assert waiting.state is State.WORKING
        await other.outpost_stop(order.worker, 1.0)
        (given_up,) = await other.outpost_list()
        assert given_up.state is State.STOPPED
        assert given_up.result is not None
        (copy,) = laptop.copies()
        assert given_up.result.checkpoint == f"{copy}, polecat/gt-1"
        assert laptop.rig.git("rev-parse", "polecat/gt-1", cwd=copy)  # law 5
        assert await mine.outpost_list() == [given_up]  # whoever looks, and for ever
        await other.outpost_stop(order.worker, 1.0)
        assert await laptop.open().outpost_list() == [given_up]

    at_laptop(tmp_path, test)


def test_several_programs_bring_home_at_the_same_time(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        first = laptop.open()
        orders = [laptop.order(f"echo {n} >new.txt", issue=f"gt-{n}") for n in range(6)]
        await asyncio.gather(*(first.outpost_spawn(order) for order in orders))
        for order in orders:
            await laptop.ended_there(order.worker)
        programs = [first, laptop.open(), laptop.open()]
        found = await asyncio.gather(*(laptop.end(program) for program in programs))
        assert found[0] == found[1] == found[2]
        for number in range(6):
            assert laptop.rig.show(f"polecat/gt-{number}", "new.txt") == str(number)

    at_laptop(tmp_path, test)


def test_a_path_that_is_no_repository_here_is_a_path_of_that_machine(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        order = laptop.order("true", rig=laptop.folder / "nowhere")
        result = (await laptop.run(laptop.open(), order)).result
        assert result is not None
        assert (result.state, result.reason) == (State.FAILED, "workspace_failed")
        assert laptop.copies() == []

    at_laptop(tmp_path, test)


def test_the_same_order_spawned_again_is_the_same_worker(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        order = laptop.order('echo run >>"$OUTPOST_WORKER_DIR/runs"; echo new >new.txt')
        status = await laptop.run(laptop.open(), order)
        laptop.rig.commit({"README": "changed\n"})
        again = await laptop.open().outpost_spawn(order)
        assert again.result == status.result
        assert (laptop.far / "workers" / order.worker / "exchange/runs").read_text() == "run\n"

    at_laptop(tmp_path, test)


def test_an_order_whose_machine_was_wiped_runs_and_comes_home_again(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        order = laptop.order("echo new >new.txt; date +%N >>new.txt")
        first = await laptop.run(laptop.open(), order)
        shutil.rmtree(laptop.far)
        second = await laptop.run(laptop.open(), order)
        assert first.result is not None
        assert second.result is not None
        assert second.result.commit != first.result.commit
        assert laptop.rig.tip("polecat/gt-1") == first.result.commit
        assert laptop.rig.tip(str(second.result.branch)) == second.result.commit

    at_laptop(tmp_path, test)


def test_the_order_and_its_digest_stay_as_they_were_given(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        order = laptop.order("true")
        await laptop.run(laptop.open(), order)
        folder = laptop.far / "workers" / order.worker
        assert json.loads((folder / "order.json").read_text())["rig"] == order.rig
        (copy,) = laptop.copies()
        assert json.loads((folder / "launch.json").read_text())["rig"] == str(copy)

    at_laptop(tmp_path, test)


def test_work_that_is_not_home_is_not_cleaned_without_force(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost, order = await laptop.unfetched()
        (copy,) = laptop.copies()
        cleaned = await outpost.outpost_clean(order.worker, False)
        assert not cleaned.removed
        assert str(copy) in cleaned.detail
        assert "polecat/gt-1" in cleaned.detail
        forced = await outpost.outpost_clean(order.worker, True)
        assert forced.removed
        assert forced.rescued == f"{copy}, polecat/gt-1"
        assert laptop.rig.git("show", "polecat/gt-1:new.txt", cwd=copy) == "new"

    at_laptop(tmp_path, test)


def test_work_that_is_home_is_cleaned(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        order = laptop.order("echo new >new.txt")
        await laptop.run(outpost, order)
        cleaned = await outpost.outpost_clean(order.worker, False)
        assert (cleaned.removed, cleaned.rescued) == (True, None)
        assert await outpost.outpost_list() == []
        assert list((laptop.near / "hosted").glob("*/*.json")) == []

    at_laptop(tmp_path, test)


def test_what_a_clean_rescues_comes_home_as_well(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        order = laptop.order("echo new >new.txt")
        await laptop.run(outpost, order)
        (laptop.far / "workers" / order.worker / "work" / "late.txt").write_text("late\n")
        cleaned = await outpost.outpost_clean(order.worker, False)
        assert (cleaned.removed, cleaned.rescued) == (True, "refs/outpost/gt-1.1")
        assert laptop.rig.show("refs/outpost/gt-1.1", "late.txt") == "late"

    at_laptop(tmp_path, test)


def test_what_a_clean_rescued_before_a_crash_comes_home_with_the_next_list(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open()
        order = laptop.order("echo new >new.txt")
        await laptop.run(outpost, order)
        (laptop.far / "workers" / order.worker / "work" / "late.txt").write_text("late\n")
        from outpost_exec import rigs

        await rigs.before_clean(outpost, order.worker)
        cleaned = await super(type(outpost), outpost).outpost_clean(order.worker, False)
        assert cleaned.rescued == "refs/outpost/gt-1.1"
        await laptop.open().outpost_list()
        assert laptop.rig.show("refs/outpost/gt-1.1", "late.txt") == "late"
        assert list((laptop.near / "hosted").glob("*/*.json")) == []

    at_laptop(tmp_path, test)


def test_a_far_disk_without_room_refuses_the_order(tmp_path: Path) -> None:
    async def test(laptop: Laptop) -> None:
        outpost = laptop.open(disk_floor=1 << 60)
        with pytest.raises(SpawnRefusedError, match=r"cannot be kept there.*are needed"):
            await outpost.outpost_spawn(laptop.order("true"))
        assert await outpost.outpost_list() == []

    at_laptop(tmp_path, test)


def test_a_worker_that_is_there_is_adopted_when_its_repository_can_not_be_sent(
    tmp_path: Path,
) -> None:
    async def test(laptop: Laptop) -> None:
        order = laptop.order("true")
        status = await laptop.run(laptop.open(), order)
        laptop.rig.commit({"README": "changed\n"})
        full = laptop.open(disk_floor=1 << 60)
        assert (await full.outpost_spawn(order)).result == status.result

    at_laptop(tmp_path, test)


def test_a_long_way_of_a_repository_is_told(tmp_path: Path) -> None:
    """As a person sees it at the first spawn: how much of how much has arrived."""
    told: list[str] = []

    async def test(laptop: Laptop) -> None:
        laptop.rig.commit({"big": os.urandom(6 << 20).hex()})
        outpost = laptop.open()
        with reporting(told.append):
            await outpost.outpost_spawn(laptop.order("true"))
        await laptop.end(outpost)

    at_laptop(tmp_path, test)
    assert told
    assert all(re.fullmatch(r"sending rig.git: \d+ of \d+ MiB", text) for text in told), told


def test_a_rig_whose_hook_refuses_every_push_gets_the_work_all_the_same(tmp_path: Path) -> None:
    """A fetch asks no hook: the worker ends, and what it did is at a ref of the repository."""

    async def test(laptop: Laptop) -> None:
        hook = laptop.rig.path / "hooks" / "pre-receive"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\necho closed\nexit 1\n")
        hook.chmod(0o755)
        outpost = laptop.open()
        ended = await laptop.run(outpost, laptop.order("echo new >new.txt"))
        assert ended.result is not None
        assert (ended.state, ended.result.reason) == (State.FAILED, "push_failed")
        assert ended.result.checkpoint == "refs/outpost/gt-1.1"
        assert laptop.rig.show("refs/outpost/gt-1.1", "new.txt") == "new"

    at_laptop(tmp_path, test)
