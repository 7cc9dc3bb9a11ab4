"""What git at a worker logs in with: what the user's own command prints, when it is needed."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Final

from outpost_core.errors import SpawnRefusedError, UsageError
from outpost_shared import border
from outpost_worker.repository.credentials import understood

#: Seconds for the command; one that asks a server for a token takes a few.
_PATIENCE: Final = 60.0
#: Bytes of a token or a private key.
_MOST: Final = 64 * 1024


async def git_login(argv: tuple[str, ...], base: Path | None, rig: str | None) -> str:
    """Return what the configured command prints; "" where none is, or nothing is to be cloned.

    Args:
        argv: the outpost's option `git_credentials`.
        base: the folder that the command runs in; None for the user's home.
        rig: the repository, which the command finds in `OUTPOST_RIG`.

    Raises:
        SpawnRefusedError: it failed, or printed nothing that git can log in with.
    """
    if not argv or rig is None:
        return ""
    return await asyncio.to_thread(_run, argv, base, rig)


def _run(argv: tuple[str, ...], base: Path | None, rig: str) -> str:
    hint = "run the command of `git_credentials` by hand: it prints a token or a private key"
    try:
        done = subprocess.run(
            argv, cwd=base or Path.home(), env={**os.environ, "OUTPOST_RIG": rig},
            capture_output=True, check=False, timeout=_PATIENCE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        why = error.strerror if isinstance(error, OSError) else f"it took over {_PATIENCE:g} s"
        raise SpawnRefusedError(f"git_credentials ({argv[0]}): {why}", hint=hint) from error
    if done.returncode:
        said = border.line(done.stderr.decode("utf-8", "replace")[-500:], 300)
        why = f"it ended with {done.returncode}" + (f": {said}" if said else "")
        raise SpawnRefusedError(f"git_credentials ({argv[0]}): {why}", hint=hint)
    printed = done.stdout.decode("utf-8", "replace")
    if not printed.strip() or len(printed) > _MOST:
        raise SpawnRefusedError(f"git_credentials ({argv[0]}) printed nothing usable", hint=hint)
    try:
        understood(printed, ())
    except UsageError as error:
        raise SpawnRefusedError(
            f"git_credentials ({argv[0]}): {error.message}", hint=error.hint
        ) from None
    return printed
