"""The workers of a state folder as an outpost: what `python -m outpost_worker serve` serves.

It needs no more than the far side itself, so that it can be served wherever a worker can run: in a
container, in a sandbox, on a machine without tmux.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from outpost_core.backend import BuildContext, Outpost, OutpostOptions
from outpost_core.errors import NotFoundError, SpawnRefusedError, UsageError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Cleaned, Facts, Health, Json, Order, WorkerStatus, split_worker_id
from outpost_shared import faults, private, programs
from outpost_worker.folder import logs, publish, status
from outpost_worker.recovery import cleaning
from outpost_worker.recovery.attend import Attendant
from outpost_worker.run import stop

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
        self._attendant = Attendant(self._root, start)

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
        try:
            self._attendant.begin(folder)
        except OSError as error:
            self._take_back(folder, error)
        faults.point("local.launched")
        return self._attendant.certain(status.read(folder))

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Return all workers; those whose supervisor vanished are recovered from now on."""
        return await asyncio.to_thread(self._attendant.look)

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
        self._attendant.certain(status.read(folder))  # without a supervisor, its recovery ends it

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
            folder = self._attendant.folder(worker)
        if folder is None or not os.path.lexists(folder):
            raise NotFoundError(f"{ascii(worker)[:120]} is not a worker of {self.name}")
        return folder

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
