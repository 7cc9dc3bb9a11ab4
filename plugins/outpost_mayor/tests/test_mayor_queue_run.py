"""The queue by real programs: two that work on it at once, and any of them killed anywhere."""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from servekit import PATIENCE, Town, until

from outpost_shared import faults

#: An agent that leaves a line behind, with which attempt it was.
AGENT = 'echo "$OUTPOST_WORKER" >> "$RAN"'


class Place(Town):
    """A town whose workers leave a line in a file when they run."""

    def __init__(self, folder: Path, workers: int = 4) -> None:
        super().__init__(folder)
        self.ran = folder / "ran"
        self.config.write_text(
            "outposts:\n  - {name: local, type: local, mode: process, fence: off,"
            f" max_workers: {workers}}}\n"
        )

    def add(self, *issues: str, more: tuple[str, ...] = (), fault: str = "", code: int = 0) -> str:
        """Queue orders for these issues."""
        return self.run(
            "queue", "add", *issues, "--no-rig", "--env", f"RAN={self.ran}", *more,
            "--", "sh", "-c", AGENT, code=code, env={"OUTPOST_FAULT": fault} if fault else {},
        )  # fmt: skip

    def lines(self) -> Counter[str]:
        """Return how often each attempt ran."""
        return Counter(self.ran.read_text().split() if self.ran.exists() else [])

    def listed(self, *words: str) -> dict[str, str]:
        """Return the state or outcome of each entry."""
        found = self.json("queue", "list", "--all", *words)["entries"]
        return {one["issue"]: one["outcome"] or one["state"] for one in found}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_who_looks_at_the_queue_hears_that_nobody_works_on_it(place: Place) -> None:
    assert "nothing waits" in place.run("queue", "run")
    place.add("w-1")
    assert "no mayor runs" in place.run("queue", "list")
    place.run("queue", "pause")
    with place.mayor() as mayor:
        mayor.ready()
        assert "no mayor runs" not in place.run("queue", "list")


def test_two_programs_at_once_run_each_order_once(place: Place) -> None:
    wanted = [f"w-{n}" for n in range(12)]
    place.add(*wanted)
    programs = [
        subprocess.Popen(
            place.argv("queue", "run", "--json"), env=place.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for program in programs:
        said, told = program.communicate(timeout=PATIENCE * 2)
        assert program.returncode == 0, (said, told)
        assert json.loads(said)["waiting"] == []
    assert place.lines() == Counter(f"{issue}.1" for issue in wanted)
    assert place.listed() == dict.fromkeys(wanted, "done")


@pytest.mark.parametrize("point", faults.QUEUE)
def test_a_crash_at_any_point_loses_nothing_and_runs_nothing_twice(
    place: Place, point: str
) -> None:
    killed = -signal.SIGKILL
    wanted = {f"k-{n}" for n in range(3)}
    if point == "queue.added":
        place.add(*sorted(wanted), fault=point, code=killed)
        assert set(place.listed()) == wanted
    place.add(*sorted(wanted))
    if point == "queue.removed":
        place.run("queue", "remove", "k-1", env={"OUTPOST_FAULT": point}, code=killed)
        assert place.listed()["k-1"] == "removed"
        wanted.discard("k-1")
    if point.startswith("dispatch."):
        place.run("queue", "run", env={"OUTPOST_FAULT": point}, code=killed)
    place.run("queue", "run")
    assert place.lines() == Counter(f"{issue}.1" for issue in wanted)
    assert {issue: place.listed()[issue] for issue in wanted} == dict.fromkeys(wanted, "done")


@pytest.mark.parametrize("point", [*faults.NEAR, "local.published"])
def test_a_crash_while_an_order_is_placed_is_finished_by_whoever_comes_next(
    place: Place, point: str
) -> None:
    place.add("n-1", "n-2")
    place.run("queue", "run", env={"OUTPOST_FAULT": point}, code=-signal.SIGKILL)
    place.run("queue", "run")
    assert place.lines() == Counter(["n-1.1", "n-2.1"])
    assert place.listed() == {"n-1": "done", "n-2": "done"}


def test_pause_move_remove_and_resume(place: Place) -> None:
    place.add("h-1", "h-2", "h-3")
    place.run("queue", "pause")
    assert "paused" in place.run("queue", "list")
    assert "the queue is paused: outpost queue resume" in place.run("queue", "run", code=3)
    assert not place.lines()
    place.run("queue", "move", "h-3", "P0")
    place.run("queue", "remove", "h-1")
    place.run("queue", "pause", "h-2")
    place.run("queue", "resume")
    assert "paused" in place.run("queue", "show", "h-2")
    place.run("queue", "run", code=3)
    assert place.lines() == Counter(["h-3.1"])
    place.run("queue", "resume", "h-2")
    place.run("queue", "run")
    assert place.listed() == {"h-1": "removed", "h-2": "done", "h-3": "done"}
    assert "→" in place.run("queue", "remove", "h-2", code=2)
    place.run("queue", "show", "nothing-there", code=4)


def test_drain_ends_when_what_runs_has_ended(place: Place, tmp_path: Path) -> None:
    go = tmp_path / "go"
    place.run(
        "spawn", "d-0", "--no-rig", "--", "sh", "-c", f"until [ -e {go} ]; do sleep .05; done"
    )
    place.run(
        "queue", "add", "d-0", "--no-rig", "--", "sh", "-c",
        f"until [ -e {go} ]; do sleep .05; done",
    )  # fmt: skip
    place.add("d-1")
    assert place.listed() == {"d-0": "running", "d-1": "waiting"}
    with subprocess.Popen(
        place.argv("queue", "drain"), env=place.env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as drain:  # fmt: skip
        until(lambda: place.json("queue", "list")["switch"] == "draining")
        assert drain.poll() is None
        go.touch()
        said, _ = drain.communicate(timeout=PATIENCE)
    assert drain.returncode == 0
    assert "1 wait" in said
    assert not place.lines()
    assert place.listed() == {"d-0": "done", "d-1": "waiting"}


def test_after_and_not_before(place: Place) -> None:
    place.add("a-2", more=("--not-before", "12s"))
    place.add("a-1")
    place.add("a-3", more=("--after", "a-1", "--after", "a-2"))
    place.run("queue", "run")
    ran = place.ran.read_text().split()
    assert ran == ["a-1.1", "a-2.1", "a-3.1"]
    told = place.add("a-4", more=("--after", "who-is-that"), code=2)
    assert "who-is-that" in told
    place.add("a-5", more=("--not-before", "some day"), code=2)
    assert set(place.listed()) == {"a-1", "a-2", "a-3"}


@pytest.mark.parametrize("issue", ["../../x", "a b", "x" * 300, "a\x1b[2J"])
def test_hostile_ids_are_refused_before_anything_is_kept(place: Place, issue: str) -> None:
    told = place.add(issue, code=2)
    assert "Traceback" not in told
    assert "\x1b" not in told
    assert not place.listed()
