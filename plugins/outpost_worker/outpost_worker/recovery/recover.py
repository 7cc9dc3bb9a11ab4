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

from outpost_core.errors import NotFoundError, WorkerError
from outpost_core.types import Result
from outpost_shared import faults, process
from outpost_shared.backoff import every
from outpost_worker.folder import believing, claim, exposed, files, outcome, status
from outpost_worker.run import forked
from outpost_worker.system import launch, mark

#: Seconds for the processes that were left to end after KILL.
_KILL_PATIENCE = 10.0
#: Seconds to wait for the lock until it is looked for who holds it, and between two such looks.
_LOCK_PATIENCE = 1.0


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
    found = _result(path)
    if found is not None:
        return found
    try:
        lock = files.open_own(os.path.join(path, files.LOCK), os.O_RDWR)
    except FileNotFoundError:
        raise NotFoundError(f"there is no worker {folder.name}") from None
    except files.Broken as error:
        raise WorkerError(
            f"worker {folder.name} is broken: its folder {error.strerror}",
            reason="broken",
            hint=f"look at it, and remove it by hand: {folder}",
        ) from None
    look_at = time.monotonic() + _LOCK_PATIENCE
    try:
        while True:
            result = _result(path)
            if result is not None:
                return result
            if claim.holder(path) not in (None, _me()):
                raise WorkerError(
                    f"worker {folder.name} still works",
                    reason="internal",
                    hint="stop it, or wait for its end",
                )
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > look_at:
                    _end_holders(path, lock)
                    look_at = time.monotonic() + _LOCK_PATIENCE
                time.sleep(0.02)
                continue
            if (result := _result(path)) is None:
                _recover(path)
                result = _result(path)
            if result is None:  # nobody would ever believe another one
                raise WorkerError(
                    f"worker {folder.name} is broken: its result cannot be kept",
                    reason="broken",
                    hint=f"look at it, and remove it by hand: {folder}",
                )
            return result
    finally:
        os.close(lock)


def _result(path: str) -> Result | None:
    """Return the result that is there, where it can be believed."""
    found = status.read(Path(path)).result
    return found if found is not None and found.finished_at is not None else None


def _me() -> tuple[int, int]:
    return os.getpid(), process.start_time(os.getpid())


def _recover(path: str) -> None:
    begun = files.load(path, files.CLAIM)
    never = begun is None and not claim.exists(path) and claim.take(path)
    files.discard(os.path.join(path, files.SECRETS))
    sweep(path)
    exposed.mark_after(files.root_of(path), files.load(path, files.STATE) or {})
    if never:
        result = outcome.result("lost", "never_started", "its supervisor never began")
        if (files.load(path, files.LAUNCH) or {}).get("boot") == process.boot_id():
            result["agent_began"] = False  # else its claim may have been lost with the power
    else:
        result = _conclude(path)
    result["started_at"] = claim.moment(begun)
    result["finished_at"] = time.time()
    result["log_bytes"] = _size(path)
    result["fence"] = status.said_fence(files.load(path, files.STATE) or {})
    files.discard(os.path.join(path, files.INPUT))
    files.store_result(path, result)
    faults.point("worker.finished")


def _size(path: str) -> int | None:
    try:
        log = files.open_plain(os.path.join(path, files.LOG))
    except OSError:
        return None
    try:
        return os.fstat(log).st_size
    finally:
        os.close(log)


def _conclude(path: str) -> dict[str, Any]:
    """Bring the work home as it was ordered; nothing of an order that was changed is run."""
    try:
        order, launched = believing.truth(path)
        ended = believing.ended(path)
        space = believing.workspace(path, order)
    except files.Broken as error:
        return outcome.result("lost", "broken", f"{error.said}; nothing of it was run")
    if ended is not None:
        result = {**outcome.result("lost", "lost_process"), **ended}
    elif files.load(path, files.STOP) is not None:
        result = outcome.result("stopped", "stopped", "its supervisor was gone when it was stopped")
    else:
        result = outcome.result("lost", "lost_process", "its supervisor vanished without a result")
    own = {
        "OUTPOST_WORKER_DIR": os.path.join(path, files.EXCHANGE),
        "OUTPOST_WORKER": os.path.basename(path),
    }
    environment = launch.environment(order, launched, {}, own)
    if ended is None:
        _add_usage(path, order, environment, launched.get("reader"), result)
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
    path: str,
    order: dict[str, Any],
    env: dict[str, str],
    brought: dict[str, Any] | None,
    result: dict[str, Any],
) -> None:
    """Say what the agent had used, as far as its log tells."""
    agent = order["agent"]
    if agent["output"] == "plain" or agent["interactive"]:
        return
    from outpost_worker.agents import agentout
    from outpost_worker.folder import logs

    began = claim.moment(files.load(path, files.CLAIM)) or 0.0
    log = os.path.join(path, files.LOG)
    most, prices = logs.longest(order), agent.get("prices")
    answer = forked.attempt(
        path, lambda: agentout.read(agent["output"], log, prices, env, began, most, brought)
    )
    said = answer.get("answer") or {}
    result["session"] = said.get("session")
    result["usage"] = {**result["usage"], **said.get("usage", {})}


