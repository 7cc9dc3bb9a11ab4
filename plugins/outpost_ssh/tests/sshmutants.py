"""SSH outposts that are broken as near sides have been: each must fail the check meant for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from outpost_core.backend import Backend
from outpost_core.errors import UnreachableError
from outpost_core.hookspecs import API_VERSION, hookimpl
from outpost_core.types import Order, Result, State, WorkerStatus
from outpost_ssh.options import SshOptions
from outpost_ssh.outpost import SshOutpost

OUTPOST_API: Final = API_VERSION


class SpawnsAnewWithoutAnAnswer(SshOutpost):
    """Takes a spawn without an answer for one that failed, and starts the next attempt."""

    type = "mutant-spawns-anew"

    async def call(self, method, params=None, *, repeat=True):  # type: ignore[no-untyped-def]
        """Ask once."""
        return await super().call(method, params, repeat=repeat and method != "spawn")

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Spawn, under another id when that is not answered."""
        try:
            return await super().outpost_spawn(order)
        except UnreachableError as error:
            if not error.sent:
                raise
            return await super().outpost_spawn(replace(order, attempt=order.attempt + 1))


class LostWhenUnreachable(SshOutpost):
    """Takes a host that does not answer for one whose workers are gone."""

    type = "mutant-lost-when-unreachable"

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """List, and guess when that is not possible."""
        try:
            self.known = await super().outpost_list()
        except UnreachableError:
            lost = Result(state=State.LOST, reason="lost_process")
            return [replace(one, state=State.LOST, result=lost) for one in self.known]
        return self.known

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Spawn, and keep in mind what there is."""
        status = await super().outpost_spawn(order)
        self.known = await super().outpost_list()
        return status


class BeginsAgainTooEarly(SshOutpost):
    """Continues with a log on a new line from somewhat before where it was."""

    type = "mutant-begins-again-too-early"

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield what there is, and after a break the last bytes once more."""
        while True:
            line = await self.client()
            async with aclosing(super().outpost_logs(worker, offset, follow)) as stream:
                async for chunk in stream:
                    yield chunk
                    offset += len(chunk)
                    if await self.client() is not line:
                        offset = max(0, offset - 10)
                        break
                else:
                    return


#: The outpost, the check that catches it, and part of what that says.
MUTANTS: Final = (
    (SpawnsAnewWithoutAnAnswer, "faults.spawn_killed_at_local_launched", "ran 2 times"),
    (LostWhenUnreachable, "list.unreachable_is_not_dead", "answered ['lost']"),
    (BeginsAgainTooEarly, "logs.follow_across_a_cut", "bytes came"),
)


@hookimpl
def outpost_backends() -> Mapping[str, Backend]:
    """Offer every mutant as a type."""
    return {
        outpost.type: Backend(
            type=outpost.type,
            options=SshOptions,
            build=outpost,
            summary=(outpost.__doc__ or "").strip(),
            capabilities=outpost.capabilities,
        )
        for outpost, _, _ in MUTANTS
    }
