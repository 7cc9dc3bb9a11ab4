"""An outpost that is served somewhere else: in a container, or through a program of the user."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outpost_core.backend import BuildContext
from outpost_core.errors import NotFoundError, SpawnRefusedError
from outpost_core.types import Agent, Issue, Order, State, WorkerStatus
from outpost_exec.options import ExecOptions
from outpost_exec.outpost import ExecOutpost

CAPABILITIES = (
    "rig",
    "local_rig",
    "checkpoint",
    "secrets",
    "interactive",
    "clean",
    "facts",
    "changes",
)
SERVE = (sys.executable, "-m", "outpost_worker", "serve")
#: Seconds until what has to come is taken for missing.
PATIENCE = 60.0


def make(folder: Path, *command: str) -> ExecOutpost:
    options = ExecOptions(command=command, capabilities=CAPABILITIES, start_timeout=PATIENCE)
    return ExecOutpost("box", options, BuildContext(state_dir=folder / "state", config_dir=folder))


def order(issue: str, script: str) -> Order:
    return Order(issue=Issue(id=issue), agent=Agent(argv=("/bin/sh", "-c", script)))


async def ended(outpost: ExecOutpost, worker: str) -> WorkerStatus:
    deadline = time.monotonic() + PATIENCE
    while True:
        (found,) = [one for one in await outpost.outpost_list() if one.id == worker]
        if found.state.terminal:
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.05)


async def log(outpost: ExecOutpost, worker: str) -> bytes:
    stream = outpost.outpost_logs(worker=worker, offset=0, follow=True)
    return b"".join([piece async for piece in stream])


@pytest.fixture
def box(tmp_path: Path) -> Iterator[str]:
    """The id of a container's first process: namespaces of its own, which live until it ends."""
    assert shutil.which("unshare"), "util-linux is missing"
    process = subprocess.Popen(
        [
            *("unshare", "--user", "--map-root-user", "--mount", "--uts", "--pid", "--fork"),
            *("--kill-child", "--mount-proc", "sh", "-c"),
            'hostname box; echo $(cut -d" " -f4 /proc/self/stat); exec sleep 1000',
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()  # it is made
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    try:
        yield children[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_container_is_an_outpost(tmp_path: Path, box: str) -> None:
    """`docker exec -i BOX python3 -m outpost_worker serve ROOT`, with the kernel's own means."""
    inside = ("nsenter", "-t", box, "--user", "--mount", "--uts", "--pid", "--preserve-credentials")
    root = tmp_path / "inside"

    async def run() -> None:
        outpost = make(tmp_path, *inside, *SERVE, str(root))
        assert (await outpost.outpost_ping()).ok
        one = order("gt-1", "hostname; echo $PPID; sleep 2; exit 3")
        spawned = await outpost.outpost_spawn(order=one)
        assert spawned.state in {State.QUEUED, State.STARTING, State.WORKING}
        await outpost.outpost_close()  # its program ends; the worker keeps running in the box
        again = make(tmp_path, *inside, *SERVE, str(root))
        assert (await again.outpost_spawn(order=one)).id == "gt-1.1"
        host, parent = (await log(again, "gt-1.1")).split()
        assert host == b"box"
        assert int(parent) < 1000  # of the box's own processes
        result = (await ended(again, "gt-1.1")).result
        assert result is not None
        assert (result.state, result.exit_code) == (State.FAILED, 3)
        assert (await again.outpost_clean(worker="gt-1.1", force=False)).removed
        assert await again.outpost_list() == []
        await again.outpost_close()

    asyncio.run(run())


def test_supervisors_are_started_as_the_user_says(tmp_path: Path) -> None:
    async def run() -> None:
        outpost = make(tmp_path, *SERVE, "--start", "nice", "-n", "7")
        await outpost.outpost_spawn(order=order("gt-1", "nice"))
        assert int(await log(outpost, "gt-1.1")) == min(os.nice(0) + 7, 19)
        await outpost.outpost_close()
        missing = make(tmp_path, *SERVE, "--start", "no-such-program-1")
        with pytest.raises(SpawnRefusedError, match="no-such-program-1"):
            await missing.outpost_spawn(order=order("gt-2", "true"))
        assert [one.id for one in await missing.outpost_list()] == ["gt-1.1"]  # it was taken back
        await missing.outpost_close()

    asyncio.run(run())


def test_an_empty_or_impossible_id_is_a_worker_that_is_not_there(tmp_path: Path) -> None:
    async def run() -> None:
        outpost = make(tmp_path, *SERVE)
        for worker in ("", "..", "../x.1", "gt-1", "gt-9.1", "x" * 5000):
            await outpost.outpost_stop(worker=worker, grace=1.0)
            assert (await outpost.outpost_clean(worker=worker, force=False)).removed
            with pytest.raises(NotFoundError, match="is not a worker"):
                await log(outpost, worker)
        await outpost.outpost_close()

    asyncio.run(run())


def verb(*words: str, **env: str) -> tuple[int, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "outpost_worker", *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
        env={**os.environ, **env},
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def test_list_and_logs_answer_a_program_in_another_language(tmp_path: Path) -> None:
    """One start of Python for all workers, and one for a piece of a log."""
    root = tmp_path / "state"

    async def fill() -> None:
        outpost = make(tmp_path, *SERVE)
        for n in range(3):
            await outpost.outpost_spawn(order=order(f"gt-{n}", f"echo hello {n}"))
            await ended(outpost, f"gt-{n}.1")
        await outpost.outpost_close()

    asyncio.run(fill())
    code, told = verb("list", str(root))
    assert code == 0
    assert {one["id"]: one["state"] for one in told} == {f"gt-{n}.1": "done" for n in range(3)}
    at = ("logs", str(root), "gt-1.1")
    assert verb(*at, "0") == (0, {"data": "aGVsbG8gMQo=", "end": False})
    assert verb(*at, "6", "--max", "1") == (0, {"data": "MQ==", "end": False})
    assert verb(*at, "8", "--wait", "30") == (0, {"data": "", "end": True})
    code, told = verb("logs", str(root), "gt-9.1", "0")
    assert (code, told["error"]["kind"]) == (4, "not_found")
    code, told = verb(*at, "x")
    assert "'x' is not a number" in told
    assert verb("serve", OUTPOST_STATE_DIR="")[0] == 2


def test_list_recovers_what_a_dead_supervisor_left(tmp_path: Path) -> None:
    root = tmp_path / "state"

    async def begin() -> None:
        outpost = make(tmp_path, *SERVE)
        await outpost.outpost_spawn(order=order("gt-1", "echo $PPID; sleep 1000"))
        stream = outpost.outpost_logs(worker="gt-1.1", offset=0, follow=True)
        await anext(aiter(stream))
        await outpost.outpost_close()

    asyncio.run(begin())
    claim = json.loads((root / "workers/gt-1.1/supervisor.json").read_text())
    os.kill(claim["pid"], 9)
    deadline = time.monotonic() + PATIENCE
    seen = set()
    while (status := verb("list", str(root))[1][0])["result"] is None:
        seen.add((status["state"], status["detail"]))
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    assert {state for state, _ in seen} <= {"working"}
    assert status["result"]["finished_at"] is not None
    assert status["state"] == "lost"
