"""Repositories of this machine: they go into the pod before its worker begins, and the work comes
back out of it (`outpost_exec.rigs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from outpost_core.errors import SpawnRefusedError, UnreachableError
from outpost_k8s.near import look, seen
from outpost_k8s.near.pod import NoPodError
from outpost_k8s.near.reasons import explain
from outpost_shared.backoff import Backoff

if TYPE_CHECKING:
    from outpost_core.types import Order, WorkerStatus
    from outpost_k8s.near.look import Look
    from outpost_k8s.near.pod import Pods
    from outpost_k8s.near.seen import Object

#: Seconds that a spawn waits for its pod to begin, so that its repository can be brought.
PATIENCE: Final = 60.0


def travels(order: Order, name: str) -> bool:
    """Whether an order's rig is a repository of this machine.

    Args:
        order: the order.
        name: of the outpost, for messages.

    Raises:
        SpawnRefusedError: it is a path, and no repository: no pod could have it.
    """
    from outpost_exec import rigs
    from outpost_worker.hosting.sentrefs import local_path

    if rigs.travels(order, name):
        return True
    if order.rig is not None and local_path(order.rig) is not None:
        raise SpawnRefusedError(
            f"{order.rig} is no repository of this machine, and none that a pod could have",
            hint="--rig takes the path of a repository, or an address that pods can reach",
        )
    return False


async def bring(pods: Pods, looking: Look, job: Object, order: Order) -> WorkerStatus:
    """Bring an order's repository into its pod, and let its worker begin.

    Args:
        pods: the channels into the outpost's pods.
        looking: asks its cluster.
        job: the worker's Job.
        order: its order.

    Raises:
        SpawnRefusedError: it cannot be brought; the worker has not begun.
        UnreachableError: its pod does not run yet, or does not answer; the same spawn again goes
            on from there.
    """
    from outpost_exec import rigs

    async for _ in Backoff(0.2, 2.0, within=PATIENCE).rounds():
        pod = look.pod_of(job, await looking.pods(order.worker))
        if pod is None or not seen.is_running(pod):
            if pod is not None and seen.has_ended(pod):
                raise UnreachableError(f"the pod of {order.worker} has ended", hint="try again")
            continue
        inside = pods.of(order.worker, pod)
        try:
            await rigs.prepare(inside, order)
            return await rigs.spawned(inside, await inside.outpost_spawn(order=order))
        except NoPodError as error:
            raise UnreachableError(error.message, hint="it is tried again") from error
        except UnreachableError as error:
            error.sent = True  # its Job is there
            raise
    why = explain(job, pod)
    raise UnreachableError(
        f"{order.worker} waits: {why.detail or 'its pod does not run yet'}",
        hint="its repository is brought when its pod runs: the same command again, or"
        " `outpost up`, goes on from here",
    )
