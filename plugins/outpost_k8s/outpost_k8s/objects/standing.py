"""What of a Job has to be as it was sent, whatever a cluster's webhooks make of the rest. Pure.

A webhook may add labels, limits, another registry, further containers. It may not have a worker run
twice, under other words, or where nobody finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from outpost_k8s.objects import difference, names

#: What makes a Job one attempt.
_ONCE: Final = ("backoffLimit", "completions", "parallelism", "podReplacementPolicy")
#: What says whose it is.
_LABELS: Final = (names.MANAGED_BY, names.NAME, names.WORKER)
_ANNOTATIONS: Final = (names.ID, names.DIGEST, names.OWNER, names.ORDER)


def undone(sent: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return what a worker stands on and is not as it was sent, `where is this and not that` each.

    Args:
        sent: the Job as it was sent.
        found: as the server has it, or would.
    """
    return difference.missing(_core(sent), _core(found))


def _core(job: Mapping[str, Any]) -> dict[str, Any]:
    metadata, spec = _map(job, "metadata"), _map(job, "spec")
    pod = _map(spec, "template", "spec")
    container: Mapping[str, Any] = {}
    for each in pod.get("containers") or ():
        if isinstance(each, Mapping) and each.get("name") == names.CONTAINER:
            container = each
    return {
        "metadata": {
            "labels": _some(_map(metadata, "labels"), _LABELS),
            "annotations": _some(_map(metadata, "annotations"), _ANNOTATIONS),
        },
        "spec": {
            **_some(spec, _ONCE),
            "template": {
                "metadata": {
                    "labels": _some(_map(spec, "template", "metadata", "labels"), _LABELS)
                },
                "spec": {
                    "restartPolicy": pod.get("restartPolicy"),
                    "worker": _some(container, ("command", "args")),
                },
            },
        },
    }


def _some(thing: Mapping[str, Any], wanted: tuple[str, ...]) -> dict[str, Any]:
    return {key: thing.get(key) for key in wanted}


def _map(thing: Mapping[str, Any], *where: str) -> Mapping[str, Any]:
    at: Any = thing
    for name in where:
        at = at.get(name) if isinstance(at, Mapping) else None
    return at if isinstance(at, Mapping) else {}
