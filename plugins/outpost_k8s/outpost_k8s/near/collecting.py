"""The work of a pod that waits for it to be fetched, because no remote took it.

Its output, its work and its result are brought here; only when all of that is on this disk is the
pod told that it need not stay. Killed before that, the next list does it again.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from outpost_core.types import Result, WorkerStatus
from outpost_k8s.near import seen
from outpost_k8s.near.pod import NoPodError
from outpost_shared import plain

if TYPE_CHECKING:
    from outpost_k8s.near.desk import Desk
    from outpost_k8s.near.harvest import Harvest
    from outpost_k8s.near.kept import Kept
    from outpost_k8s.near.look import Seen
    from outpost_k8s.near.pod import PodOutpost, Pods


class Collecting:
    """Fetches work from pods.

    Args:
        desk: of the outpost.
        pods: the channels into its pods.
        harvest: knows what an end costs.
    """

    def __init__(self, desk: Desk, pods: Pods, harvest: Harvest) -> None:
        self._desk = desk
        self._pods = pods
        self._harvest = harvest

    async def collect(self, kept: Kept, one: Seen, status: WorkerStatus) -> Result | str:
        """Bring home what a pod waits with; return how the worker ended, or what is done now.

        Args:
            kept: what is kept of the worker.
            one: what is at the cluster of it; its pod runs.
            status: what the pod says, with a result.

        Raises:
            OutpostError: it did not come; the next list tries it again.
        """
        assert one.pod is not None
        assert status.result is not None
        pod = self._pods.of(one.worker, one.pod)
        try:
            state = await pod.ask("x-state", {})
            if state.get("phase") != "lingering":
                return "it has ended, and that is put on record"
            if kept.order is None:  # where it goes is known to another machine
                return "its work waits to be fetched by the machine that ordered it"
            result = await self._brought(kept, one, pod, status.result)
            result = await asyncio.to_thread(kept.finish, result)
            await pod.call("x-collected", {"worker": one.worker})
        except NoPodError:
            return "its pod has ended"
        return result

    async def home(self, one: Seen, status: WorkerStatus) -> WorkerStatus:
        """Return the status of a worker whose rig is of this machine, once its work is in there.

        Until then it is at work, whatever its pod says; its checkpoints come home as well.

        Args:
            one: what is at the cluster of it; its pod runs.
            status: what the pod says.
        """
        from outpost_exec import rigs

        assert one.pod is not None
        (told,) = await rigs.bring_home(self._pods.of(one.worker, one.pod), [status])
        return told

    async def again(self, worker: str, pod: PodOutpost) -> None:
        """Tell a pod whose worker's end is kept here that its work was fetched.

        Raises:
            OutpostError: it was not told.
        """
        if (await pod.ask("x-state", {})).get("phase") == "lingering":
            await pod.call("x-collected", {"worker": worker})

    async def _brought(self, kept: Kept, one: Seen, pod: PodOutpost, result: Result) -> Result:
        from outpost_exec import rescue

        order = kept.order
        if not kept.has_log:
            with kept.staged_log() as staged:
                async for piece in pod.outpost_logs(worker=one.worker, offset=0, follow=False):
                    plain.write_all(staged.fd, piece)
                staged.keep(0)
        if order is not None:
            state = self._desk.context.state_dir.absolute()
            result = await rescue.fetch(pod, order, result, state, source=seen.uid(one.pod))
        now = await self._desk.cluster_now()
        return replace(result, cost_usd=self._harvest.cost(one, order, now))
