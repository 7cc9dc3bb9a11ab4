"""The Kubernetes outpost: each worker is a Job."""

# ruff: noqa: ARG002
from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from outpost_core.backend import Outpost
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Health, Order, WorkerStatus
from outpost_k8s.capabilities import CAPABILITIES


class K8sOutpost(Outpost):
    """Workers in Jobs of a Kubernetes cluster."""

    type = "k8s"
    capabilities = CAPABILITIES

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Create or adopt the worker's Job."""
        raise NotImplementedError

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Return all workers."""
        raise NotImplementedError

    @hookimpl
    async def outpost_ping(self) -> Health:
        """Say whether the API server answers."""
        raise NotImplementedError

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield a worker's output."""
        pieces: list[bytes] = []
        for piece in pieces:
            yield piece

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:
        """Ask for the worker's end."""
        raise NotImplementedError
