"""What a worker waits for that has not ended: pure, a part of `reasons.explain`."""

from __future__ import annotations

import re
from typing import Final

from outpost_core.types import State
from outpost_k8s.near import seen
from outpost_k8s.near.codes import REASONS, Why
from outpost_k8s.near.seen import Object

#: Label of a Job that Kueue admits.
QUEUE: Final = "kueue.x-k8s.io/queue-name"
#: What the scheduler says behind what is the matter: of preemption and of claims for devices.
_REST: Final = re.compile(
    r"\.? *(?:no new claims to deallocate|preemption:|not found$).*", re.DOTALL
)

#: How the API server begins: the name that it names is another one each time.
_NAMED: Final = re.compile(
    r'^(?:Error creating: )?(?:pods? "[^"]*" is (?:forbidden|invalid): )?', re.IGNORECASE
)

#: Reasons of a container that waits for its image.
_IMAGE: Final = frozenset(
    (
        *("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"),
        *("ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed"),
    )
)
#: What a registry's refusal says → what it is.
_IMAGE_ERRORS: Final = (
    ("invalidimagename", "its name is none"),
    ("invalid reference format", "its name is none"),
    ("errimageneverpull", "it is not on the node, and `image_pull_policy` is Never"),
    ("unauthorized", "the registry wants a login (`image_pull_secrets`)"),
    ("authentication required", "the registry wants a login (`image_pull_secrets`)"),
    ("denied", "the registry does not let the cluster have it (`image_pull_secrets`)"),
    ("403 forbidden", "the registry does not let the cluster have it (`image_pull_secrets`)"),
    ("toomanyrequests", "the registry gives out no more for a while"),
    ("manifest unknown", "the registry has no such image"),
    ("name unknown", "the registry has no such image"),
    ("not found", "the registry has no such image"),
    ("no match for platform", "it is for another kind of machine"),
    ("no space left", "the node's disk is full"),
    ("no such host", "the registry's name leads nowhere"),
    ("connection refused", "the registry does not answer"),
    ("timeout", "the registry does not answer"),
    ("certificate", "the node does not trust the registry's certificate"),
    ("signature", "its signature is not accepted"),
)
#: What a refused creation of a pod says → its code.
_CREATE_ERRORS: Final = (
    ("because it is being terminated", "k8s_namespace_terminating"),
    ("exceeded quota", "k8s_quota"),
    ("must specify", "k8s_quota"),  # a quota of what the pod does not say
    ("usage per container", "k8s_quota"),  # a LimitRange
    ("usage per pod", "k8s_quota"),
    ("limit to request ratio", "k8s_quota"),
    ("must be less than or equal to", "k8s_quota"),  # a LimitRange's default below what is asked
)


def _wait(reason: str, said: str, *, since: float | None, state: State = State.STARTING) -> Why:
    detail = REASONS[reason].words + (f": {said}" if said else "")
    return Why(state=state, detail=detail, reason=reason, since=since, began=False)


# --- a Job without a pod --------------------------------------------------------------------------


def of_job(job: Object, events: list[Object], workload: Object | None, position: int | None) -> Why:
    """Return what a Job waits for that has no pod."""
    since = seen.moment(job, "status", "startTime") or seen.created(job)
    if seen.is_going(job):
        return Why(state=State.STARTING, detail="its Job is being removed", began=False)
    if seen.part(job, "spec").get("suspend") is True:
        return _suspended(job, workload, position)
    refused = seen.latest(events, "FailedCreate")
    if refused:
        said = seen.words(refused, "message")
        return _wait(of_refusal(said), _NAMED.sub("", said), since=since)
    return Why(
        state=State.STARTING, detail="waits for its pod to be made", since=since, began=False
    )


def of_refusal(said: str) -> str:
    """Return the code of why a pod or a Job was not created.

    Args:
        said: the API server's message.
    """
    for mark, reason in _CREATE_ERRORS:
        if mark in said.lower():
            return reason
    return "k8s_admission"


def _suspended(job: Object, workload: Object | None, position: int | None) -> Why:
    queue = seen.words(job, "metadata", "labels", QUEUE)
    if not queue:
        return _wait("k8s_suspended", "", since=None, state=State.QUEUED)
    place = "" if position is None else f", {position} before it" if position else ", it is next"
    said = seen.words(_refused(workload), "message")
    told = f"queue {queue}{place}" + (f"; {said}" if said else "")
    return _wait("k8s_queued", told, since=None, state=State.QUEUED)


def _refused(workload: Object | None) -> Object:
    """Return the condition that says why Kueue does not admit a Workload."""
    for kind in ("QuotaReserved", "Admitted"):
        found = seen.any_condition(workload, kind)
        if seen.text(found, "status") == "False":
            return found
    return seen.condition(workload, "Evicted")


# --- a pod that has not begun ---------------------------------------------------------------------


