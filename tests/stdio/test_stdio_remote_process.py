"""A server that is a process, and is killed."""

from __future__ import annotations

import asyncio
import random
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from remotekit import read
from stdiokit import PATIENCE, order

from outpost_core.backend import BuildContext, OutpostOptions
from outpost_core.types import State
from outpost_exec.stdio.client import Client
from outpost_exec.stdio.remote import StdioOutpost
from outpost_shared.backoff import Backoff
from outpost_testing.waiting import ended

PROGRAM = Path(__file__).parents[2] / "plugins" / "outpost_exec" / "tests" / "served.py"


class Process(StdioOutpost):
    """An outpost in a process that a test kills."""

    type = "process"
    capabilities = frozenset({"secrets"})

    def __init__(self, root: Path, fault: str = "") -> None:
        super().__init__("vm1", OutpostOptions(), BuildContext(state_dir=root))
        self.faults = [fault]
        self.processes: list[asyncio.subprocess.Process] = []

    async def connect(self) -> Client:
        fault = self.faults.pop() if self.faults else ""
        env = {"PATH": "/usr/bin:/bin", "OUTPOST_STATE_DIR": str(self.context.state_dir)}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(PROGRAM), "reference",
            stdin=pipe, stdout=pipe, env=env | {"OUTPOST_FAULT": fault}, limit=1 << 20,
        )  # fmt: skip
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdin is not None
        return await Client.start(
            "vm1", process.stdout, process.stdin, name="vm1", options={}, timeout=20
        )

    async def end(self) -> list[int | None]:
        await self.outpost_close()
        return [await process.wait() for process in self.processes]


@pytest.mark.parametrize("fault", ["local.staged", "local.published", "local.launched"])
def test_a_server_killed_in_the_middle_of_a_spawn_leaves_one_worker_that_runs_once(
    fault: str, tmp_path: Path
) -> None:
    async def run() -> None:
        one, two = Process(tmp_path / "state", fault), Process(tmp_path / "state")
        runs = tmp_path / "runs"
        asked = order("gt-1", "/bin/sh", "-c", f"echo run >>{runs}")
        await one.outpost_spawn(asked)
        assert len(one.processes) == 2
        await two.outpost_spawn(asked)  # another program adopts it
        status = (await ended(two, asked.worker))[asked.worker]
        assert status.state is State.DONE
        assert runs.read_text() == "run\n"
        assert (await one.end(), await two.end()) == ([-9, 0], [0])

    asyncio.run(run())


def test_a_followed_log_survives_servers_that_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "wait", lambda self: asyncio.sleep(0.001))
    chance = random.Random(11)

    async def kill(outpost: Process) -> None:
        for _ in range(5):
            await asyncio.sleep(0.3 + chance.random() * 0.3)
            with suppress(ProcessLookupError):
                outpost.processes[-1].kill()

    async def run() -> None:
        outpost = Process(tmp_path / "state")
        script = 'n=0; while [ $n -lt 300 ]; do echo "line $n"; sleep 0.01; n=$((n+1)); done'
        asked = order("gt-1", "/bin/sh", "-c", script)
        await outpost.outpost_spawn(asked)
        killing = asyncio.create_task(kill(outpost))
        got = await asyncio.wait_for(read(outpost, follow=True), PATIENCE)
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
        assert got == "".join(f"line {n}\n" for n in range(300)).encode()
        assert len(outpost.processes) > 1
        await outpost.end()

    asyncio.run(run())
