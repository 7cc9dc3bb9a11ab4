"""The workers of a state folder as an outpost: what `python -m outpost_worker serve` serves.

It needs no more than the far side itself, so that it can be served wherever a worker can run: in a
container, in a sandbox, on a machine without tmux.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from outpost_core.backend import BuildContext, Outpost, OutpostOptions
from outpost_core.errors import NotFoundError, SpawnRefusedError, UsageError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import (
    Cleaned,
    Facts,
    Health,
    Json,
    Order,
    State,
    WorkerStatus,
    split_worker_id,
)
from outpost_shared import faults, private, programs
from outpost_worker.folder import files, logs, publish, status
from outpost_worker.recovery import cleaning
from outpost_worker.run import stop

#: Seconds after which a supervisor that has not begun, or a recovery that left no result, is
#: started again: both may have been killed in their first milliseconds.
AGAIN: Final = 30.0
#: What can be had of it.
CAPABILITIES: Final = frozenset(
    {"rig", "local_rig", "checkpoint", "secrets", "interactive", "clean", "facts"}
)


class FolderOutpost(Outpost):
    """Workers of this machine as detached processes, each in its folder.

    Args:
        name: what it is called, for messages.
        options: none.
        context: its `state_dir` is where the workers are.
        start: program and arguments that every supervisor is started with, such as
            `systemd-run --user --scope`; what they are given is executed, and they end with it.
    """

    type = "folder"
    capabilities = CAPABILITIES

    def __init__(
        self,
        name: str,
        options: OutpostOptions,
        context: BuildContext,
        start: Sequence[str] = (),
    ) -> None:
        super().__init__(name, options, context)
        self._root = context.state_dir.absolute()
        self._start_with = tuple(start)
        self._scanned: dict[str, Any] = {}
        self._again: dict[tuple[str, str], float] = {}  # (verb, worker) → time.monotonic()
        self._children: list[subprocess.Popen[bytes]] = []

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Publish the order as a worker's folder, and start its supervisor unless it has begun.

        Raises:
            ConflictError: the id exists with another order.
            SpawnRefusedError: nothing can be started here.
        """
        return await asyncio.to_thread(self._spawn, order)

    def _spawn(self, order: Order) -> WorkerStatus:
        try:
            private.claim(str(self._root))
        except OSError as error:
            why = f"the state folder {self._root} cannot be used: {error.strerror or error}"
            raise SpawnRefusedError(why) from error
        folder, _ = publish.publish(self._root, order, programs.base_env(os.environ))
        # not begun: it is new, or whoever made it was killed before it came to this line
        if not status.started(folder) and not status.needs_recovery(folder):
            self._again["run", order.worker] = time.monotonic() + AGAIN
            try:
                self._start(publish.command(folder))
            except OSError as error:
                self._take_back(folder, error)
            faults.point("local.launched")
        return self._certain(status.read(folder))

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Return all workers; those whose supervisor vanished are recovered from now on."""
        return await asyncio.to_thread(self.look)

    def look(self) -> list[WorkerStatus]:
        """Return all workers, as `outpost_list` does; for who has no event loop."""
        self._children = [child for child in self._children if child.poll() is None]
        return [self._certain(found) for found in status.scan(self._root, self._scanned)]

    @hookimpl
    async def outpost_ping(self) -> Health:
        """Say that a worker could be started."""
        return Health(ok=True, detail="detached processes")

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield the worker's output from byte `offset` on.

        Raises:
            NotFoundError: there is no such worker.
        """
        async for chunk in logs.follow(self._known(worker), offset, follow):
            yield chunk

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:
        """Ask the worker's supervisor to end its whole tree; an unknown worker is fine."""
        try:
            folder = self._known(worker)
        except NotFoundError:
            return
        await asyncio.to_thread(stop.request, folder, grace)
        self._certain(status.read(folder))  # without a supervisor, its recovery ends it

    @hookimpl
    async def outpost_clean(self, worker: str, force: bool) -> Cleaned:
        """Remove an ended worker's files, after its unpushed work was rescued."""
        try:
            folder = self._known(worker)
        except NotFoundError:
            left = await asyncio.to_thread(cleaning.leftovers, self._root, worker)
            return Cleaned(removed=force or not left, detail=left)
        return await asyncio.to_thread(cleaning.clean, self._root, folder, force=force)

    @hookimpl
    async def outpost_facts(self, programs: Sequence[str]) -> Facts:
        """Say how many processors there are, and where programs are, as a worker finds them."""
        found = {name: shutil.which(name) or "" for name in programs}
        return Facts(cpus=os.cpu_count(), programs=found)

    # --- inside -------------------------------------------------------------------------------

    def _known(self, worker: str) -> Path:
        try:
            split_worker_id(worker)
        except UsageError:
            folder = None
        else:
            folder = self._root / files.WORKERS / worker
        if folder is None or not os.path.lexists(folder):
            raise NotFoundError(f"{ascii(worker)[:120]} is not a worker of {self.name}")
        return folder

    def _certain(self, found: WorkerStatus) -> WorkerStatus:
        """Return a status as it may be told: never an end that is not certain."""
        if found.result is not None and found.result.finished_at is None:
            folder = self._root / files.WORKERS / found.id
            with cleaning.locked(folder) as nobody_is_at_it:
                start = nobody_is_at_it and self._is_due("recover", found.id)
            if start:
                self._start(publish.command(folder, "recover"))
            found = dataclasses.replace(found, result=None, detail="recovering")
            begun = State.WORKING
        elif found.result is None and found.started_at is None:
            begun = found.state
            self._start_forgotten(found.id)
        else:
            return found
        return dataclasses.replace(found, state=State.QUEUED if not found.started_at else begun)

    def _start_forgotten(self, worker: str) -> None:
        """Start what was published long ago and has not begun: whoever was to do it is gone."""
        folder = self._root / files.WORKERS / worker
        try:
            age = time.time() - (folder / files.ORDER).lstat().st_mtime
        except FileNotFoundError:  # cleaned meanwhile
            return
        if age > AGAIN and self._is_due("run", worker):
            self._start(publish.command(folder))

    def _is_due(self, verb: str, worker: str) -> bool:
        now = time.monotonic()
        due = now >= self._again.get((verb, worker), now)
        if due:
            self._again[verb, worker] = now + AGAIN
        return due

    def _start(self, argv: Sequence[str]) -> None:
        """Start what outlives this program: in a session of its own, with none of its pipes."""
        env = programs.own_env(os.environ)
        if asked := os.environ.get("OUTPOST_FAULT"):  # by tests, about where to crash
            env["OUTPOST_FAULT"] = asked
        null = subprocess.DEVNULL
        child = subprocess.Popen(
            [*self._start_with, *argv],
            env=env, cwd="/", stdin=null, stdout=null, stderr=null, start_new_session=True,
        )  # fmt: skip
        self._children.append(child)

    def _take_back(self, folder: Path, error: OSError) -> None:
        """Take back a worker that could not be started, so that another outpost may have it."""
        with cleaning.locked(folder) as mine:
            if not mine or status.started(folder):
                return  # somebody else started it
            cleaning.discard(self._root, folder)
        cleaning.empty_trash(self._root)
        raise SpawnRefusedError(
            f"{folder.name} cannot be started: {error.filename}: {error.strerror}"
        ) from error


def outpost(root: Path, start: Sequence[str] = (), name: str = "") -> FolderOutpost:
    """Return the outpost of a state folder; opens nothing.

    Args:
        root: the state folder.
        start: as of `FolderOutpost`.
        name: what it is called.
    """
    context = BuildContext(state_dir=root)
    return FolderOutpost(name or str(root), OutpostOptions(), context, start)


def serve(root: Path, start: Sequence[str]) -> int:
    """Serve the workers of a state folder on standard input and output; returns the exit code.

    Args:
        root: the state folder; made when it is missing.
        start: as of `FolderOutpost`.
    """
    from outpost_core import __version__
    from outpost_worker.serving import server

    def build(name: str, options: Mapping[str, Json]) -> Outpost:
        del options  # whoever starts this says all that there is to say
        return outpost(root, start, name)

    return server.main(build, server=f"outpost-worker {__version__}")
