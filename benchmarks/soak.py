"""(o) Work while everything is killed: the mayor, commands, an outpost's program and workers.

`python -m benchmarks soak` goes on for ten minutes; `OUTPOST_SOAK_SECONDS` says otherwise. What may
never be is looked for at the end: an order lost, an attempt that ran twice, a slot that is held, a
process that is left.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.harness import Row
from outpost_manager.ledger import Ledger

SECONDS: Final = float(os.environ.get("OUTPOST_SOAK_SECONDS", "600"))
#: Seconds that what is left may take at the end.
_PATIENCE: Final = 300.0
#: Seconds between two kills, on average.
_PAUSE: Final = 1.5


@dataclass(kw_only=True)
class Found:
    """What a soak found.

    Args:
        orders: how many are in the queue.
        attempts: how many workers there were.
        kills: what was killed → how often.
        broken: what may never be, and was.
    """

    orders: int = 0
    attempts: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


class Soak:
    """One soak in a folder of its own.

    Args:
        folder: an empty one.
        seed: of what is killed when.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.state = folder, folder / "state"
        self.ran = folder / "ran"
        self.chance = random.Random(seed)
        self.found = Found()
        self.known: list[str] = []  # issues of commands that said that they are queued
        self.number = 0
        home = folder / "home"
        home.mkdir()
        self.env = {key: value for key, value in os.environ.items() if "OUTPOST" not in key}
        self.env["HOME"] = str(home)
        served = [sys.executable, "-m", "outpost_worker", "serve", str(folder / "far")]
        (folder / "outposts.yaml").write_text(
            "outposts:\n"
            "  - {name: near, type: local, mode: process, fence: 'off', max_workers: 3,"
            " disk_floor: 0, memory_floor: 0}\n"
            f"  - {{name: far, type: exec, max_workers: 3, command: {json.dumps(served)}}}\n"
            "retries: {per_order: 1000, per_issue: 1000, per_day: 100000, longest_backoff: 1s,"
            " reasons: {agent_signal: 1000}}\n"  # one agent may be killed again and again
        )
        self.mayor: subprocess.Popen[bytes] | None = None

    def argv(self, *words: str) -> list[str]:
        """Return the command line of a command here."""
        said = ["--config", str(self.folder / "outposts.yaml"), "--state", str(self.state)]
        return [sys.executable, "-m", "outpost_manager", *said, *words]

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command."""
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                self.argv(*words), env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    # --- what goes on ---------------------------------------------------------------------------

    def run(self, seconds: float) -> Found:
        """Work and kill for so long, then let the rest end, and look."""
        end = time.monotonic() + seconds
        self.mayor = self.start("serve")
        adding: list[tuple[list[str], subprocess.Popen[bytes]]] = []
        try:
            while time.monotonic() < end:
                if len(adding) < 3:
                    adding.append(self.add())
                time.sleep(self.chance.expovariate(1 / _PAUSE))
                self.kill(self.chance.choice(["mayor", "command", "outpost", "worker"]), adding)
                adding = [pair for pair in adding if not self.over(*pair)]
                if self.mayor.poll() is not None:
                    self.mayor = self.start("serve")
            for issues, command in adding:
                command.wait(_PATIENCE)
                self.over(issues, command)
            self.rest()
        finally:
            self.mayor.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.mayor.wait(30)
            self.mayor.kill()
            self.mayor.wait()
        self.look()
        return self.found

    def add(self) -> tuple[list[str], subprocess.Popen[bytes]]:
        """Start a command that queues some orders; each writes down where it runs."""
        count = self.chance.randint(1, 4)
        issues = [f"s-{number}" for number in range(self.number, self.number + count)]
        self.number += count
        work = f"pwd >> '{self.ran}'; sleep {self.chance.uniform(0.0, 2.0):.2f}"
        words = ("--no-rig", "--retry", "1000", "--", "sh", "-c", work)
        return issues, self.start("queue", "add", *issues, *words)

    def over(self, issues: list[str], command: subprocess.Popen[bytes]) -> bool:
        """Whether a command has ended; what it promised is remembered."""
        code = command.poll()
        if code == 0:
            self.known += issues
        return code is not None

    def kill(self, what: str, adding: list[tuple[list[str], subprocess.Popen[bytes]]]) -> None:
        """Kill something of a kind, as a power cut would."""
        assert self.mayor is not None
        if what == "mayor":
            pids = [self.mayor.pid]
        elif what == "command":
            pids = [command.pid for _, command in adding if command.poll() is None]
        elif what == "outpost":
            pids = processes(lambda words: "outpost_worker" in words and "serve" in words, self)
        else:
            pids = processes(self.is_agent, self)
        if pids:
            with suppress(ProcessLookupError):
                os.kill(self.chance.choice(pids), signal.SIGKILL)
                self.found.kills[what] += 1
        if what == "mayor":
            self.mayor.wait()

    def is_agent(self, words: str) -> bool:
        """Whether a command line is that of an agent."""
        return words.startswith("sh ") and f">> '{self.ran}'" in words

    def rest(self) -> None:
        """Let the queue run empty, with a mayor that nobody kills."""
        assert self.mayor is not None
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if self.mayor.poll() is not None:
                self.mayor = self.start("serve")
            counts = self.counts()
            if not {word for word in counts if word != "ended"}:
                return
            time.sleep(0.2)
        self.found.broken.append(f"the queue does not run empty: {self.counts()}")

    def counts(self) -> dict[str, int]:
        """Return how many entries are in each state."""
        ledger = Ledger(self.state)
        try:
            return ledger.queue.counts()
        finally:
            ledger.close()

    # --- what may never be ------------------------------------------------------------------------

    def look(self) -> None:
        """Look for what may never be."""
        found, broken = self.found, self.found.broken
        ledger = Ledger(self.state)
        try:
            entries = {one.issue: one for one in ledger.queue.entries(states=("ended",))}
            workers = ledger.workers(cleaned=True)
            found.orders, found.attempts = len(entries), len(workers)
            broken += [f"{issue} is lost" for issue in self.known if issue not in entries]
            broken += [
                f"{one.issue} ended as {one.outcome}: {one.why}"
                for one in entries.values()
                if one.outcome != "done"
            ]
            broken += [f"{outpost} holds {held} slots" for outpost, held in ledger.active().items()]
            done = Counter(one.issue for one in workers if one.state.value == "done")
            broken += [
                f"{issue} was done {times} times" for issue, times in done.items() if times > 1
            ]
        finally:
            ledger.close()
        places = Counter(self.ran.read_text().split() if self.ran.exists() else [])
        broken += [
            f"an attempt ran {times} times in {at}" for at, times in places.items() if times > 1
        ]
        left = processes(self.is_agent, self)
        if left:
            broken.append(f"{len(left)} agents are left")


def processes(wanted: Callable[[str], bool], soak: Soak) -> list[int]:
    """Return the processes of a soak whose command line is wanted."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                words = (
                    Path(f"/proc/{name}/cmdline")
                    .read_bytes()
                    .replace(b"\0", b" ")
                    .decode("utf-8", "replace")
                )
                if str(soak.folder) in words and wanted(words):
                    found.append(int(name))
    return found


def soak(seconds: float, seed: int = 1) -> Found:
    """Run one in a folder that is removed."""
    with tempfile.TemporaryDirectory(prefix="outpost-soak-") as name:
        return Soak(Path(name), seed).run(seconds)


def measure() -> list[Row]:
    """Soak, and say what was found."""
    found = soak(SECONDS)
    kills = ", ".join(f"{number} × {what}" for what, number in sorted(found.kills.items()))
    for what in found.broken:
        print(what, file=sys.stderr)
    return [
        Row(what=f"{SECONDS:.0f} s of work while everything is killed",
            ours=f"{found.orders} orders, {found.attempts} attempts, {len(found.broken)} broken",
            against=f"killed: {kills}", goal="0 broken", met=not found.broken),
    ]  # fmt: skip
