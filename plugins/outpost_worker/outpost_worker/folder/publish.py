"""Puts an order into its worker's folder, once: create or adopt (law 1)."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outpost_agents import registry
from outpost_core import wire
from outpost_core.errors import ConflictError, OutpostError, PluginError, SpawnRefusedError
from outpost_core.types import Order
from outpost_shared import faults, private, process
from outpost_shared.leanjson import dumps
from outpost_worker.folder import files, seal
from outpost_worker.system import removal

#: Seconds after which a staging folder whose maker is gone is swept.
STALE = 600.0


def publish(
    root: Path,
    order: Order,
    env: Mapping[str, str],
    *,
    rig: str | None = None,
    fence: Mapping[str, Any] | None = None,
    wrap: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
) -> tuple[Path, bool]:
    """Make the folder of the order's worker, or adopt the one that is there.

    Any number of processes may do this at once for the same order: one makes it, the others
    adopt. Killed anywhere, it leaves at most a staging folder, which a later call sweeps.

    Args:
        root: where workers live; made when missing.
        order: the order; values of its secrets go to a file of their own.
        env: the base of the agent's environment, see `base_env`.
        rig: where the order's rig is on this machine; None when the order itself says it.
        fence: what the fence is to be, see `fence.places.Wanted`; None for the best
            that works here.
        wrap: what stands before the agent's command: `argv`, and `own_files` where that looks
            for the command among files of its own, see `launch.Wrapper`; None for nothing. It is
            no part of the order, so an adopted worker keeps the one that it has.
        record: the claim that the worker runs by, see `record.standing.launched`; None for a
            worker whose machine stays.

    Returns:
        The folder, and True when this call made it.

    Raises:
        ConflictError: the worker is there with another order.
        SpawnRefusedError: nothing here reads what its agent prints.
        NotPrivateError: somebody else could have written the state root.
        OSError: the folder cannot be written.
    """
    digest = wire.digest(order)
    word = os.urandom(8).hex()
    folder = root / files.WORKERS / order.worker
    private.claim(str(root))
    if folder.exists():
        return _adopt(folder, digest), False
    reader = _reader(order)
    staging = root / files.STAGING
    for path in (staging, folder.parent, root / files.TRASH, root / seal.SEALED):
        private.make(str(path))
    _sweep(root, staging)
    made = staging / f"{os.getpid()}.{word}"
    made.mkdir(mode=0o700)
    shown = False
    try:
        more = {"fence": fence, "wrap": wrap, "record": record}
        _fill(made, root, order, digest, env, reader, rig=rig, more=more)
        faults.point("local.staged")
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            return _adopt(folder, digest), False
        shown = True
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if not shown:
            seal.drop(str(root), word, order.worker)
    files.sync_folder(str(folder.parent))
    faults.point("local.published")
    return folder, True


def _reader(order: Order) -> dict[str, str] | None:
    """Return the reader of the agent's output as it travels; None where every worker has it.

    Raises:
        SpawnRefusedError: there is none here, so that nobody could say what the agent did.
    """
    output = order.agent.output
    if output == registry.PLAIN or output in registry.BUILT_IN or order.agent.interactive:
        return None
    try:
        reader = registry.travelling(output)
    except PluginError as error:
        raise SpawnRefusedError(error.message, hint=error.hint) from error
    if reader is None:
        raise SpawnRefusedError(
            f"no package that is installed here reads the output {output!a} of the agent",
            hint=f"install the package that adds the agent {order.agent.name}",
        )
    return reader


def _fill(
    folder: Path,
    root: Path,
    order: Order,
    digest: str,
    env: Mapping[str, str],
    reader: dict[str, str] | None,
    *,
    rig: str | None,
    more: Mapping[str, Mapping[str, Any] | None],
) -> None:
    path = str(folder)
    launch: dict[str, Any] = {
        "env": dict(env),
        "root": str(root.absolute()),
        "boot": process.boot_id(),
    }
    if rig is not None:
        launch["rig"] = rig
    launch |= {name: dict(value) for name, value in more.items() if value is not None}
    if reader is not None:
        launch["reader"] = reader
    launched = dumps(launch).encode("ascii")
    # a rescue after a restart of the machine needs to know where the rig is
    files.make(f"{path}/{files.LAUNCH}", launched, sync=rig is not None)
    os.mkdir(f"{path}/{files.EXCHANGE}", 0o700)
    if order.prompt:
        prompt = order.prompt.encode("utf-8", "surrogateescape")
        files.make(f"{path}/{files.EXCHANGE}/{files.PROMPT}", prompt)
    if order.secrets:
        secrets = dumps(dict(order.secrets)).encode("ascii")
        files.make(f"{path}/{files.SECRETS}", secrets)
    files.keep_room(path)
    body = wire.to_json(order)
    assert isinstance(body, dict)
    word = folder.name.partition(".")[2]
    about = dumps({**body, "digest": digest, "wire": wire.WIRE_VERSION, "seal": word})
    data = about.encode("ascii")
    # a worker without a repository has nothing to rescue after a restart of the machine
    with_rig = order.rig is not None
    seal.make(str(root), order.worker, word, digest, data, launched, sync=with_rig)
    # it outlives a restart of the machine, after which most of the rest is never used
    files.make(f"{path}/{files.ORDER}", data, sync=True)


def _adopt(folder: Path, digest: str) -> Path:
    try:
        there = files.examine(str(folder), files.ORDER)
    except files.Broken as error:
        raise OutpostError(
            f"worker {folder.name} is broken: {error.said}",
            hint="use --again for a further attempt",
        ) from None
    if there is None:
        raise OutpostError(
            f"{folder} is not the folder of a worker",
            hint=f"look at it, and remove it: rm -r {folder}",
        )
    if there.get("digest") != digest:
        raise ConflictError(
            f"worker {folder.name} is there already, with another order",
            hint="use --again for a further attempt, or the very same order to adopt it",
        )
    return folder


def _sweep(root: Path, staging: Path) -> None:
    """Remove what publishers left that were killed."""
    oldest = time.time() - STALE
    try:
        with os.scandir(staging) as entries:
            for entry in entries:
                pid, _, word = entry.name.partition(".")
                # what has no process in its name was discarded while the disk was full
                dead = not (pid.isascii() and pid.isdigit()) or not process.start_time(int(pid))
                try:
                    old = entry.stat(follow_symlinks=False).st_mtime < oldest
                except OSError:  # another one sweeps at the same time
                    continue
                if old and dead:
                    removal.remove(entry.path)
                    seal.drop(str(root), word.rpartition(".")[2])
    except OSError:
        return


def command(folder: Path, verb: str = "run") -> list[str]:
    """Return the argv that runs `verb` (`run`, `recover`, `stop`, `status`) for a worker.

    It contains no secrets and nothing of the order.
    """
    return [*interpreter(), verb, str(folder)]


def interpreter() -> list[str]:
    """Return the argv that runs verbs of a worker's command line, without the verb."""
    import sys

    import outpost_agents
    import outpost_core
    import outpost_shared

    worker = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    others = (outpost_agents, outpost_core, outpost_shared)
    folders = [worker, *(os.path.dirname(os.path.abspath(str(each.__file__))) for each in others)]
    boot = os.path.join(worker, "boot.py")
    _, *apart = dict.fromkeys(map(os.path.dirname, folders))
    where = ["-X", f"outpost={':'.join(apart)}"] if apart else []
    return [sys.executable, "-I", "-S", "-X", "utf8", *where, boot]