def _bring_home(
    path: str, order: dict[str, Any], space: dict[str, Any], result: dict[str, Any]
) -> None:
    from outpost_worker.work import checkpoint, deliver

    if result["state"] == "done":
        answer = forked.attempt(path, lambda: deliver.deliver(order, path, space, _silent))
        outcome.add_delivery(result, answer, stopped="")
    outcome.conclude(result)
    if result["state"] == "done":
        return
    answer = forked.attempt(path, lambda: checkpoint.save(order, path, space, ended=True))
    outcome.add_rescue(result, answer, checkpoint.place(order, path))


def _silent(_: str) -> None:
    """Nobody listens to what a recovery reports."""


def sweep(path: str) -> int:
    """End every process that the attempt in folder `path` left; return how many were signalled.

    They are found by what they carry: the worker's mark, the folder's name in the environment that
    they, or the leader of their session, were started with, the agent's output pipe, and by being
    descendants of such a one. What the folder's files name is no proof by itself, since the agent
    could have written it; nor are names that are given again (a dead session's pid, anything of an
    earlier boot). Each signal goes to a pid with its start time.
    """
    count = 0
    for _ in every(0.01, within=_KILL_PATIENCE).tries():
        found = list(_left(path))
        if not found:
            break
        count += process.send_all(found, 9)
    return count


def _end_holders(path: str, lock: int) -> None:
    """End processes of the attempt that have its lock open: they keep us from ending the others."""
    for proc in list(_left(path)):
        if not process.runs(proc.pid, "run", path) and _has_open(proc.pid, os.fstat(lock)):
            process.send(proc.pid, proc.start, 9)


def _has_open(pid: int, file: os.stat_result) -> bool:
    try:
        return any(
            os.path.samestat(os.stat(f"/proc/{pid}/fd/{name}"), file)
            for name in os.listdir(f"/proc/{pid}/fd")
        )
    except OSError:
        return False


def _left(path: str) -> Iterator[process.Proc]:
    table = process.everyone()
    pipe = _pipe(path)
    if pipe and not _is_deserted(pipe, table):
        pipe = ""
    mine = _ancestors(table)
    number = mark.number(path)
    roots = {
        proc.pid: proc
        for proc in table.values()
        if proc.pid not in mine and (mark.carried(proc.pid) == number or _is_of(proc, path, pipe))
    }
    yield from roots.values()
    for proc in process.below(roots, table, mine):
        if proc.pid not in roots:
            yield proc


def _pipe(path: str) -> str:
    """Return what the system calls the agent's output pipe; "" when nobody knows.

    The supervisor noted it, or whoever wrote in its place: see `_is_deserted`.
    """
    begun = files.load(path, files.CLAIM) or {}
    if begun.get("boot") != process.boot_id():
        return ""
    agent = (files.load(path, files.STATE) or {}).get("agent")
    pipe = agent.get("pipe") if isinstance(agent, dict) else None
    return pipe if isinstance(pipe, str) and pipe.startswith("pipe:[") else ""


def _ancestors(table: dict[int, process.Proc]) -> set[int]:
    found = set()
    pid = os.getpid()
    while pid and pid not in found:
        found.add(pid)
        pid = table[pid].parent if pid in table else 0
    return found


def _is_of(proc: process.Proc, path: str, pipe: str) -> bool:
    if not process.of_user(proc.pid):
        return False
    if _is_marked(proc.pid, path) or (proc.session != proc.pid and _is_marked(proc.session, path)):
        return True
    if pipe and any(_link(proc.pid, fd) == pipe for fd in (1, 2)):
        return True
    # a forked stage of the supervisor carries no mark but its command line
    return process.runs(proc.pid, "run", path)


def _is_marked(pid: int, path: str) -> bool:
    """Whether a process was started with the name of the worker's folder in its environment.

    So were the agent and what it has started, and nobody can write that into another process.
    """
    marker = b"OUTPOST_WORKER_DIR=" + os.fsencode(path)
    marks = process.read(pid, "environ").split(b"\0")
    return marker in marks or marker + b"/" + files.EXCHANGE.encode() in marks


def _is_deserted(pipe: str, table: dict[int, process.Proc]) -> bool:
    """Whether nobody reads from a pipe: so it is with that of a supervisor which is dead.

    The pipe of somebody's program, which an agent names in its place, has a reader.
    """
    for pid in table:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for name in names:
            if _link(pid, int(name)) == pipe and _reads(pid, name):
                return False
    return True


def _reads(pid: int, fd: str) -> bool:
    for line in process.read(pid, f"fdinfo/{fd}").splitlines():
        if line.startswith(b"flags:"):
            return int(line.split()[1], 8) & os.O_ACCMODE != os.O_WRONLY
    return False


def _link(pid: int, fd: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return ""
