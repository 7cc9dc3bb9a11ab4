"""Programs that are ended, whatever they and their children do about it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

import pytest

from outpost_shared import children

PIPE = asyncio.subprocess.PIPE


async def started(code: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=PIPE, stdout=PIPE, start_new_session=True
    )
    assert process.stdout is not None
    return process


def test_a_program_that_ignores_term_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_ENOUGH", 0.2)

    async def run() -> None:
        process = await started(
            "import signal,time; signal.signal(15, signal.SIG_IGN); print(1, flush=True);"
            "time.sleep(60)"
        )
        assert process.stdout is not None
        await process.stdout.readline()
        await asyncio.wait_for(children.end(process), 30)
        assert process.returncode == -signal.SIGKILL

    asyncio.run(run())


def test_one_that_ends_by_itself_in_time_is_not_signalled() -> None:
    async def run() -> None:
        process = await started("import sys; sys.stdin.read(); sys.exit(7)")
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait_for(children.end(process, 30), 60)
        assert process.returncode == 7

    asyncio.run(run())


def test_a_child_that_goes_on_with_the_pipes_holds_up_nobody() -> None:
    async def run() -> None:
        process = await started(
            "import subprocess,time,sys\n"
            "c = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
            "print(c.pid, flush=True); time.sleep(60)"
        )
        assert process.stdout is not None
        child = int(await process.stdout.readline())
        try:
            await asyncio.wait_for(children.end(process), 30)
            assert process.returncode == -signal.SIGTERM
            os.kill(child, 0)  # it is its own master
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    asyncio.run(run())


def test_a_group_that_may_not_be_signalled_any_more_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """macOS answers so for a group whose processes have all ended, and are not reaped yet."""

    def refuse(pid: int, number: int) -> None:
        os.kill(pid, number)
        raise PermissionError

    async def run() -> None:
        process = await started("import time; print(1, flush=True); time.sleep(60)")
        monkeypatch.setattr(children.os, "killpg", refuse)
        await asyncio.wait_for(children.end(process), 10)
        assert process.returncode == -signal.SIGTERM

    asyncio.run(run())
