"""Programs that want the same worker, each in a process of its own, let go at the same moment."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest

from outpost_core.errors import UsageError
from outpost_core.types import Result, State
from outpost_worker.record.kinds import TAIL, Claim, Found, Record, SupersededError

OWNER = "a" * 16
DIGEST = "d" * 64

_PROGRAM = """
import json, sys
from outpost_core import wire
from outpost_core.types import Result, State
from outpost_worker.record.kinds import Claim
{make}
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
try:
    print(json.dumps(act(record, *sys.argv[1:])))
except Exception as error:
    print(json.dumps({{"error": type(error).__name__, "said": str(error)}}))
"""
#: How a program there makes `record` on a rig.
ON_RIG = """
from outpost_worker.record.places import on_rig
record = on_rig({rig!r}, {root!r}, {owner!r}, {credentials!r})
"""
#: How it does on a volume.
ON_VOLUME = """
from outpost_worker.record.places import on_volume
record = on_volume({path!r}, {owner!r})
"""
#: Where each step is killed: once the value may be there, and once it is known to be.
_PUSHED = dict.fromkeys(("claim", "beat", "take_over", "ask_stop", "finish"), "record.pushed")
_KNOWN = {
    "claim": "record.claimed",
    "take_over": "record.claimed",
    "ask_stop": "record.stop_asked",
    "finish": "record.finished",
    "forget": "record.forgotten",
}
DONE = Result(state=State.DONE, commit="c" * 40, branch="outpost/gt-1")


def claim(worker: str = "gt-1.1", instance: int = 1, leg: int = 1, digest: str = DIGEST) -> Claim:
    """Return a claim of one of many instances."""
    return Claim(worker=worker, digest=digest, owner=OWNER, instance=f"{instance:02x}", leg=leg)


def program(make: str, act: str) -> str:
    """Return the text of a program that makes a record and acts on it.

    Args:
        make: makes `record`.
        act: defines `act(record, *arguments)`, whose JSON it prints.
    """
    return _PROGRAM.format(make=f"{make}\n{act}")


def start(
    text: str, *arguments: str, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start one program; it waits to be let go."""
    return subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environ or {})},
    )


def race(starters: Sequence[Callable[[], subprocess.Popen[str]]]) -> list[dict[str, object]]:
    """Start programs, let them go together, and return what each has printed."""
    running = [starter() for starter in starters]
    try:
        for each in running:
            assert each.stdout
            assert each.stdout.readline() == "ready\n"
        for each in running:
            assert each.stdin
            each.stdin.write("go\n")
            each.stdin.flush()
        return [json.loads(each.communicate(timeout=120)[0]) for each in running]
    finally:
        for each in running:
            each.kill()
            each.wait()
            for pipe in (each.stdin, each.stdout):
                if pipe:
                    pipe.close()


def bare_rig(path: Path, *options: str) -> Path:
    """Make an empty repository that stands for a rig."""
    subprocess.run(["git", "init", "-q", "--bare", *options, str(path)], check=True)
    return path


