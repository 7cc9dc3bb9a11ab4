"""Takes up what a supervisor left that was killed: sweeps, delivers or rescues, says how it ended.

Everything here can itself be killed and run again: each step finds what the last one did.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from outpost_core import faults, wire
from outpost_core.errors import NotFoundError, WorkerError
from outpost_core.types import Result
from outpost_core.worker import claim, files, launch, mark, outcome, process, stage

#: Seconds for the processes that were left to end after KILL.
_KILL_PATIENCE = 10.0


def recover(folder: Path) -> Result:
    """Bring an attempt that nobody works at to its end, and return its result.

    When the agent had ended well, its delivery is finished. Otherwise what it did is rescued and
    the worker is `lost` (or `stopped`, when that had been asked for). Leftover processes are
    ended first. Waits while another recovery is at it. Sets the environment of this process as git
    needs it, so give it a process of its own (`boot.py recover`).

    Args:
        folder: the worker's folder.

    Raises:
        NotFoundError: there is no such worker.
        WorkerError: its supervisor lives, so there is nothing to recover.
    """
    path = str(folder.absolute())
    if files.load(path, files.ORDER) is None:
        raise NotFoundError(f"there is no worker {folder.name}")
    with open(os.path.join(path, files.LOCK), "ab") as lock:
        while True:
            result = files.load(path, files.RESULT)
            if result is not None:
                return wire.from_json(Result, result)
            if claim.holder(path) not in (None, _me()):
                raise WorkerError(
                    f"worker {folder.name} still works",
                    reason="internal",
                    mend="stop it, or wait for its end",
                )
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
                continue
            if files.load(path, files.RESULT) is None:
                _recover(path)


def _me() -> tuple[int, int]:
    return os.getpid(), process.start_time(os.getpid())


def _recover(path: str) -> None:
    begun = files.load(path, files.CLAIM)
    never = begun is None and not claim.exists(path) and claim.take(path)
    files.discard(os.path.join(path, files.SECRETS))
    sweep(path)
    if never:
        result = outcome.result("lost", "never_started", "its supervisor never began")
        if (files.load(path, files.LAUNCH) or {}).get("boot") == process.boot_id():
            result["agent_began"] = False  # else its claim may have been lost with the power
    else:
        result = _conclude(path)
    result["started_at"] = begun.get("at") if begun else None
    result["finished_at"] = time.time()
    log = os.path.join(path, files.LOG)
    result["log_bytes"] = os.path.getsize(log) if os.path.exists(log) else None
    files.discard(os.path.join(path, files.INPUT))
    files.store_result(path, result)
    faults.point("worker.finished")


def _conclude(path: str) -> dict[str, Any]:
    order = files.order(path)
    assert order is not None
    launched = files.load(path, files.LAUNCH) or {}
    ended = files.load(path, files.AGENT)
    space = files.load(path, files.WORKSPACE)
    if ended is not None:
        ended.pop("at", None)
        result = {**outcome.result("lost", "lost_process"), **ended}
    elif files.load(path, files.STOP) is not None:
        result = outcome.result("stopped", "stopped", "its supervisor was gone when it was stopped")
    else:
        result = outcome.result("lost", "lost_process", "its supervisor vanished without a result")
    own = {"OUTPOST_WORKER_DIR": path, "OUTPOST_WORKER": os.path.basename(path)}
    environment = launch.environment(order, launched, {}, own)
    if ended is None:
        _add_usage(path, order, environment, result)
    if space is None:
        outcome.conclude(result)
        return result
    env = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        _bring_home(path, order, space, result)
    finally:
        os.environ.clear()
        os.environ.update(env)
    return result


def _add_usage(
    path: str, order: dict[str, Any], env: dict[str, str], result: dict[str, Any]
) -> None:
    """Say what the agent had used, as far as its log tells."""
    agent = order["agent"]
    if agent["output"] == "plain" or agent["interactive"]:
        return
    from outpost_core.worker import agentout

    began = (files.load(path, files.CLAIM) or {}).get("at") or 0.0
    log = os.path.join(path, files.LOG)
    answer = stage.attempt(
        path, lambda: agentout.read(agent["output"], log, agent.get("prices"), env, began)
    )
    said = answer.get("answer") or {}
    result["session"] = said.get("session")
    result["usage"] = {**result["usage"], **said.get("usage", {})}


def _bring_home(
    path: str, order: dict[str, Any], space: dict[str, Any], result: dict[str, Any]
) -> None:
    from outpost_core.worker import checkpoint, deliver

    if result["state"] == "done":
        answer = stage.attempt(path, lambda: deliver.deliver(order, path, space, _silent))
        outcome.add_delivery(result, answer, stopped="")
    outcome.conclude(result)
    if result["state"] == "done":
        return
    answer = stage.attempt(path, lambda: checkpoint.save(order, path, space, ended=True))
    outcome.add_rescue(result, answer, checkpoint.place(order, path))


def _silent(_: str) -> None:
    """Nobody listens to what a recovery reports."""


def sweep(path: str) -> int:
    """End every process that the attempt in folder `path` left; return how many were signalled.

    They are found by what they carry: the worker's mark, the folder's name in the environment that
    they were started with, the session of the agent while it lives, its output pipe, and by being
    descendants of such a one. Names that are given again (a dead session's pid, a terminal's
    number, anything of an earlier boot) are no proof. Each signal goes to a pid with its start
    time.
    """
    end = time.monotonic() + _KILL_PATIENCE
    count = 0
    while found := list(_left(path)):
        count += process.send_all(found, 9)
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    return count


def _left(path: str) -> Iterator[process.Proc]:
    table = process.everyone()
    about = _agent(path)
    mine = _ancestors(table)
    number = mark.number(path)
    roots = {
        proc.pid: proc
        for proc in table.values()
        if proc.pid not in mine and (mark.carried(proc.pid) == number or _is_of(proc, path, about))
    }
    yield from roots.values()
    for proc in process.below(roots, table, mine):
        if proc.pid not in roots:
            yield proc


def _agent(path: str) -> dict[str, Any]:
    """Return what the supervisor noted of the agent's process, in this boot of the machine."""
    begun = files.load(path, files.CLAIM) or {}
    if begun.get("boot") != process.boot_id():
        return {}
    return (files.load(path, files.STATE) or {}).get("agent") or {}


def _ancestors(table: dict[int, process.Proc]) -> set[int]:
    found = set()
    pid = os.getpid()
    while pid and pid not in found:
        found.add(pid)
        pid = table[pid].parent if pid in table else 0
    return found


def _is_of(proc: process.Proc, path: str, about: dict[str, Any]) -> bool:
    session, pipe = about.get("pid"), about.get("pipe")
    if session and proc.session == session and process.start_time(session) == about.get("start"):
        return True
    if pipe and any(_link(proc.pid, fd) == pipe for fd in (1, 2)):
        return True
    marker = b"OUTPOST_WORKER_DIR=" + os.fsencode(path)
    if marker in _read(proc.pid, "environ").split(b"\0"):
        return True
    # a forked stage of the supervisor carries no mark but its command line
    argv = _read(proc.pid, "cmdline").split(b"\0")
    return argv[3:6] == [os.fsencode(_boot_file()), b"run", os.fsencode(path)]


def _boot_file() -> str:
    from outpost_core.worker import boot

    return boot.__file__


def _link(pid: int, fd: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return ""


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""
