"""What the commands of the queue do and say; `test_mayor_queue_run` kills them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from servekit import PATIENCE, Town, until

TWO = "outposts:\n  - {name: local, type: local, mode: process, fence: off, max_workers: 2}\n"


@pytest.fixture
def town(tmp_path: Path) -> Town:
    made = Town(tmp_path)
    made.config.write_text(TWO)
    return made


def add(town: Town, *issues: str, script: str = "true", flags: tuple[str, ...] = ()) -> None:
    town.run("queue", "add", *issues, "--no-rig", *flags, "--", "sh", "-c", script)


def begun(town: Town) -> list[str]:
    """Return the issues in the order in which their workers were reserved."""
    return [e["worker"].rpartition(".")[0] for e in town.events("reserved")]


def states(town: Town) -> dict[str, str]:
    found = town.json("queue", "list", "--all")["entries"]
    return {one["issue"]: one["outcome"] or one["state"] for one in found}


def test_what_waits_is_placed_by_priority_and_each_once(town: Town) -> None:
    town.config.write_text(TWO.replace("max_workers: 2", "max_workers: 1"))
    for number, priority in enumerate((3, 0, 2, 0)):
        add(town, f"q-{number}", flags=("--priority", f"P{priority}"))
    assert [one["issue"] for one in town.json("queue", "list")["entries"]] == [
        "q-1", "q-3", "q-2", "q-0",
    ]  # fmt: skip
    said = town.json("queue", "run")
    assert {one["outcome"] for one in said["ended"]} == {"done"}
    assert said["waiting"] == []
    assert begun(town) == ["q-1", "q-3", "q-2", "q-0"]


def test_the_same_again_is_the_same_entry_and_another_order_is_refused(town: Town) -> None:
    add(town, "a")
    said = town.json("queue", "add", "a", "--no-rig", "--", "sh", "-c", "true")
    assert said == {"queued": [], "there": ["a"]}
    assert "another order" in town.run("queue", "add", "a", "--no-rig", "--", "false", code=2)
    assert states(town) == {"a": "waiting"}
    town.run("queue", "run")
    assert "has ended" in town.run(
        "queue", "add", "a", "--no-rig", "--", "sh", "-c", "true", code=2
    )


def test_spawn_can_queue_and_waits_for_a_slot(town: Town) -> None:
    said = town.json("spawn", "a", "--queue", "--no-rig", "--", "true")
    assert [one["issue"] for one in said["queued"]] == ["a"]
    end = town.state.parent / "end"
    script = f"while ! test -e {end}; do sleep 0.1; done"
    town.run("spawn", "b", "c", "--no-rig", "--", "sh", "-c", script)
    refused = town.run("spawn", "d", "--no-rig", "--", "true", code=3)
    assert "full" in refused
    waits = subprocess.Popen(
        town.argv("spawn", "d", "--no-rig", "--wait", "--", "true"), env=town.env,
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert waits.stderr is not None
    with waits.stderr:
        assert any("waits for a slot" in line for line in waits.stderr)
        end.touch()
        waits.stderr.read()
    assert waits.wait(PATIENCE) == 0
    assert "d.1" in {e["worker"] for e in town.events("state")}


def test_what_waits_for_others(town: Town) -> None:
    add(town, "first", "second", script="sleep 0.5")
    add(town, "last", flags=("--after", "first", "--after", "second", "--priority", "P0"))
    assert "after 2 others" in town.run("queue", "show", "last")
    said = town.run("explain", "last")
    assert "note: it waits in the queue: after 2 others" in said
    assert said.startswith("last.1 → ")
    assert "never ordered" in town.run(
        "queue", "add", "x", "--no-rig", "--after", "nobody", "--", "true", code=2
    )
    town.run("queue", "run")
    assert begun(town)[-1] == "last"
    add(town, "bad", script="exit 1")
    add(town, "never", flags=("--after", "bad"))
    town.run("queue", "run", code=3)
    assert states(town)["never"] == "waiting"


def test_orders_that_cannot_go_hold_up_nobody_and_say_why(town: Town) -> None:
    add(town, *(f"stuck-{n}" for n in range(40)), flags=("--cpu", "4000", "--priority", "P0"))
    add(town, "free")
    town.run("queue", "run", code=3)
    found = {one["issue"]: one for one in town.json("queue", "list", "--all")["entries"]}
    assert found["free"]["outcome"] == "done"
    assert all("4000" in found[f"stuck-{n}"]["why"] for n in range(40))


def test_a_secret_is_not_kept_and_one_that_is_missing_is_named(town: Town) -> None:
    words = ("queue", "add", "a", "--no-rig", "--secret", "MY_KEY", "--", "sh", "-c")
    script = 'test "${#MY_KEY}" = 14'
    town.run(*words, script, env={"MY_KEY": "swordfish-4711"})
    held = [path for path in town.state.rglob("*") if path.is_file()]
    assert held
    assert not any(
        b"swordfish-4711'" in path.read_bytes().replace(script.encode(), b"") for path in held
    )
    assert "MY_KEY" in town.run("queue", "run", code=3)
    assert states(town) == {"a": "waiting"}
    town.run("queue", "run", env={"MY_KEY": "swordfish-4711"})
    assert states(town) == {"a": "done"}


def test_a_batch_sums_up_is_waited_for_stopped_and_tried_again(town: Town) -> None:
    mark = town.state.parent / "mark"
    add(town, "good", flags=("--batch", "night"))
    add(town, "bad", script=f"test -e {mark}", flags=("--batch", "night"))
    add(town, "else", script="sleep 60")
    town.run("queue", "pause", "else")
    said = json.loads(town.run("--json", "batch", "night", "--wait", code=1))
    assert said["counts"] == {"done": 1, "failed": 1}
    mark.touch()
    said = json.loads(town.run("--json", "batch", "night", "--retry", "--wait"))
    assert said["again"] == ["bad"]
    assert said["counts"] == {"done": 2}
    add(town, "long", script="sleep 600", flags=("--batch", "day"))
    add(town, *(f"w-{n}" for n in range(3)), flags=("--batch", "day", "--after", "long"))
    with town.mayor() as mayor:
        mayor.ready()
        until(lambda: states(town)["long"] == "running")
        said = town.json("batch", "day", "--stop")
        assert said["stopped"] == ["long.1"]
        until(lambda: states(town)["long"] == "stopped")
    assert {states(town)[f"w-{n}"] for n in range(3)} == {"removed"}
    assert "no batch" in town.run("batch", "nothing", code=4)
    assert "did you mean 'night'" in town.run("batch", "nigth", code=4)
    assert "outpost queue batches" in town.run("batch", "zzz", code=4)
    told = town.json("queue", "batches")["batches"]
    assert [(one["batch"], one["counts"]) for one in told] == [
        ("day", {"removed": 3, "stopped": 1}), ("night", {"done": 2}),
    ]  # fmt: skip


def test_limits_of_a_rig_and_fairness_come_from_the_configuration(town: Town) -> None:
    town.config.write_text(
        TWO.replace("max_workers: 2", "max_workers: 9")
        + "queue:\n  share: label\n  weights: {big: 2}\n  per_account: {command: 1}\n"
    )
    add(town, "a", "b", "c", script="sleep 0.3")
    town.run("queue", "run")
    events = [
        (e["at"], e["kind"], e["worker"])
        for e in town.json("events", "--limit", "1000")["events"]
        if e["kind"] == "reserved" or (e["kind"] == "state" and e["data"].get("state") == "done")
    ]
    kinds = [kind for _, kind, _ in sorted(events)]
    assert kinds == ["reserved", "state"] * 3, "one at a time"
    for wrong in ("share: moon", "weights: {a: 0}", "per_rig: 3", "aging: -1", "pace: 2"):
        town.config.write_text(f"{TWO}queue: {{{wrong}}}\n")
        assert "outposts.yaml:" in town.run("config", "check", code=2), wrong
