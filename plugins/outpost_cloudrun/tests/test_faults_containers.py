"""Containers that end, at any moment: the agent never runs twice, and its work arrives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from keeperkit import until
from wholekit import Whole, whole

from outpost_core.types import State

pytestmark = pytest.mark.slow


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Whole]:
    with whole(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Whole]:
    with whole(tmp_path, monkeypatch, resume=True) as made:
        yield made


def done(desk: Whole, issue: str, *, ran: int = 1) -> None:
    """The worker is done, its agent ran so often, and its branch is on the rig."""
    result = desk.result(f"{issue}.1")
    assert (result.state, result.reason) == (State.DONE, "ok"), result
    assert desk.ran(issue) == ran
    assert desk.branch(issue) == result.commit
    until(lambda: desk.agents() == [], "its agent has ended")


def begun(desk: Whole, issue: str, times: int = 1) -> None:
    until(lambda: desk.ran(issue) == times, "its agent has begun")


def test_the_main_job(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1"))
    done(desk, "gt-1")
    assert desk.log("gt-1.1") == b"began\nended\n"


def test_a_container_that_is_killed_before_the_claim_is_replaced(desk: Whole) -> None:
    desk.google.knobs.kill_on_post = 2
    desk.spawn(desk.order("gt-1"))
    done(desk, "gt-1")
    assert len(desk.google.journal.entries("instance.ended", signal=9)) == 2


def test_a_container_that_dies_with_the_claim_is_given_up_and_nothing_runs(desk: Whole) -> None:
    desk.google.knobs.next_env.append({"OUTPOST_FAULT": "record.pushed"})
    desk.spawn(desk.order("gt-1"))
    result = desk.result("gt-1.1")
    assert (result.state, result.reason) == (State.LOST, "lost_process"), result
    assert desk.ran("gt-1") == 0
    assert desk.branch("gt-1") == ""


def test_a_container_that_dies_with_the_claim_is_replaced_where_that_is_wanted(
    resuming: Whole,
) -> None:
    resuming.google.knobs.next_env.append({"OUTPOST_FAULT": "record.pushed"})
    resuming.spawn(resuming.order("gt-1"))
    done(resuming, "gt-1")


def test_a_container_that_is_killed_in_the_middle_is_lost_and_not_run_again(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1", "sleep 600"))
    begun(desk, "gt-1")
    desk.google.kill_instance("worker")
    until(lambda: desk.agents() == [], "it went with its container")
    result = desk.result("gt-1.1")
    assert (result.state, result.reason) == (State.LOST, "lost_process"), result
    assert desk.ran("gt-1") == 1
    desk.spawn(desk.order("gt-2"))
    done(desk, "gt-2")


def test_a_container_that_is_killed_in_the_middle_is_continued_in_another_one(
    resuming: Whole,
) -> None:
    resuming.spawn(resuming.order("gt-1", f"[ $(wc -l < {resuming.marks}) -gt 1 ] || sleep 600"))
    begun(resuming, "gt-1")
    resuming.google.kill_instance("worker")
    until(lambda: resuming.agents() == [], "it went with its container")
    done(resuming, "gt-1", ran=2)  # the second once the first was gone
    assert "continued once" in resuming.result("gt-1.1").message


def test_a_container_that_is_killed_after_the_push_has_delivered(desk: Whole) -> None:
    hook = desk.google.folder / "rigs" / "rig.git" / "hooks" / "post-receive"
    hook.write_text("#!/bin/sh\nif grep -q refs/heads/outpost; then sleep 5; fi\n")
    hook.chmod(0o755)
    desk.spawn(desk.order("gt-1"))
    until(lambda: desk.branch("gt-1") != "", "it was pushed")
    desk.google.kill_instance("worker")
    done(desk, "gt-1")


def test_a_container_that_is_taken_away_pushes_what_there_is(desk: Whole) -> None:
    desk.spawn(desk.order("gt-1", "echo half > half; sleep 600"))
    begun(desk, "gt-1")
    until(lambda: "began" in desk.log("gt-1.1").decode(), "it was heard")
    desk.google.end_instance("worker")
    result = desk.result("gt-1.1")
    assert (result.state, result.reason) == (State.STOPPED, "terminated"), result
    assert result.checkpoint is not None
    assert desk.ran("gt-1") == 1
    [ended] = desk.google.journal.wait("instance.ended")
    assert ended.about["signal"] != 9, "it needed less than the ten seconds that it has"


def test_a_container_that_is_taken_away_is_continued_where_that_is_wanted(resuming: Whole) -> None:
    more = f"[ $(wc -l < {resuming.marks}) -gt 1 ] || {{ echo half > half; sleep 600; }}"
    resuming.spawn(resuming.order("gt-1", more))
    begun(resuming, "gt-1")
    until(lambda: "began" in resuming.log("gt-1.1").decode(), "it was heard")
    resuming.google.end_instance("worker")
    done(resuming, "gt-1", ran=2)


def test_an_agent_that_eats_the_memory_is_told_of_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with whole(tmp_path, monkeypatch, memory=512 << 20) as desk:
        eat = "python3 -c 'import time; x = b\"x\" * (700 << 20); time.sleep(600)'"
        desk.spawn(desk.order("gt-1", eat))
        desk.google.journal.wait("instance.ended", memory=True)
        result = desk.result("gt-1.1")
        assert result.state is State.LOST, result
        assert desk.ran("gt-1") == 1
        desk.spawn(desk.order("gt-2"))
        done(desk, "gt-2")


def test_an_image_without_the_agent_says_so(desk: Whole) -> None:
    from dataclasses import replace

    from outpost_core.types import Agent

    desk.spawn(replace(desk.order("gt-1"), agent=Agent(argv=("no-such-agent", "-p"))))
    result = desk.result("gt-1.1")
    assert (result.state, result.reason) == (State.FAILED, "command_not_found"), result
    assert "no-such-agent" in result.message
    assert desk.ran("gt-1") == 0


def test_the_same_post_twice_at_once_runs_one_agent(desk: Whole) -> None:
    desk.google.knobs.duplicates = 3
    for number in range(3):
        desk.spawn(desk.order(f"gt-{number}", "sleep 1"))
    for number in range(3):
        done(desk, f"gt-{number}")
    assert len(desk.google.journal.entries("duplicate.delivered")) >= 1


def test_a_rig_that_refuses_the_claim_is_a_refusal_and_nothing_runs(desk: Whole) -> None:
    from outpost_core.errors import SpawnRefusedError

    hook = desk.google.folder / "rigs" / "rig.git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nif grep -q refs/outpost/; then echo no such refs; exit 1; fi\n")
    hook.chmod(0o755)
    with pytest.raises(SpawnRefusedError):
        desk.spawn(desk.order("gt-1"))
    assert desk.ran("gt-1") == 0
    hook.unlink()
    desk.spawn(desk.order("gt-1"))
    done(desk, "gt-1")
