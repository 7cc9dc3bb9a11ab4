"""How a worker ended that left no result, by what the cluster tells: pure; see `reasons`."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import Final

from outpost_core.types import State
from outpost_k8s.near import seen
from outpost_k8s.near.codes import REASONS, Why, killed_by
from outpost_k8s.near.seen import Object

#: Reasons of a pod (`status.reason`) → the code.
_POD: Final = {
    "Evicted": "k8s_evicted",
    "Preempting": "k8s_preempted",
    "NodeLost": "k8s_node_lost",
    "NodeShutdown": "k8s_node_shutdown",
    "Shutdown": "k8s_node_shutdown",
    "Terminated": "k8s_node_shutdown",
    "DeadlineExceeded": "k8s_deadline",
    "UnexpectedAdmissionError": "k8s_node_refused",
    "NodeAffinity": "k8s_node_refused",
    "TopologyAffinityError": "k8s_node_refused",
}
#: Reasons of the condition DisruptionTarget → the code.
_DISRUPTION: Final = {
    "PreemptionByScheduler": "k8s_preempted",
    "PreemptionByKubeScheduler": "k8s_preempted",
    "DeletionByTaintManager": "k8s_node_lost",
    "DeletionByPodGC": "k8s_node_lost",
    "EvictionByEvictionAPI": "k8s_evicted",
    "TerminationByKubelet": "k8s_evicted",
}
#: Reasons of events of a pod that is gone → the code.
_EVENTS: Final = {
    "Preempted": "k8s_preempted",
    "Evicted": "k8s_evicted",
    "TaintManagerEviction": "k8s_node_lost",
    "NodeNotReady": "k8s_node_lost",
}
#: Codes of an end that its own pod, or what it asked for, is to blame for.
_FAILED: Final = frozenset(
    ("k8s_oom_killed", "k8s_disk_full", "k8s_deadline", "k8s_init_failed", "k8s_start_failed")
)
#: Codes of an end that a worker's own last word does not know of: it was only told to end.
TAKEN: Final = frozenset(
    (
        *("k8s_evicted", "k8s_preempted", "k8s_node_lost", "k8s_node_shutdown", "k8s_disk_full"),
        *("k8s_deadline", "k8s_deleted", "k8s_suspended", "k8s_oom_killed"),
    )
)
#: What the kubelet says of a pod over its disk.
_DISK: Final = ("emptydir volume", "ephemeral local storage", "ephemeral storage usage")
#: Reasons of a container whose program never began.
_UNSTARTED: Final = frozenset(("StartError", "ContainerCannotRun", "CreateContainerError"))


def _end(reason: str, said: str, **more: object) -> Why:
    words = REASONS[reason].words
    return Why(
        state=State.FAILED if reason in _FAILED or more.get("began") is False else State.LOST,
        reason=reason,
        detail=reason,
        message=f"{words}: {said}" if said else words,
        **more,  # type: ignore[arg-type]
    )


def of_pod(job: Object | None, pod: Object) -> Why:
    """Return how a pod ended."""
    done = seen.terminated(pod)
    code, by = killed_by(seen.number(done, "exitCode"))
    why = _of_pod(job, pod, done, by)
    began = why.began
    if began is None and not seen.container(pod).get("containerID") and not done:
        began = False  # no container was ever made
    return replace(
        why,
        began=began,
        exit_code=code if began is None else None,
        signal=by if began is None else None,
        started=seen.moment(done, "startedAt"),
        finished=seen.moment(done, "finishedAt") or _transition(pod),
    )


def _of_pod(job: Object | None, pod: Object, done: Object, by: int | None) -> Why:
    said = seen.words(pod, "status", "message")
    reason = seen.text(done, "reason")
    failure = seen.condition(job, "FailureTarget") or seen.condition(job, "Failed")
    disruption = seen.condition(pod, "DisruptionTarget")
    told = seen.text(pod, "status", "reason")
    if reason == "OOMKilled":
        return _end("k8s_oom_killed", "")
    if told == "Evicted" and any(mark in said.lower() for mark in _DISK):
        return _end("k8s_disk_full", said)
    if told.startswith("OutOf"):  # OutOfcpu, OutOfpods …: it never began there
        return _end("k8s_node_refused", said or told, began=False)
    if seen.text(disruption, "reason") in _DISRUPTION and told != "Evicted":
        code = _DISRUPTION[seen.text(disruption, "reason")]
        return _end(code, said or seen.words(disruption, "message"))
    if told in _POD:
        return _end(_POD[told], said, began=False if _POD[told] == "k8s_node_refused" else None)
    if seen.text(failure, "reason") == "DeadlineExceeded":
        return _end("k8s_deadline", "")
    for status in seen.parts(pod, "status", "initContainerStatuses"):
        failed = seen.part(status, "state", "terminated")
        if failed and seen.number(failed, "exitCode") and status.get("restartPolicy") != "Always":
            return _end("k8s_init_failed", _init_words(status, failed), began=False)
    if reason in _UNSTARTED:
        return _end("k8s_start_failed", seen.words(done, "message"), began=False)
    if reason == "ContainerStatusUnknown":
        return _end("k8s_unknown", seen.words(done, "message"))
    if seen.is_going(pod):
        suspended = seen.part(job, "spec").get("suspend") is True
        return _end("k8s_suspended" if suspended else "k8s_deleted", "")
    return _left_nothing(done, by)


def _left_nothing(done: Object, by: int | None) -> Why:
    """Return the end of a container whose program left no result."""
    code = seen.number(done, "exitCode")
    if by == signal.SIGKILL:
        how = "was killed"
    elif by is not None:
        how = f"was ended by signal {by}"
    else:
        how = "ended" if code is None else f"ended with exit code {code}"
    said = seen.words(done, "message")
    return Why(
        state=State.LOST,
        reason="lost_process",
        detail="lost_process",
        message=f"its container {how} and left no result" + (f": {said}" if said else ""),
    )


def _init_words(status: Object, failed: Object) -> str:
    said = seen.words(failed, "message") or seen.words(failed, "reason")
    code = seen.number(failed, "exitCode")
    return f"{seen.words(status, 'name')} ended with exit code {code}: {said}"


def of_job(job: Object | None, events: list[Object]) -> Why | None:
    """Return how a worker ended whose Job has ended and whose pod is gone; None while it has not.

    What became of a pod that is gone is told by its events, as long as the cluster keeps those (an
    hour, as a rule).
    """
    failed = seen.condition(job, "Failed")
    complete = seen.condition(job, "Complete")
    finished = seen.moment(failed or complete, "lastTransitionTime")
    if failed and seen.text(failed, "reason") == "DeadlineExceeded":
        return replace(_end("k8s_deadline", ""), finished=finished)
    if failed:
        last = seen.latest(events, *_EVENTS)
        if last:
            code = _EVENTS[seen.text(last, "reason")]
            return replace(_end(code, seen.words(last, "message")), finished=finished)
        if seen.text(failed, "reason") == "PodFailurePolicy":  # it was disrupted; see `objects.job`
            return replace(_end("k8s_evicted", ""), finished=finished)
        return replace(gone("its pod"), finished=finished)
    if complete:
        message = "its pod ended well, and is gone with what it said"
        return Why(
            state=State.LOST,
            reason="lost_process",
            detail="lost_process",
            message=message,
            finished=finished,
        )
    return None


def gone(what: str) -> Why:
    """Return the end of a worker of which nothing is left at the cluster.

    Args:
        what: was deleted: its Job, or its pod.
    """
    how = "deleted or evicted" if what == "its pod" else "deleted"
    message = f"{what} was {how} at the cluster, not by Outpost, and left no result"
    return replace(_end("k8s_deleted", ""), message=message)


def _transition(pod: Object) -> float | None:
    """Return when a pod without a container of its own last changed."""
    moments = [
        moment
        for one in seen.parts(pod, "status", "conditions")
        if (moment := seen.moment(one, "lastTransitionTime")) is not None
    ]
    return max(moments, default=None)
