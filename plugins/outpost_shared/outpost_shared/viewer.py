"""Runs the program that shows a worker on this process's own terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence

from outpost_core.errors import OutpostError, UsageError
from outpost_shared import terminfo


async def attach(worker: str, argv: Sequence[str]) -> int:
    """Run the viewer `argv` on this process's terminal; return its exit code.

    Args:
        worker: its id, for messages.
        argv: program and arguments; no shell looks at them.

    Raises:
        UsageError: there is no terminal.
        OutpostError: the viewer cannot be started.
    """
    check_terminal(worker)
    # Inside another tmux, $TMUX would make ours refuse to nest.
    env = {name: value for name, value in os.environ.items() if not name.startswith("TMUX")}
    if "TMUX_TMPDIR" in os.environ:  # where the server's socket is
        env["TMUX_TMPDIR"] = os.environ["TMUX_TMPDIR"]
    term = terminfo.known(env)
    if term != env.get("TERM", ""):
        print(f"this machine does not know the terminal {env['TERM']!a}: shown as on {term}",
              file=sys.stderr)  # fmt: skip
        env["TERM"] = term
    try:
        process = await asyncio.create_subprocess_exec(*argv, env=env)
    except OSError as error:
        raise OutpostError(
            f"{worker} cannot be shown: {argv[0]!a}: {error.strerror}",
            hint=f"outpost logs -f {worker}",
        ) from error
    try:
        return await process.wait()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()  # only the viewer: the worker keeps running
        await process.wait()
        raise


def check_terminal(worker: str) -> None:
    """Make sure that this program has a terminal to show `worker` on.

    Raises:
        UsageError: there is none.
    """
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        raise UsageError(
            f"attaching to {worker} needs a terminal",
            hint=f"use `outpost logs -f {worker}` or `outpost peek {worker}`",
        )
