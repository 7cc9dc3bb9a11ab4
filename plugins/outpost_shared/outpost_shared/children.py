"""Ends programs in sessions of their own, where the verbs of `asyncio.subprocess` have holes.

`wait` of some versions of Python waits for the pipes too, whose other ends a child of the program
may have inherited. `terminate` and `kill` may reap a program that has just ended, of which asyncio
then complains on standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from outpost_shared.backoff import Backoff

#: Seconds until a signal that ends a program is taken for not heard.
_ENOUGH = 1.0
#: Seconds until a program that was killed is given up: the system is slow, or waits for a disk.
_KILLED = 5.0


async def gone(process: asyncio.subprocess.Process, seconds: float) -> bool:
    """Wait until a program has ended; return whether it has.

    Args:
        process: the program.
        seconds: how long to wait at most.
    """
    async for _ in Backoff(0.002, 0.05, growth=1.5, within=seconds).rounds():
        if process.returncode is not None:
            return True
    return False


async def end(process: asyncio.subprocess.Process, patience: float = 0.0) -> None:
    """End a program: TERM, then KILL, to all that it keeps in its group; and close its pipes.

    Args:
        process: the leader of a session; nothing is signalled once it has ended by itself.
        patience: seconds that it has to end by itself.
    """
    try:
        if await gone(process, patience):
            return
        _tell(process, signal.SIGTERM)
        if not await gone(process, _ENOUGH):
            _tell(process, signal.SIGKILL)
            await gone(process, _KILLED)
    finally:
        _tell(process, signal.SIGKILL)
        transport = getattr(process, "_transport", None)
        if transport is not None:
            transport.close()


def _tell(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        signal_group(process.pid, number)


def signal_group(leader: int, number: int = signal.SIGKILL) -> None:
    """Signal a process group that may have ended already; its leader was not reaped yet.

    Args:
        leader: the pid of the group's leader, a child of this process.
        number: the signal.
    """
    # macOS refuses the signal, too, when all of the group has ended and nobody reaped it yet
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)
