"""Asks a worker to stop: durable first, then quick."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from outpost_core.errors import NotFoundError, WorkerError
from outpost_shared import process
from outpost_shared.backoff import every
from outpost_worker.folder import claim, files, outcome

#: Seconds to find out whether an attempt that is just beginning has begun.
_PATIENCE = 5.0


def request(folder: Path, grace: float, reason: str = "stopped") -> None:
    """Ask for the end of a worker's whole process tree; returns when that is durable.

    A worker that has not begun never will: it gets its result here. One that has ended, or whose
    supervisor is gone, stays as it is (see `recover`).

    Args:
        folder: the worker's folder.
        grace: seconds between TERM and KILL.
        reason: `stopped` where somebody wants the end of it, `terminated` where its machine ends.

    Raises:
        NotFoundError: there is no such worker.
        WorkerError: its folder is none of ours, and nothing of it runs.
        OSError: the request cannot be written, and there is nobody to be told directly.
    """
    path = str(folder)
    if not os.path.isdir(path):
        raise NotFoundError(f"there is no worker {folder.name}")
    if claim.finished(path) and claim.holder(path) is None:
        return
    about = {"grace": grace, "reason": reason, "at": time.time()}
    try:
        files.store(path, files.STOP, about, sync=True)
    except OSError as error:
        holder = claim.holder(path)
        if holder is None and isinstance(error, files.Broken):
            raise WorkerError(
                f"{folder.name} cannot be stopped, and nothing of it runs: its folder"
                f" {error.strerror}",
                reason="broken",
                hint=f"look at it, and remove it by hand: {folder}",
            ) from None
        if holder is None:
            raise
        _tell(*holder)  # a full disk saves nobody from a stop
        return
    for _ in every(0.005, within=_PATIENCE).tries():
        if claim.exists(path) or claim.finished(path):
            break
        if _end_unbegun(path, reason):
            return
    # the claim may name what an agent calls like its supervisor, so all of them are told
    holder = claim.holder(path)
    for one in {*claim.Supervisors().all(path), *([holder] if holder else [])}:
        _tell(*one)


def _tell(pid: int, start: int) -> None:
    process.send(pid, start, signal.SIGTERM)
    process.send(pid, start, signal.SIGCONT)  # a stopped process hears nothing


def _end_unbegun(path: str, reason: str) -> bool:
    """Give a worker that has not begun its result; False when somebody is just beginning it."""
    lock = claim.lock(path)
    if lock < 0:
        return False
    try:
        if not claim.take(path):
            return False
        files.discard(os.path.join(path, files.SECRETS))
        result = outcome.before_it_ran(reason)
        result["finished_at"] = time.time()
        files.store_result(path, result)
    finally:
        os.close(lock)
    return True
