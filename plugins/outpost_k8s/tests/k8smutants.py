"""Kubernetes outposts that are broken as near sides have been: each must fail its check."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from outpost_core.backend import Backend
from outpost_core.errors import ConflictError, UnreachableError
from outpost_core.hookspecs import API_VERSION, hookimpl
from outpost_core.types import Order, Result, State, WorkerStatus
from outpost_k8s.options import K8sOptions
from outpost_k8s.outpost import K8sOutpost

OUTPOST_API: Final = API_VERSION


class LostWhenUnreachable(K8sOutpost):
    """Takes an API server that does not answer for one whose Jobs are gone."""

    type = "mutant-lost-when-unreachable"

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """List, and guess when that is not possible."""
        try:
            self.known = await super().outpost_list()
        except UnreachableError:
            lost = Result(state=State.LOST, reason="k8s_deleted")
            return [replace(one, state=State.LOST, result=lost) for one in self.known]
        return self.known


class AdoptsWhateverIsThere(K8sOutpost):
    """Takes the Job of that name for the worker's, whatever order it was made of."""

    type = "mutant-adopts-whatever-is-there"

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Spawn, and believe the name."""
        try:
            return await super().outpost_spawn(order)
        except ConflictError:
            return WorkerStatus(id=order.worker, state=State.STARTING)


class ForgetsTheOffset(K8sOutpost):
    """Reads the log of an ended worker from its beginning, wherever it is asked for."""

    type = "mutant-forgets-the-offset"

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield all there is."""
        async with aclosing(super().outpost_logs(worker, 0, follow)) as pieces:
            async for piece in pieces:
                yield piece


#: Each with the check that catches it, and what that says.
MUTANTS: Final = (
    (LostWhenUnreachable, "list.unreachable_is_not_dead", "list"),
    (AdoptsWhateverIsThere, "spawn.refuses_another_order", ""),
    (ForgetsTheOffset, "logs.resumes_at_any_offset", ""),
)


@hookimpl
def outpost_backends() -> dict[str, Backend]:
    """Return the broken types."""
    return {
        outpost.type: Backend(
            type=outpost.type, options=K8sOptions, build=outpost, summary="broken",
            capabilities=outpost.capabilities,
        )
        for outpost, _, _ in MUTANTS
    }  # fmt: skip
