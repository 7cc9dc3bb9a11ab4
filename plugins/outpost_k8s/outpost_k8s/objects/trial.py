"""A worker that does nothing: to ask a cluster what it would do with one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from outpost_core.types import Agent, Issue, Order
from outpost_k8s.objects import job, names

if TYPE_CHECKING:
    from outpost_k8s.settings import Settings

#: The name of what is never made, and so is not in the way of itself or of a worker.
TRIAL: Final = "outpost-try"
#: The name of the pod that tries the image.
PROBE: Final = "outpost-probe"
#: Seconds after which the cluster ends it by itself, whatever becomes of us.
_LIFE: Final = 600
#: Says where programs are, and which Outpost is in the image, in the termination message.
_SCRIPT: Final = (
    'for name; do printf "%s\\t%s\\n" "$name" "$(command -v "$name" || true)"; done'
    " >/dev/termination-log; printf 'outpost\\t%s\\n' \"$(python -c"
    " 'import outpost_core, outpost_k8s.far; print(outpost_core.__version__)')\""
    " >>/dev/termination-log"
)


def order() -> Order:
    """Return the order of nobody."""
    return Order(issue=Issue(id="try"), agent=Agent(argv=("true",)))


def trial_job(options: Settings) -> dict[str, Any]:
    """Return the Job of a worker as the options make it."""
    made = job.job(options, order(), hosted=False)
    made["spec"]["suspend"] = True
    made["metadata"]["name"] = TRIAL
    return made


def trial_pod(options: Settings) -> dict[str, Any]:
    """Return the pod of such a Job, to ask what admission says of it."""
    template = job.job(options, order(), hosted=False)["spec"]["template"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": TRIAL, **template["metadata"]},
        "spec": template["spec"],
    }


def probe(options: Settings, programs: Sequence[str]) -> dict[str, Any]:
    """Return a pod like a worker's that only says which programs are in the image.

    Args:
        options: of the outpost.
        programs: their names.
    """
    pod = trial_pod(options)
    pod["metadata"] = {
        "name": PROBE,
        "labels": {**options.labels, names.MANAGED_BY: names.MANAGER, names.NAME: PROBE},
    }
    spec = dict(pod["spec"])
    spec["terminationGracePeriodSeconds"] = 1
    spec["activeDeadlineSeconds"] = _LIFE
    spec["volumes"] = [each for each in spec["volumes"] if each["name"] != "order"]
    containers = []
    for container in spec["containers"]:
        if container["name"] != names.CONTAINER:
            continue
        said = dict(container)
        said["command"] = ["/usr/bin/tini", "--", "sh", "-c", _SCRIPT, "sh", *programs]
        said["volumeMounts"] = [m for m in said["volumeMounts"] if m["name"] != "order"]
        containers.append(said)
    return pod | {"spec": spec | {"containers": containers}}


def programs_of(message: str) -> dict[str, str]:
    """Return by the probe's termination message where each program is; "" for nowhere.

    Args:
        message: what whoever wrote it wrote.
    """
    found = {}
    for line in message.splitlines()[:100]:
        name, tab, path = line.partition("\t")
        if tab and name.isprintable() and path.isprintable():
            found[name[:80]] = path[:200]
    return found
