"""The worker of this pod: an outpost over its state folder, used by `run` and by `serve`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from outpost_core import wire
from outpost_core.backend import BuildContext, OutpostOptions
from outpost_core.errors import ConflictError, NotFoundError, OutpostError, SpawnRefusedError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Order, State, WorkerStatus
from outpost_k8s.far import podorder
from outpost_k8s.far.notes import Notes
from outpost_k8s.far.settings import Settings
from outpost_shared import programs
from outpost_worker.console.outpost import Console
from outpost_worker.console.tmux import Tmux
from outpost_worker.folder import files, status
from outpost_worker.hosting.outpost import Hosting
from outpost_worker.serving.capabilities import FOLDER_CAPABILITIES
from outpost_worker.serving.folderoutpost import FolderOutpost

#: What a worker is shown as that has no folder yet, by what `run` is at.
_BEFORE = {
    "waiting": "waits for its repository",
    "claiming": "is being claimed",
}


class PodWorkers(Hosting, Console):
    """The one worker of a pod.

    Args:
        name: what the outpost is called, for messages.
        settings: of this program.
    """

    type = "k8s-pod"
    capabilities = FOLDER_CAPABILITIES | {"attach", "nudge", "peek"}

    def __init__(self, name: str, settings: Settings) -> None:
        context = BuildContext(state_dir=settings.root)
        tmux = Tmux(settings.root) if shutil.which("tmux") else None
        super().__init__(name, OutpostOptions(), context, root=settings.root, tmux=tmux)
        self.notes = Notes(settings.root)
        self._settings = settings
        self._record: Mapping[str, Any] | None = None

    # --- what it is as an outpost over a folder ---------------------------------------------------

    def agent_env(self) -> Mapping[str, str]:
        """Return what whoever configures the outpost wants agents to have, and what all get."""
        return {**self._settings.agent_env, **programs.base_env(os.environ)}

    def fence(self, order: Order) -> Mapping[str, Any]:  # noqa: ARG002 - there is one
        """Return the fence that the environment asks for; what the Job mounts is hidden."""
        return self.fence_settings(self._settings.fence, hide=self._settings.hidden)

    def record(self, order: Order) -> Mapping[str, Any] | None:  # noqa: ARG002 - there is one
        """Return the claim that the worker runs by."""
        return self._record

    def run_by(self, record: Mapping[str, Any] | None) -> None:
        """Say by which claim the worker runs, see `record.standing.launched`; None for none."""
        self._record = record

    def prepare(self, order: Order, folder: Path) -> None:
        """Give the agent the pod's own secrets, besides those of its order, which win."""
        super().prepare(order, folder)
        if self._settings.secrets:
            both = {**self._settings.secrets, **order.secrets}
            files.store(str(folder), files.SECRETS, both)

    def status_of(self, worker: str) -> WorkerStatus:
        """Return how the worker is, whether its work was fetched or not.

        Raises:
            NotFoundError: it has no folder yet.
        """
        return FolderOutpost.adjust_status(self, status.read(self.folder_of(worker)))

    # --- what is asked by `serve` ---------------------------------------------------------------

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Return the worker, also while it has no folder yet."""
        found = await super().outpost_list()
        return found or self._before()

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:
        """Ask for the worker's end, whether it has begun or not."""
        if worker == self.own()[0]:
            self.notes.note_stop(grace)
        await super().outpost_stop(worker=worker, grace=grace)

    def own(self) -> tuple[str, str]:
        """Return the id of the worker of this pod and its order's digest; "" where none is known.

        Who execs into a pod may be here before `run` has said anything.
        """
        said = self.notes.state()
        if not said:
            try:
                order = podorder.read(self._settings).order
            except OutpostError:
                return "", ""
            return order.worker, wire.digest(order)
        return str(said.get("worker", "")), str(said.get("digest", ""))

    def _before(self) -> list[WorkerStatus]:
        said = self.notes.state()
        worker, detail = said.get("worker"), _BEFORE.get(str(said.get("phase")), "")
        if not isinstance(worker, str) or not detail:
            return []
        return [
            WorkerStatus(
                id=worker, state=State.QUEUED, digest=str(said.get("digest", "")), detail=detail
            )
        ]


class AskedWorkers(PodWorkers):
    """The same for who execs into the pod: nothing is started by it."""

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Let the worker of this pod begin, now that its repository is here.

        Raises:
            ConflictError: this pod has another order.
            SpawnRefusedError: this pod has another worker, or the repository is not here.
        """
        worker, digest = self.own()
        if worker != order.worker:
            raise SpawnRefusedError(f"this pod does not run {order.worker}")
        if digest != wire.digest(order):
            raise ConflictError(
                f"worker {order.worker} is there already, with another order",
                hint="use --again for a further attempt, or the very same order to adopt it",
            )
        if self._settings.hosted and self.rig_here(order) is None:
            raise SpawnRefusedError(f"the repository of {order.worker} was not brought")
        self.notes.note_brought(self.controller)
        try:
            return self.show(order.worker)
        except NotFoundError:
            return WorkerStatus(id=order.worker, state=State.QUEUED, digest=digest, detail="begins")