def refs(rig: Path) -> dict[str, str]:
    """Return all refs of a rig."""
    told = subprocess.run(
        ["git", "-C", str(rig), "for-each-ref", "--format=%(refname) %(objectname)"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return dict(line.split(" ") for line in told.stdout.splitlines())


def hook(rig: Path, name: str, script: str) -> None:
    """Let a rig run a hook."""
    path = rig / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


_ACT = """
def act(record, verb, instance, seen=""):
    mine = Claim(worker="gt-1.1", digest={digest!r}, owner={owner!r}, instance=instance,
                 leg=2 if verb == "take_over" else 1)
    if verb == "take_over":
        there = record.take_over(mine, seen)
    else:
        there = record.claim(mine)
    return {{"won": there.id == mine.id, "id": there.id, "leg": there.leg}}
"""
_FINISH = """
def act(record, number):
    import os
    mine = Claim(**json.loads(os.environ["CLAIM"]))
    return {"message": record.finish(mine, Result(state=State.DONE, message=number), b"").message}
"""


def race_for_all(make: str, record: Record) -> None:
    """Let eight programs race for a claim, for the next leg, and for saying how it ended.

    Args:
        make: as of `program`.
        record: the same place.
    """

    def each(text: str, *words: str, **environ: str) -> list[dict[str, object]]:
        numbers = [f"{number:02x}" for number in range(8)]
        starters = [
            partial(start, text, *words[:1], number, *words[1:], environ=environ)
            for number in numbers
        ]
        return race(starters)

    text = program(make, _ACT.format(digest=DIGEST, owner=OWNER))
    told = each(text, "claim")
    assert sum(bool(one.get("won")) for one in told) == 1, told
    assert len({one["id"] for one in told}) == 1
    found = record.read("gt-1.1")
    assert found is not None
    assert found.claim.id == told[0]["id"]

    told = each(text, "take_over", found.seen)
    assert sum(bool(one.get("won")) for one in told) == 1, told
    assert {one["leg"] for one in told} == {2}

    owner = record.read("gt-1.1")
    assert owner is not None
    told = each(program(make, _FINISH), CLAIM=json.dumps(dataclasses.asdict(owner.claim)))
    assert len({one["message"] for one in told}) == 1, told
    found = record.read("gt-1.1")
    assert found is not None
    assert found.result is not None
    assert found.result.message == told[0]["message"]


_STEP = """
import os
def act(record, verb, seen=""):
    mine = Claim(**json.loads(os.environ["CLAIM"]))
    done = Result(state=State.DONE, message=mine.instance)
    steps = {{
        "claim": lambda: record.claim(mine).id,
        "beat": lambda: record.beat(mine).seen,
        "take_over": lambda: record.take_over(mine, seen).id,
        "ask_stop": lambda: record.ask_stop(mine.worker, 1.0),
        "finish": lambda: record.finish(mine, done, b"").message,
        "forget": lambda: record.forget(mine.worker),
    }}
    return {{"answer": steps[verb]()}}
"""


def killed_everywhere(make: str, record: Record) -> None:
    """Kill a program at each point of each step; the same step again does the same, once.

    Args:
        make: as of `program`.
        record: the same place.
    """
    _killed_at(program(make, _STEP.format()), record, "gt-1.1", _PUSHED)
    _killed_at(program(make, _STEP.format()), record, "gt-2.1", _KNOWN)


def _killed_at(text: str, record: Record, worker: str, points: Mapping[str, str]) -> None:
    first, second = claim(worker, instance=1), claim(worker, instance=2, leg=2)

    def step(mine: Claim, verb: str, *words: str) -> list[object]:
        """Do a step, killed at its point first; return what the whole ones have answered."""
        answers: list[object] = []
        environ = {"CLAIM": json.dumps(dataclasses.asdict(mine))}
        for point in [points[verb], ""] if verb in points else [""]:
            one = start(text, verb, *words, environ={**environ, "OUTPOST_FAULT": point})
            said = one.communicate("go\n", timeout=60)[0].splitlines()
            assert (one.returncode == -9) == bool(point), (verb, point, said)
            if not point:
                assert "error" not in said[-1], said
                answers.append(json.loads(said[-1])["answer"])
        return answers

    def stands() -> Found:
        found = record.read(worker)
        assert found is not None
        return found

    assert step(first, "claim") == [first.id]
    assert stands().claim == first
    step(first, "beat")
    step(first, "ask_stop")
    assert stands().stop == 1.0
    assert step(second, "take_over", stands().seen) == [second.id]
    assert stands().claim == second
    assert step(second, "finish") == ["02"]
    assert stands().result is not None
    step(second, "forget")
    assert record.read(worker) is None


class RecordChecks:
    """What holds at every place; a subclass has a fixture `record`."""

    def test_a_worker_is_claimed_once_and_its_end_is_said_once(self, record: Record) -> None:
        first, second = claim(instance=1), claim(instance=2)
        assert record.read("gt-1.1") is None
        assert record.claim(first) == first
        assert record.claim(second) == first
        assert record.claim(first) == first  # whoever was cut off asks again
        found = record.read("gt-1.1")
        assert found is not None
        assert (found.claim, found.result, found.stop) == (first, None, None)
        tail = bytes(range(256)) * 400
        assert record.finish(first, DONE, tail) == DONE
        again = record.finish(first, Result(state=State.FAILED), b"")
        assert again == DONE
        found = record.read("gt-1.1")
        assert found is not None
        assert (found.result, found.tail) == (DONE, tail[-TAIL:])
        assert record.claim(second) == first
        with pytest.raises(SupersededError, match="has ended already: ok"):
            record.beat(first)
        record.forget("gt-1.1")
        assert record.read("gt-1.1") is None
        record.forget("gt-1.1")

    def test_each_beat_is_another_word_and_brings_a_stop(self, record: Record) -> None:
        mine = record.claim(claim())
        words = {record.beat(mine).seen for _ in range(3)}
        found = record.read("gt-1.1")
        assert found is not None
        assert len(words) == 3
        assert found.seen in words
        record.ask_stop("gt-1.1", 7.5)
        record.ask_stop("gt-1.1", 7.5)
        assert record.beat(mine).stop == 7.5
        record.ask_stop("gt-1.1", 0.0)
        assert record.beat(mine).stop == 0.0

    def test_a_silent_owner_is_taken_over_and_says_nothing_more(self, record: Record) -> None:
        first, second = claim(instance=1), claim(instance=2, leg=2)
        record.claim(first)
        before = record.read("gt-1.1")
        assert before is not None
        record.beat(first)
        assert record.take_over(second, before.seen) == first  # it was not silent
        found = record.read("gt-1.1")
        assert found is not None
        assert record.take_over(second, found.seen) == second
        assert record.take_over(second, found.seen) == second  # asked again after a cut
        with pytest.raises(SupersededError, match="leg 2 runs it, this was leg 1"):
            record.beat(first)
        with pytest.raises(SupersededError, match="leg 2"):
            record.finish(first, DONE, b"")
        assert record.finish(second, DONE, b"") == DONE
        assert record.finish(first, Result(state=State.FAILED), b"") == DONE
        third = claim(instance=3, leg=3)
        found = record.read("gt-1.1")
        assert found is not None
        assert record.take_over(third, found.seen) == second  # it has ended
        record.forget("gt-1.1")
        with pytest.raises(SupersededError, match="no record any more"):
            record.beat(second)
        with pytest.raises(SupersededError, match="no record any more"):
            record.take_over(third, found.seen)

    def test_another_order_takes_nothing_over_and_no_leg_is_left_out(self, record: Record) -> None:
        first = record.claim(claim())
        found = record.read("gt-1.1")
        assert found is not None
        assert record.take_over(claim(leg=2, digest="e" * 64), found.seen) == first
        with pytest.raises(UsageError, match="after leg 1 comes no leg 3"):
            record.take_over(claim(leg=3), found.seen)
