"""The pauses between two tries, and when a silent side is taken for dead."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from outpost_shared import silence
from outpost_shared.backoff import Backoff, Retries, every, reaching_again
from outpost_shared.silence import Silence

ROOT = Path(__file__).parents[1]


class Clock:
    """A clock that only moves when somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

        async def sleep(seconds: float) -> None:
            self.sleep(seconds)

        monkeypatch.setattr(asyncio, "sleep", sleep)

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 9))
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_pauses_grow_up_to_a_bound_and_begin_again() -> None:
    backoff = Backoff(1.0, 5.0)
    assert [backoff.pause() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    backoff.reset()
    assert backoff.pause() == 1.0
    slow = Backoff(0.02, 0.25, growth=1.5)
    assert [round(slow.pause(), 4) for _ in range(3)] == [0.02, 0.03, 0.045]


def test_a_part_of_a_pause_is_left_to_chance() -> None:
    some = [Backoff(8.0, 8.0, jitter=0.5).pause() for _ in range(200)]
    assert 4.0 <= min(some) < 5.0
    assert 7.0 < max(some) <= 8.0
    everything = [Backoff(8.0, 8.0, jitter=1.0).pause() for _ in range(200)]
    assert min(everything) < 1.0
    assert reaching_again().pause() <= 0.5


def test_tries_end_when_the_time_is_up_with_a_last_one_at_that_moment(clock: Clock) -> None:
    seen = [clock.now - 1000.0 for _ in Backoff(1.0, 8.0, within=10.0).tries()]
    assert seen == [0.0, 1.0, 3.0, 7.0, 10.0]
    assert clock.slept == [1.0, 2.0, 4.0, 3.0]


def test_who_has_no_time_tries_once(clock: Clock) -> None:
    assert len([*every(0.5, within=0.0).tries()]) == 1
    assert not clock.slept


def test_rounds_are_the_same_for_tasks(clock: Clock) -> None:
    async def run() -> list[float]:
        return [clock.now - 1000.0 async for _ in every(2.0, within=5.0).rounds()]

    assert asyncio.run(run()) == [0.0, 2.0, 4.0, 5.0]


def test_things_that_failed_are_due_later_each_for_itself(clock: Clock) -> None:
    retries = Retries(1.0, 3.0)
    assert retries.is_due("a")
    for pause in (1.0, 2.0, 3.0, 3.0):
        retries.failed("a", f"for {pause}")
        assert not retries.is_due("a")
        assert retries.is_due("b")
        assert retries.why("a") == f"for {pause}"
        clock.now += pause
        assert retries.is_due("a")
    retries.done("a")
    assert retries.why("a") == ""
    retries.failed("a")
    clock.now += 1.0
    assert retries.is_due("a")


def test_silence_counts_from_when_a_word_is_owed_or_was_heard_last(clock: Clock) -> None:
    heard = 990.0
    other = Silence(lambda: heard, due=20.0)
    clock.now += 10.0
    assert other.seconds == -10.0  # it may be silent as long as it waits
    clock.now += 16.0
    assert other.seconds == 6.0 >= silence.ANSWER
    heard = clock.now - 1.0
    assert other.seconds == 1.0
    clock.now += 100.0
    other.restart()
    assert other.seconds == 0.0


def test_nobody_writes_a_loop_of_pauses_of_his_own() -> None:
    """What sleeps in a loop does so by `Backoff`; those that beat time are named here."""
    allowed = {
        "outpost_exec/stdio/client.py",  # signs of life
        "outpost_worker/serving/server.py",  # looks whether there were some
        "outpost_manager/cli/status.py",  # a screen that is drawn again
        "outpost_manager/cli/bootstrap.py",  # a wheel that turns
        "outpost_manager/ledger/store.py",  # waits for SQLite in two phases
        "outpost_ssh/connection/prompt.py",  # acknowledges every 2 ms
        "outpost_worker/repository/git.py",  # `OUTPOST_GIT_RETRY` tells the pauses
        "outpost_worker/recovery/recover.py",  # ends holders of a lock again and again
        "outpost_worker/run/supervise.py",  # starts in milliseconds, and imports no more
        "outpost_cloudrun/server/elsewhere.py",  # tells what another instance does
        "outpost_cloudrun/server/orphans.py",  # collects what has ended twice
        "outpost_cloudrun/server/work.py",  # signs of life
        "outpost_cloudrun/keeper/overdue.py",  # waits for a moment, by a clock that may be late
        "outpost_k8s/api/process.py",  # signs of life
        "outpost_mayor/dispatch/dispatcher.py",  # waits for news, and a moment between two steps
        "outpost_k8s/near/hearing.py",  # tells changes that come together as one
        "outpost_k8s/far/keeping.py",  # keeps a log as it grows
    }
    found = set()
    for package in sorted(ROOT.glob("plugins/*/outpost_*")):
        if package.name in ("outpost_testing", "outpost_shared"):
            continue
        for path in package.rglob("*.py"):
            if path.parent.name == "testing":  # an emulator beats time as what it emulates
                continue
            source = path.read_text("utf-8")
            if "from outpost_shared.backoff import" in source:
                continue  # it may cut a pause, or tell of it, before it waits
            for loop in ast.walk(ast.parse(source)):
                if isinstance(loop, ast.While | ast.For | ast.AsyncFor):
                    calls = [n for n in ast.walk(loop) if isinstance(n, ast.Call)]
                    names = {ast.unparse(call.func) for call in calls if call.args
                             and ast.unparse(call.args[0]) != "0"}  # fmt: skip
                    if names & {"time.sleep", "asyncio.sleep"}:
                        found.add(path.relative_to(package.parent).as_posix())
    assert found <= allowed, "use outpost_shared.backoff, or say here why not"


def test_the_far_side_waits_without_importing_much() -> None:
    code = "import sys; before = set(sys.modules); import outpost_shared.backoff, outpost_shared.silence; print(*sorted(set(sys.modules) - before))"  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert {name for name in done.stdout.split() if not name.startswith("outpost_")} <= {
        "__future__"
    }