def of_pod(pod: Object, events: list[Object]) -> Why:
    """Return what a pod waits for whose container does not run."""
    since = seen.created(pod)
    if seen.is_going(pod):
        return Why(state=State.STARTING, detail="its pod is being removed", since=None)
    scheduled = seen.any_condition(pod, "PodScheduled")
    if seen.text(scheduled, "status") != "True":
        return _unscheduled(scheduled, events, since)
    for status in seen.parts(pod, "status", "initContainerStatuses"):
        if (why := _of_init(status, since)) is not None:
            return why
    state = seen.part(seen.container(pod), "state", "waiting")
    why = _of_container(state, since)
    if why is not None:
        return why
    mount = seen.latest(events, "FailedMount", "FailedAttachVolume", "FailedMapVolume")
    if mount:
        said = seen.words(mount, "message")
        missing = ("secret " in said or "configmap " in said) and "not found" in said
        return _wait("k8s_config_missing" if missing else "k8s_volume", said, since=since)
    sandbox = seen.latest(events, "FailedCreatePodSandBox", "FailedCreatePodContainer")
    if sandbox:
        return _wait("k8s_start_failed", seen.words(sandbox, "message"), since=since)
    detail = "its image is being pulled" if seen.latest(events, "Pulling") else "its pod begins"
    return Why(state=State.STARTING, detail=detail, since=since)


def _unscheduled(scheduled: Object, events: list[Object], since: float | None) -> Why:
    reason = seen.text(scheduled, "reason")
    said = seen.words(scheduled, "message")
    if reason == "SchedulingGated":
        return _wait("k8s_gated", said, since=None, state=State.QUEUED)
    said = _REST.sub("", said)
    if not said:
        detail = "waits for the scheduler"
        return Why(state=State.STARTING, detail=detail, since=since, began=False)
    if "persistentvolumeclaim" in said.lower() or "volume" in said.lower():
        return _wait("k8s_volume", said, since=since)
    if seen.latest(events, "TriggeredScaleUp"):
        said += "; the cluster's autoscaler adds a node"
    elif seen.latest(events, "NotTriggerScaleUp"):
        said += "; the cluster's autoscaler adds no node for it"
    return _wait("k8s_unschedulable", said, since=since)


def _of_init(status: Object, since: float | None) -> Why | None:
    """Return what is the matter with an init container; None when it is done."""
    if seen.part(status, "state", "terminated") or status.get("ready") is True:
        return None
    name = seen.words(status, "name")
    waits = seen.part(status, "state", "waiting")
    if waits:
        return _of_container(waits, since)
    return Why(state=State.STARTING, detail=f"its init container {name} runs", since=since)


def _of_container(waits: Object, since: float | None) -> Why | None:
    """Return what a container waits for, where it says that."""
    reason, said = seen.text(waits, "reason"), seen.words(waits, "message")
    if reason in _IMAGE:
        return _wait("k8s_image_pull", _image_error(reason, said), since=since)
    if reason == "CreateContainerConfigError":
        return _wait("k8s_config_missing", said, since=since)
    if reason.endswith("Error") or reason == "CrashLoopBackOff":
        return _wait("k8s_start_failed", f"{reason} {said}".strip(), since=since)
    return None


def _image_error(reason: str, said: str) -> str:
    """Return which trouble with an image it is, and the cluster's words."""
    text = f"{reason} {said}".lower()
    for mark, words in _IMAGE_ERRORS:
        if mark in text:
            return f"{words} ({said})" if said else words
    return said or reason


# --- a pod that runs ------------------------------------------------------------------------------


def running(job: Object | None, pod: Object) -> Why:
    """Return how a worker is whose container runs, as far as the cluster knows."""
    state = seen.part(seen.container(pod), "state")
    started = seen.moment(state, "running", "startedAt")
    return Why(state=State.WORKING, detail=_running(job, pod), started=started)


def _running(job: Object | None, pod: Object) -> str:
    silent = silent_since(pod)
    if silent is not None:
        going = "; its pod is given up" if seen.is_going(pod) else ""
        return f"its node does not answer since {seen.at(silent)}{going}"
    if seen.is_going(pod):
        disruption = seen.condition(pod, "DisruptionTarget")
        said = seen.words(disruption, "message") or seen.words(disruption, "reason")
        if not said and seen.text(seen.condition(job, "FailureTarget"), "reason"):
            said = seen.words(seen.condition(job, "FailureTarget"), "message")
        if not said and (job is None or seen.is_going(job)):
            said = "its Job was deleted"
        return f"its pod is being ended: {said}" if said else "its pod is being ended"
    if seen.terminated(pod):
        return "its container has ended"
    return ""


def silent_since(pod: Object) -> float | None:
    """Return since when a pod's node does not answer; None while it does.

    The node controller then says that the pod is not ready, and leaves what the kubelet had said of
    its containers.
    """
    ready = seen.any_condition(pod, "Ready")
    contained = seen.condition(pod, "ContainersReady")
    if seen.text(pod, "status", "phase") == "Unknown" or (
        seen.text(ready, "status") in ("False", "Unknown") and contained
    ):
        return seen.moment(ready, "lastTransitionTime") or 0.0
    return None
