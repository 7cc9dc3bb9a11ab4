"""The workers of this container: an outpost over its state folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outpost_cloudrun.server.settings import Settings
from outpost_core import wire
from outpost_core.backend import BuildContext, OutpostOptions
from outpost_core.errors import ConflictError
from outpost_core.types import Order, WorkerStatus
from outpost_shared import programs
from outpost_worker.folder import files, status
from outpost_worker.serving.folderoutpost import FolderOutpost


class Instance(FolderOutpost):
    """Workers of this container as detached processes, each in its folder.

    Args:
        settings: of this program.

    Attributes:
        id: this instance's own word, a new one with each start.
    """

    type = "container"

    def __init__(self, settings: Settings) -> None:
        context = BuildContext(state_dir=settings.root)
        name = settings.service or "this container"
        super().__init__(name, OutpostOptions(), context, root=settings.root)
        self._settings = settings
        self._records: dict[str, Mapping[str, Any]] = {}
        self.id = os.urandom(8).hex()

    def agent_env(self) -> Mapping[str, str]:
        """Return what the container's owner wants agents to have, besides what all get."""
        return {**self._settings.agent_env, **programs.base_env(os.environ)}

    def fence(self, order: Order) -> Mapping[str, Any]:  # noqa: ARG002 - it is the same for all
        """Return the fence that the environment asks for."""
        store = self._settings.store
        return self.fence_settings(
            self._settings.fence, hide=[store] if store.startswith("/") else []
        )

    def record(self, order: Order) -> Mapping[str, Any] | None:
        """Return the claim that a worker runs by, as it was said before."""
        return self._records.get(order.worker)

    def run_by(self, worker: str, record: Mapping[str, Any] | None) -> None:
        """Say by which claim a worker runs that is about to be spawned.

        Args:
            worker: its id.
            record: see `record.standing.launched`; None for none.
        """
        if record is None:
            self._records.pop(worker, None)
        else:
            self._records[worker] = record

    def prepare(self, order: Order, folder: Path) -> None:
        """Give the agent the container's own secrets, besides those of its order, which win."""
        if self._settings.secrets:
            both = {**self._settings.secrets, **order.secrets}
            files.store(str(folder), files.SECRETS, both)

    def status_of(self, worker: str) -> WorkerStatus:
        """Return the status of one worker as it may be reported.

        Raises:
            NotFoundError: it is not here.
        """
        return self.adjust_status(status.read(self.folder_of(worker)))

    def find(self, order: Order) -> WorkerStatus:
        """Return the status of an order's worker, which is not started where it is missing.

        Raises:
            NotFoundError: it is not here.
            ConflictError: it is here, with another order.
        """
        found = self.status_of(order.worker)
        if found.digest != wire.digest(order):
            raise ConflictError(
                f"worker {order.worker} is there already, with another order",
                hint="use --again for a further attempt",
            )
        return found

    def order_of(self, worker: str) -> dict[str, Any]:
        """Return the JSON of a worker's order; empty where nobody can say."""
        return files.order(str(self.folder_of(worker))) or {}
