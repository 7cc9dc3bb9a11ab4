"""A private state for each test, and the proof that nothing of it is left running."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from outpost_core.backend import BuildContext
from outpost_core.types import Agent, Issue, Order, WorkerStatus
from outpost_local.options import LocalOptions, Mode
from outpost_local.outpost import LocalOutpost
from outpost_testing import waiting
from outpost_testing.processes import mentioning
from outpost_worker.system import sockets

DEADLINE = 30.0


class Place:
    """A machine of its own, as far as Outpost can see: one state root."""

    def __init__(self, root: Path, mode: Mode) -> None:
        self.root = root
        self.mode = mode

    def make(self, **options: Any) -> LocalOutpost:
        """Build a fresh outpost object on this state, as another program would."""
        options.setdefault("mode", self.mode)
        return LocalOutpost("local", LocalOptions(**options), BuildContext(state_dir=self.root))

    def order(
        self,
        *argv: str,
        issue: str = "gt-1",
        attempt: int = 1,
        interactive: bool = False,
        **more: Any,
    ) -> Order:
        agent = Agent(argv=argv, interactive=interactive)
        return Order(issue=Issue(id=issue), agent=agent, attempt=attempt, **more)

    def python(self, code: str, *args: str, **more: Any) -> Order:
        return self.order(sys.executable, "-I", "-S", "-c", code, *args, **more)

    def folder(self, worker: str) -> Path:
        return self.root / "workers" / worker

    def log(self, worker: str) -> bytes:
        return (self.folder(worker) / "output.log").read_bytes()

    async def until(
        self, outpost: LocalOutpost, good: Callable[[WorkerStatus], bool], *workers: str
    ) -> dict[str, WorkerStatus]:
        """Ask until all the workers (default: all there are) are good; fail at a deadline."""
        return await waiting.listed(outpost, good, *workers, seconds=DEADLINE)

    async def end(self, outpost: LocalOutpost, *workers: str) -> dict[str, WorkerStatus]:
        return await waiting.ended(outpost, *workers, seconds=DEADLINE)

    async def run(self, outpost: LocalOutpost, order: Order) -> WorkerStatus:
        await outpost.outpost_spawn(order)
        return (await self.end(outpost, order.worker))[order.worker]

    async def wait_for(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not true():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    def tmux(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Ask this state's tmux server something, without libtmux."""
        return subprocess.run(
            ["tmux", "-S", self.socket, "-f", "/dev/null", *argv],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip

    @property
    def socket(self) -> str:
        return sockets.path(str(self.root))

    def server(self) -> int | None:
        answer = self.tmux("display-message", "-p", "#{pid}")
        return int(answer.stdout) if answer.returncode == 0 and answer.stdout.strip() else None

    def processes(self) -> dict[int, str]:
        """Living processes that belong to this state, by their arguments or environment."""
        return mentioning(self.root)

    def warm(self) -> list[int]:
        """The processes that fork supervisors for this state, or are about to."""
        return [
            pid for pid, line in self.processes().items() if f"boot.py warm {self.root}" in line
        ]

    def supervisor(self, worker: str) -> int:
        from outpost_worker.folder import files

        claim = files.load(str(self.folder(worker)), files.CLAIM)
        assert claim is not None
        return int(claim["pid"])


def _left(place: Place) -> dict[int, str]:
    left = place.processes()
    if (server := place.server()) is not None:
        left[server] = "tmux server"
    return left


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    """Make places; at the end nothing of them may run."""
    made: list[Place] = []

    def make(folder: str = "state", mode: Mode = Mode.TMUX) -> Place:
        made.append(Place(tmp_path / folder, mode))
        return made[-1]

    yield make
    left: dict[int, str] = {}
    for place in made:
        for pid in place.warm():  # it would end by itself
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + DEADLINE
        while (left_here := _left(place)) and time.monotonic() < deadline:
            time.sleep(0.05)
        left |= left_here
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for place in made:  # tmux leaves its socket
        Path(place.socket).unlink(missing_ok=True)
    assert not left, f"left running: {left}"


@pytest.fixture(params=[Mode.TMUX, Mode.PROCESS], ids=["tmux", "process"])
def place(request: pytest.FixtureRequest, places: Callable[..., Place]) -> Place:
    """A place in each mode."""
    return places(mode=request.param)


@pytest.fixture
def tmux_place(places: Callable[..., Place]) -> Place:
    return places()


@pytest.fixture
def other_program(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start another program that spawns orders at a place: `start(place, orders, then)`."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        place: Place, argvs: Sequence[Sequence[str]], then: str = "", **popen: Any
    ) -> subprocess.Popen[bytes]:
        script = tmp_path / f"program{len(started)}.py"
        script.write_text(
            f"""
import asyncio, os, signal, sys, time
from pathlib import Path
from outpost_core.backend import BuildContext
from outpost_core.types import Agent, Issue, Order
from outpost_local.options import LocalOptions, Mode
from outpost_local.outpost import LocalOutpost

async def main():
    outpost = LocalOutpost(
        "local", LocalOptions(mode=Mode({place.mode.value!r})),
        BuildContext(state_dir=Path({str(place.root)!r})),
    )
    orders = [
        Order(issue=Issue(id=f"gt-{{i}}"), agent=Agent(argv=tuple(argv)))
        for i, argv in enumerate({[list(argv) for argv in argvs]!r}, 1)
    ]
    await asyncio.gather(*(outpost.outpost_spawn(order) for order in orders))
    print("spawned", flush=True)
    {then or "pass"}

asyncio.run(main())
"""
        )
        popen.setdefault("stdout", subprocess.PIPE)
        started.append(subprocess.Popen([sys.executable, str(script)], **popen))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
