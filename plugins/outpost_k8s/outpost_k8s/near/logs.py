"""A worker's output, wherever it is: in its pod while that runs, and here once it has ended.

Offsets are those of the worker's own log, so a follower goes on where it was when its pod ends,
when the kubelet has rotated the container's log, or when the API server was away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from outpost_core.errors import NotFoundError, UnreachableError, UsageError
from outpost_core.types import Result
from outpost_k8s.near import seen
from outpost_k8s.near.look import Seen
from outpost_k8s.near.pod import NoPodError
from outpost_k8s.near.reasons import explain
from outpost_shared.backoff import Backoff, reaching_again

if TYPE_CHECKING:
    from outpost_k8s.near.desk import Desk
    from outpost_k8s.near.harvest import Harvest
    from outpost_k8s.near.kept import Kept
    from outpost_k8s.near.look import Look
    from outpost_k8s.near.pod import Pods

#: Seconds between two looks whether a worker has begun, or its end can be told: at first, at most.
_SOON: Final = 0.3
_LATE: Final = 5.0


class Logs:
    """Reads workers' output.

    Args:
        desk: of the outpost.
        pods: the channels into its pods.
        look: asks its cluster.
        harvest: brings home what has ended.
    """

    def __init__(self, desk: Desk, pods: Pods, look: Look, harvest: Harvest) -> None:
        self._desk = desk
        self._pods = pods
        self._look = look
        self._harvest = harvest

    async def read(self, worker: str, offset: int, *, follow: bool) -> AsyncIterator[bytes]:
        """Yield a worker's output from an offset on; see the hook `outpost_logs`.

        Raises:
            NotFoundError: there is no such worker.
            UnreachableError: no answer, without `follow`; or the outpost was closed.
        """
        pauses, trouble = Backoff(_SOON, _LATE), reaching_again()
        while True:
            try:
                kept = self._kept(worker)
                one = Seen(worker)
                if not (kept.result is not None and kept.has_log):
                    one = await self._look.one(worker)
                if await self._is_here(kept, one):
                    async for piece in self._from_here(kept, offset):
                        yield piece
                    return
                if seen.is_running(one.pod):
                    async with aclosing(self._from_pod(one, offset, follow)) as pieces:  # type: ignore[type-var]
                        async for piece in pieces:
                            offset += len(piece)
                            pauses.reset()
                            trouble.reset()
                            yield piece
                    return
            except NoPodError:
                pass  # it has ended meanwhile: what is left is brought here
            except UnreachableError:
                if not follow or self._desk.closed:
                    raise
                await trouble.wait()
                continue
            if not follow:
                return
            await pauses.wait()

    def _kept(self, worker: str) -> Kept:
        try:
            return self._desk.keeping.of(worker)
        except UsageError as error:
            raise NotFoundError(error.message) from None

    async def _is_here(self, kept: Kept, one: Seen) -> bool:
        """Whether a worker's output is here; brought here now if it has ended.

        Raises:
            NotFoundError: there is no such worker.
            UnreachableError: it has ended, and nobody can say how.
        """
        if kept.result is None:
            if one.job is None and one.pod is None and not kept.exists:
                raise NotFoundError(f"{kept.worker} is not a worker of {self._desk.name}")
            why = explain(one.job, one.pod, one.events)
            if not why.state.terminal or kept.ending is not None:
                return False
            end = await self._harvest.end(kept, one, why)
            if not isinstance(end, Result):
                raise UnreachableError(f"{kept.worker}: {end}", hint="try again")
        if not kept.has_log:
            await self._harvest.log(kept, one)
        return True

    async def _from_here(self, kept: Kept, offset: int) -> AsyncIterator[bytes]:
        start = kept.log_from
        if offset < start:
            yield (
                f"[outpost: {start} bytes of output before this are not kept: the node had rotated"
                " them away]\n"
            ).encode()
            offset = start
        while data := await asyncio.to_thread(kept.read_log, offset - start):
            offset += len(data)
            yield data

    async def _from_pod(self, one: Seen, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield output from a pod that runs.

        Raises:
            NoPodError: it runs no more, or the worker has not begun in it.
        """
        assert one.pod is not None
        pod = self._pods.of(one.worker, one.pod)
        try:
            read = pod.outpost_logs(worker=one.worker, offset=offset, follow=follow)
            async with aclosing(read) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    yield piece
        except NoPodError:
            raise
        except NotFoundError as error:
            raise NoPodError(error.message) from error
