"""A mayor that is killed while work runs, and one whose disk is full for a while."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest
from servekit import LOCAL, Town, until

from outpost_core.types import State
from outpost_manager.ledger import Ledger
from outpost_shared import faults

#: Where a mayor is killed that places and follows work.
POINTS = (*faults.NEAR, "local.sealed", "local.staged", "local.published", "local.launched")


@pytest.fixture
def town(tmp_path: Path) -> Town:
    town = Town(tmp_path)
    town.config.write_text(
        LOCAL.replace("mode: process", "mode: process, fence: off, disk_floor: 0")
    )
    return town


def queue(town: Town, count: int, command: str) -> list[str]:
    """Put orders into the queue; each writes a line into a file when its agent begins."""
    issues = [f"q-{number}" for number in range(count)]
    ran = town.home / "ran"
    town.run("queue", "add", *issues, "--no-rig", "--", "sh", "-c",
             f"pwd >> '{ran}'; {command}")  # fmt: skip
    return issues


def all_ended(town: Town, issues: list[str]) -> bool:
    ledger = Ledger(town.state)
    try:
        entries = ledger.queue.entries(states=("ended",))
        return {entry.issue for entry in entries} >= {*issues}
    finally:
        ledger.close()


def check(town: Town, issues: list[str]) -> None:
    """Each ran once, each is done, and nothing holds a slot."""
    ran = (town.home / "ran").read_text().split()
    assert sorted(ran) == sorted(set(ran))
    assert len(ran) == len(issues)
    ledger = Ledger(town.state)
    workers = ledger.workers()
    assert {worker.issue for worker in workers} == {*issues}
    assert {worker.state for worker in workers} == {State.DONE}
    assert ledger.active() == {}
    ledger.close()


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_write_point_nothing_is_twice_lost_or_stuck(town: Town, point: str) -> None:
    issues = queue(town, 3, "sleep 0.2")
    with town.mayor(OUTPOST_FAULT=point) as mayor:
        until(lambda: mayor.process.poll() is not None, f"{point} was not reached")
    with town.mayor() as mayor:
        mayor.ready()
        until(lambda: all_ended(town, issues), f"after {point}")
    check(town, issues)


def test_killed_again_and_again_at_random_moments(town: Town) -> None:
    issues = queue(town, 40, "sleep 0.05")
    chance = random.Random(7)
    for _ in range(8):
        with town.mayor() as mayor:
            mayor.ready()
            time.sleep(chance.random() * 0.5)  # the moment of the kill is what is tried
    with town.mayor() as mayor:
        mayor.ready()
        until(lambda: all_ended(town, issues))
    check(town, issues)


def test_two_mayors_over_one_state_folder_do_not_work_at_once(town: Town) -> None:
    issues = queue(town, 5, "true")
    with town.mayor() as one, town.mayor() as two:
        until(lambda: all_ended(town, issues))
        until(lambda: one.process.poll() is not None or two.process.poll() is not None)
        assert [one.process.poll(), two.process.poll()].count(None) == 1
    check(town, issues)


def test_a_disk_that_is_full_for_a_while_ends_nothing(town: Town, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", str(place)]
    subprocess.run(mount, check=True)
    try:
        town.state = place / "state"
        town.state.mkdir(mode=0o700)
        with town.mayor() as mayor:
            mayor.ready()
            go = tmp_path / "go"
            town.run("queue", "add", "a-1", "--no-rig", "--", "sh", "-c",
                     f"until [ -e '{go}' ]; do sleep 0.05; done")  # fmt: skip
            until(lambda: "working" in town.run("workers", "--json"))
            with (place / "filler").open("wb") as filler:
                while True:
                    try:
                        filler.write(b"\0" * 65536)
                        filler.flush()
                    except OSError:
                        break
            go.touch()
            time.sleep(3.0)  # so long it is full; a minute is no other
            assert mayor.process.poll() is None, mayor.log
            (place / "filler").unlink()
            until(lambda: all_ended(town, ["a-1"]), mayor.log)
            assert mayor.end() == 0
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
