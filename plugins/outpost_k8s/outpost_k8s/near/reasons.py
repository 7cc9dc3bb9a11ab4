"""Why a worker waits, and why it ended, by what the cluster tells: pure.

Reads a Job, its pod and their events. Sources: the conditions, container states and event reasons
that kubelet, scheduler and controllers of Kubernetes 1.30 to 1.36 write; the tests have real
objects (`tests/data`).
"""

from __future__ import annotations

from collections.abc import Sequence

from outpost_k8s.near import ended, seen, waiting
from outpost_k8s.near.codes import Why
from outpost_k8s.near.seen import Object


def explain(
    job: Object | None,
    pod: Object | None,
    events: Sequence[Object] = (),
    *,
    workload: Object | None = None,
    position: int | None = None,
) -> Why:
    """Return how a worker is, or how it ended, by what the cluster tells.

    Args:
        job: its Job; None when there is none any more.
        pod: its pod; None when there is none.
        events: what happened to either of them, as far as that is known.
        workload: its Workload of Kueue, where it has one.
        position: its place in the queue, from 0; None when nobody says.
    """
    told = [*events]
    if pod is not None and seen.has_ended(pod):
        return ended.of_pod(job, pod)
    if pod is not None and (seen.is_running(pod) or seen.terminated(pod)):
        return waiting.running(job, pod)
    if (over := ended.of_job(job, told)) is not None and (pod is None or job is None):
        return over
    if pod is not None:
        return waiting.of_pod(pod, told)
    if job is None:
        return ended.gone("its Job")
    return waiting.of_job(job, told, workload, position)
