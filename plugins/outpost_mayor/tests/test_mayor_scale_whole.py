"""Scaling as a whole: real programs, and a real sshd that their commands start and stop."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machinekit import Machine
from servekit import Town, until
from test_mayor_remote import Far

from outpost_manager.ledger import Ledger
from outpost_manager.ledger.scaling import Phase, Scaled
from outpost_mayor.shapes import SHAPES
from outpost_shared import faults

#: Nothing is placed here, so that all work has to go to the machine.
HERE = "outposts:\n  - {name: here, type: local, mode: process, max_workers: 0}\n"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "far")
    try:
        yield made
    finally:
        made.off()


@pytest.fixture
def town(tmp_path: Path, machine: Machine) -> Town:
    town = Town(tmp_path)
    rule = "idle: 1s, cooldown: 0s, price: 0.38"
    town.config.write_text(HERE + machine.entry(rule=rule))
    return town


def row(town: Town, name: str = "vm") -> Scaled | None:
    ledger = Ledger(town.state)
    try:
        return ledger.scaling.all().get(name)
    finally:
        ledger.close()


def phase(town: Town) -> Phase | None:
    found = row(town)
    return found.phase if found else None


def ended(town: Town, *issues: str) -> bool:
    ledger = Ledger(town.state)
    try:
        found = {entry.issue for entry in ledger.queue.entries(states=("ended",))}
        return found >= {*issues}
    finally:
        ledger.close()


def queue(town: Town, *issues: str, script: str = "true") -> None:
    town.run("queue", "add", *issues, "--no-rig", "--", "sh", "-c", script)


def alive(machine: Machine) -> int:
    """Return how often the commands were run that changed something: on and off in turn."""
    return sum(a != b for a, b in zip(["stop", *machine.commands], machine.commands, strict=False))


def test_a_mayor_starts_the_machine_for_what_waits_and_stops_it_when_idle(
    town: Town, machine: Machine
) -> None:
    queue(town, "a-1", "a-2", "a-3")
    with town.mayor() as mayor:
        mayor.ready()
        until(lambda: ended(town, "a-1", "a-2", "a-3"), mayor.log)
        until(lambda: phase(town) is Phase.DOWN and not machine.runs, mayor.log)
        assert mayor.end() == 0
    assert machine.commands == ["start", "stop"]
    found = [e for e in town.json("events", "--limit", "1000")["events"] if e["outpost"] == "vm"]
    kinds = [e["kind"] for e in found if e["kind"].startswith("scal")]
    assert kinds == ["scaled_down", "scaling", "scaled_up", "scaling", "scaled_down"]
    assert not [e for e in found if e["kind"] == "unreachable"]
    (decided, _) = [e["data"] for e in found if e["kind"] == "scaling"]
    assert decided["price"] == 0.38
    assert "3 orders wait" in decided["reason"]
    (view,) = [one for one in town.json("list")["outposts"] if one["name"] == "vm"]
    assert (view["state"], view["detail"]) == ("down", "starts when needed")
    explained = town.run("explain", "b-1", "--no-rig", "--", "true", code=3)
    assert "vm is down (starts when needed)" in explained
    assert "starts when needed" in town.run("scale")


def test_whoever_waits_with_an_order_has_the_machine_started(
    town: Town, machine: Machine, tmp_path: Path
) -> None:
    said = town.run("spawn", "w-1", "--wait", "--no-rig", "--", "true")
    assert "w-1.1 done" in said
    assert "vm was started for this" in said
    assert machine.commands == ["start"]
    town.run("scale", "vm", "--to", "0")
    # without --wait, nothing is started, and an order that it would not take starts nothing either
    assert "vm is down" in town.run("spawn", "w-2", "--no-rig", "--", "true", code=3)
    town.run("spawn", "w-2", "--wait", "--on", "here", "--no-rig", "--", "true", code=3)
    assert machine.commands == ["start", "stop"]
    # whoever works on the queue without a mayor has it started, too
    queue(town, "q-1")
    said = town.run("queue", "run")
    assert "vm was started for this" in said
    assert ended(town, "q-1")
    assert machine.commands == ["start", "stop", "start"]
    town.run("scale", "vm", "--to", "0")
    # where a mayor answers, it is the one that starts it
    with town.mayor() as mayor:
        mayor.ready()
        far = Far(town, tmp_path / "own", f"unix:{town.state}/mayor/api.sock")
        assert "w-3.1 done" in far.run("spawn", "w-3", "--wait", "--no-rig", "--", "true")
        assert alive(machine) >= 3
        # and by hand, from anywhere: the same document, and the same words
        (there,) = far.json("scale")["outposts"]
        assert there.keys() == SHAPES["scale"]["outposts"][0].keys()
        assert "vm is down" in far.run("scale", "vm", "--to", "0") or phase(town) is Phase.DOWN
        assert "vm up to 1" in far.run("scale", "vm", "--to", "1", "--dry-run")
        assert "vm is up; $0.3800 an hour" in far.run("scale", "vm", "--to", "1")
        assert "at most" in far.run("scale", "vm", "--to", "2", code=2)
        assert "no outpost" in far.run("scale", "vn", "--to", "1", code=4)


def test_whoever_waits_is_told_why_the_machine_cannot_be_started(tmp_path: Path) -> None:
    town = Town(tmp_path)
    refuses = "[sh, -c, 'echo \"no quota\" >&2; exit 3']"
    town.config.write_text(
        "outposts:\n  - {name: vm, type: ssh, host: 127.0.0.1, port: 9, stop_command: ['true'],"
        f" start_command: {refuses}, scaling: {{max: 1}}}}\n"
    )
    argv = town.argv("spawn", "w-1", "--wait", "--no-rig", "--", "true")
    log = tmp_path / "said"
    with log.open("wb") as said, subprocess.Popen(argv, env=town.env, stderr=said) as process:
        why = "vm could not be brought up: the start_command of vm failed (exit code 3): no quota"
        until(lambda: "is tried again" in log.read_text() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert log.read_text().count(why) == 1, log.read_text()


def test_by_hand_without_a_mayor(town: Town, machine: Machine) -> None:
    town.run("scale", "vm", "--to", "1", "--dry-run")
    assert machine.commands == []
    assert "vm is up; $0.3800 an hour" in town.run("scale", "vm", "--to", "1")
    assert "1 up, as it was" in town.run("scale", "vm", "--to", "1")
    town.run("spawn", "h-1", "--on", "vm", "--no-rig", "--", "sh", "-c",
             f"until [ -e '{town.home}/go' ]; do sleep 0.05; done")  # fmt: skip
    until(lambda: "working" in town.run("workers", "--json"))
    stop = subprocess.Popen(town.argv("scale", "vm", "--to", "0"), env=town.env,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    until(lambda: phase(town) is Phase.DRAINING)
    refused = town.run("spawn", "h-2", "--on", "vm", "--no-rig", "--", "true", code=3)
    assert "vm is draining: by hand" in refused
    assert machine.runs
    (town.home / "go").touch()
    out, _ = stop.communicate(timeout=120)
    assert b"vm is down" in out, out
    assert machine.commands == ["start", "stop"]
    assert not machine.runs
    assert "at most" in town.run("scale", "vm", "--to", "2", code=2)
    assert "cannot scale" in town.run("scale", "here", "--to", "1", code=2)


def test_what_somebody_else_runs_there_keeps_the_machine_up(
    town: Town, machine: Machine, tmp_path: Path
) -> None:
    town.run("scale", "vm", "--to", "1")
    folder = tmp_path / "other"
    folder.mkdir()
    other = Town(folder)
    other.config.write_text(HERE + machine.entry())
    go = folder / "go"
    other.run("spawn", "x-1", "--on", "vm", "--no-rig", "--", "sh", "-c",
              f"until [ -e '{go}' ]; do sleep 0.05; done")  # fmt: skip
    until(lambda: "working" in other.run("workers", "--json"))
    town.run("list")
    stop = subprocess.Popen(town.argv("scale", "vm", "--to", "0"), env=town.env,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    until(lambda: phase(town) in (Phase.DRAINING, Phase.UP) and row(town).decision == "hand")  # type: ignore[union-attr]
    assert machine.runs
    go.touch()
    stop.communicate(timeout=120)
    until(lambda: stop.returncode is not None)
    assert machine.commands.count("stop") == (stop.returncode == 0)


@pytest.mark.parametrize("point", faults.SCALE)
def test_killed_at_any_point_the_next_one_goes_on(town: Town, machine: Machine, point: str) -> None:
    queue(town, "k-1", "k-2")
    with town.mayor(OUTPOST_FAULT=point) as mayor:
        until(lambda: mayor.process.poll() is not None, f"{point} was not reached\n{mayor.log}")
        assert mayor.process.returncode == -signal.SIGKILL
    with town.mayor() as mayor:
        mayor.ready()
        until(lambda: ended(town, "k-1", "k-2"), mayor.log)
        until(lambda: phase(town) is Phase.DOWN and not machine.runs, mayor.log)
    assert alive(machine) == 2  # asked again, it was on once and off once
    ledger = Ledger(town.state)
    assert {w.state.value for w in ledger.workers()} == {"done"}
    assert len(ledger.workers()) == 2
    ledger.close()


def test_a_mayor_and_a_person_at_once_do_it_once(town: Town, machine: Machine) -> None:
    with town.mayor() as mayor:
        mayor.ready()
        until(lambda: phase(town) is Phase.DOWN, mayor.log)
        people = [
            subprocess.Popen(town.argv("scale", "vm", "--to", "1"), env=town.env,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for _ in range(3)
        ]  # fmt: skip
        said = [one.communicate(timeout=120)[0].decode() for one in people]
        assert any(one.returncode == 0 for one in people), said
        assert not any("Traceback" in text for text in said)
        until(lambda: phase(town) is Phase.DOWN, mayor.log)
    assert machine.commands.count("start") == 1
    assert machine.commands[-1] == "stop"


def test_a_machine_that_does_not_come_up_leaves_the_work_to_the_next(
    town: Town, machine: Machine, tmp_path: Path
) -> None:
    broken = (
        "  - {name: broken, type: ssh, host: 127.0.0.1, port: 1, config: /dev/null, keep: 0,"
        " start_command: ['false'], stop_command: ['true'], scaling: {idle: 1s}}\n"
    )
    town.config.write_text(HERE + broken + machine.entry(rule="idle: 1s, cooldown: 0s"))
    queue(town, "n-1")
    with town.mayor() as mayor:
        mayor.ready()
        until(lambda: ended(town, "n-1"), mayor.log)
    until(lambda: town.events("scale_refused"), "nobody said that it does not come up")
    (refused, *_) = town.events("scale_refused")
    assert refused["outpost"] == "broken"
    assert "failed (exit code 1)" in refused["data"]["reason"]
    found = row(town, "broken")
    assert found is not None
    assert found.phase is Phase.DOWN
