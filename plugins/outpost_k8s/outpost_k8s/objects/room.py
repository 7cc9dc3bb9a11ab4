"""Whether a worker fits: on a node, and into a namespace's quotas. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from outpost_k8s.objects.quantities import amount

#: Names of a quota for what a pod asks for, and the name of that in its requests or limits.
_QUOTAS: Final = {
    "cpu": ("requests", "cpu"),
    "memory": ("requests", "memory"),
    **{
        f"{kind}.{what}": (kind, what)
        for kind in ("requests", "limits")
        for what in ("cpu", "memory", "ephemeral-storage")
    },
}
_ONE_EACH: Final = ("pods", "count/pods", "count/jobs.batch", "secrets", "count/secrets")


def why_not(node: Mapping[str, Any], pod: Mapping[str, Any]) -> str:
    """Return why a node can never take a pod, in a word; "" when it can, once it is empty.

    Args:
        node: as the API tells it.
        pod: the spec of the pod.
    """
    labels = _map(_map(node, "metadata"), "labels")
    if any(labels.get(key) != value for key, value in _map(pod, "nodeSelector").items()):
        return "node_selector"
    spec = _map(node, "spec")
    if spec.get("unschedulable") is True:
        return "cordoned"
    tolerations = _list(pod.get("tolerations"))
    for taint in _list(spec.get("taints")):
        if taint.get("effect") != "PreferNoSchedule" and not _tolerated(taint, tolerations):
            return f"taint {str(taint.get('key'))[:80]}"
    allocatable = _map(_map(node, "status"), "allocatable")
    for what, asked in requests(pod).items():
        if what in allocatable and asked > (amount(allocatable[what]) or 0.0):
            return what
        if what not in allocatable and "/" in what:  # a device, such as nvidia.com/gpu
            return what
    return ""


def requests(pod: Mapping[str, Any], kind: str = "requests") -> dict[str, float]:
    """Return what a pod's containers ask for, or may use at most (`limits`)."""
    found: dict[str, float] = {}
    for container in _list(pod.get("containers")):
        resources = _map(container, "resources")
        limits = _map(resources, "limits")
        said = limits | _map(resources, kind) if kind == "requests" else limits
        for what, quantity in said.items():
            found[what] = found.get(what, 0.0) + (amount(quantity) or 0.0)
    return found


def workers_left(
    quotas: Iterable[Mapping[str, Any]], pod: Mapping[str, Any]
) -> tuple[int, str] | None:
    """Return for how many more workers there is room, and which quota says so; None for any.

    Args:
        quotas: the namespace's ResourceQuotas. Those with a scope are for other pods, perhaps, and
            count as if they were for these.
        pod: the spec of a worker's pod.
    """
    asked = {kind: requests(pod, kind) for kind in ("requests", "limits")}
    found: tuple[int, str] | None = None
    for quota in quotas:
        status = _map(quota, "status")
        used = _map(status, "used")
        for what, quantity in _map(status, "hard").items():
            kind, resource = _QUOTAS.get(what, ("", ""))
            each = 1.0 if what in _ONE_EACH else asked.get(kind, {}).get(resource, 0.0)
            hard = amount(quantity)
            if not each or hard is None:
                continue
            left = max(0, int((hard - (amount(used.get(what)) or 0.0)) / each + 1e-9))
            if found is None or left < found[0]:
                found = (left, str(what)[:60])
    return found


def _tolerated(taint: Mapping[str, Any], tolerations: Sequence[Mapping[str, Any]]) -> bool:
    return any(
        (each.get("effect") or taint.get("effect")) == taint.get("effect")
        and (not each.get("key") or each.get("key") == taint.get("key"))
        and (
            each.get("operator") == "Exists"
            or (each.get("value") or "") == (taint.get("value") or "")
        )
        for each in tolerations
    )


def _map(thing: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = thing.get(key)
    return dict(found) if isinstance(found, Mapping) else {}


def _list(found: object) -> list[Mapping[str, Any]]:
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []
