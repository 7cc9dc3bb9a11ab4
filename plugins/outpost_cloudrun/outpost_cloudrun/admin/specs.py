"""The bodies of services, jobs and instances, made from an outpost's options. Pure.

Field names are of the API's v2 schema; https://cloud.google.com/run/docs/reference/rest.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from outpost_cloudrun.admin.names import TOKEN
from outpost_cloudrun.checking import secret_parts
from outpost_cloudrun.options import Billing, KeepWarm
from outpost_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_cloudrun.options import CloudRunOptions

#: Where volumes are in a container.
DISK: Final = "/outpost/disk"
VOLUME: Final = "/outpost/volume"
BUCKET: Final = "/outpost/bucket"
#: The port that the container listens on; the name makes Google speak HTTP/2 to it.
PORT: Final = 8080
#: Secrets of the container's own program.
_OWN_SECRETS: Final = frozenset(("OUTPOST_GIT_CREDENTIALS", "OUTPOST_TOKEN"))
#: Longest time of a job's task, in seconds.
LONGEST_TASK: Final = 168 * 3600


def service_body(options: CloudRunOptions) -> dict[str, Any]:
    """Return the service that the options describe.

    Raises:
        UsageError: an option cannot be said to Google.
    """
    most = most_instances(options)
    env = {"OUTPOST_SINGLE_INSTANCE": "1"} if most == 1 else {}
    container = _container(options, env, serving=True)
    container["resources"]["cpuIdle"] = options.billing is Billing.REQUEST
    container["resources"]["startupCpuBoost"] = True
    scaling = {"minInstanceCount": int(options.keep_warm is KeepWarm.MIN_INSTANCES)}
    if most is not None:
        scaling["maxInstanceCount"] = most
    body = _common(options) | {
        "scaling": scaling,
        "template": _place(options)
        | {
            "containers": [container],
            "timeout": f"{options.request_timeout:.0f}s",
            "maxInstanceRequestConcurrency": options.concurrency + _extra(options),
            "sessionAffinity": True,
            "executionEnvironment": "EXECUTION_ENVIRONMENT_GEN2",
        },
    }
    if options.audience:
        body["customAudiences"] = [options.audience]
    return body


def _extra(options: CloudRunOptions) -> int:
    """Return the requests that a container needs beside those of its workers.

    A stream that keeps it warm takes a place. Where there is one container at most, whatever is
    asked has to find a place in it; elsewhere it finds another one.
    """
    beside = int(options.keep_warm is KeepWarm.STREAM)
    if most_instances(options) == 1:
        beside += 8
    return min(beside, 1000 - options.concurrency)


def most_instances(options: CloudRunOptions) -> int | None:
    """Return how many containers of a service there may be at once; None for Google's default."""
    if options.max_workers is None:
        return None
    return max(math.ceil(options.max_workers / options.concurrency), 1)


def job_body(
    options: CloudRunOptions, env: Mapping[str, str], labels: Mapping[str, str], timeout: float
) -> dict[str, Any]:
    """Return a job that begins with its creation, and runs once.

    Args:
        options: of the outpost.
        env: variables that say what is to be done.
        labels: which worker it is.
        timeout: seconds that its task may take.

    Raises:
        UsageError: an option cannot be said to Google.
    """
    container = _container(options, env, serving=False) | {"args": ["job"]}
    task = _place(options) | {
        "containers": [container],
        "maxRetries": 0,  # Google's default of 3 would run a failed worker four times
        "timeout": f"{math.ceil(min(timeout, LONGEST_TASK))}s",
        "executionEnvironment": "EXECUTION_ENVIRONMENT_GEN2",
    }
    common = _common(options, labels)
    return common | {
        "startExecutionToken": TOKEN,
        "template": {
            "labels": common["labels"],
            "parallelism": 1,
            "taskCount": 1,
            "template": task,
        },
    }


def instance_body(
    options: CloudRunOptions, env: Mapping[str, str], labels: Mapping[str, str]
) -> dict[str, Any]:
    """Return an instance, which Google does not start again by itself; see `job_body`."""
    return (
        _common(options, labels, preview=True)
        | _place(options)
        | {
            "containers": [
                _container(options, {"OUTPOST_SINGLE_INSTANCE": "1", **env}, serving=True)
            ],
            "restartPolicy": "NEVER",  # the default restarts it, about every seven days
        }
    )


def _common(
    options: CloudRunOptions, labels: Mapping[str, str] | None = None, *, preview: bool = False
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "client": "outpost",
        "labels": {**options.labels, "managed-by": "outpost", **(labels or {})},
    }
    stage = options.launch_stage or ("BETA" if preview or options.disk is not None else "")
    if stage:
        body["launchStage"] = stage.upper()
    return body


def _place(options: CloudRunOptions) -> dict[str, Any]:
    """Return who the container acts as, its volumes and its network."""
    place: dict[str, Any] = {}
    if options.service_account:
        place["serviceAccount"] = options.service_account
    if volumes := [volume for volume, _ in _volumes(options)]:
        place["volumes"] = volumes
    if options.vpc:
        place["vpcAccess"] = _vpc(options.vpc)
    return place


def _vpc(said: str) -> dict[str, Any]:
    network, _, subnet = said.partition("/")
    interface = {"network": network, "subnetwork": subnet}
    return {"networkInterfaces": [interface], "egress": "PRIVATE_RANGES_ONLY"}


def _container(
    options: CloudRunOptions, env: Mapping[str, str], *, serving: bool
) -> dict[str, Any]:
    if not options.image:
        raise UsageError(
            "the outpost has no `image`",
            hint="outpost image build makes one; push it and write its address as `image`",
        )
    container: dict[str, Any] = {
        "image": options.image,
        "env": _env(options, env, serving=serving),
        "resources": {"limits": {"cpu": cpu(options.cpu), "memory": memory(options.memory)}},
    }
    if serving:
        container["ports"] = [{"name": "h2c", "containerPort": PORT}]
    if mounts := [mount for _, mount in _volumes(options)]:
        container["volumeMounts"] = mounts
    return container


def _env(
    options: CloudRunOptions, more: Mapping[str, str], *, serving: bool
) -> list[dict[str, Any]]:
    """Return the variables, sorted by name, so that the same options are the same body."""
    values: dict[str, str] = {}
    if options.bucket:
        values["OUTPOST_BUCKET"] = options.bucket
    if options.volume and serving:  # nobody near sees what a job leaves there
        values["OUTPOST_VOLUME"] = VOLUME
    if options.disk is not None:
        values["OUTPOST_ROOT"] = f"{DISK}/state"
    if options.rig_reference:
        values["OUTPOST_RIG_REFERENCE"] = options.rig_reference
    if options.secrets:  # agents get these; the program's own it takes by itself
        values["OUTPOST_SECRETS"] = ",".join(sorted(options.secrets.keys() - _OWN_SECRETS))
    values |= {**options.env, **more}
    made: dict[str, dict[str, Any]] = {
        name: {"name": name, "value": value} for name, value in values.items()
    }
    for name, secret in options.secrets.items():
        made[name] = {
            "name": name,
            "valueSource": {"secretKeyRef": secret_version(secret)},
        }
    return [made[name] for name in sorted(made)]


def secret_version(said: str) -> dict[str, str]:
    """Return secret and version of a secret as the option `secrets` writes it.

    Raises:
        UsageError: it is written otherwise.
    """
    project, name, version = secret_parts(said)
    return {"secret": f"projects/{project}/secrets/{name}", "version": version}


def _volumes(options: CloudRunOptions) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return each volume with its mount.

    The bucket is mounted only to be read, and only for a reference in it: git on it is not safe,
    and claims and results go through its own API.
    """
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    if options.disk is not None:
        empty = {"medium": "DISK", "sizeLimit": memory(options.disk)}
        found.append(({"name": "disk", "emptyDir": empty}, _mount("disk", DISK)))
    if options.volume:
        server, _, path = options.volume.partition(":")
        nfs = {"server": server, "path": path}
        found.append(({"name": "volume", "nfs": nfs}, _mount("volume", VOLUME)))
    if options.bucket and options.rig_reference.startswith(f"{BUCKET}/"):
        gcs = {"bucket": options.bucket.partition("/")[0], "readOnly": True}
        found.append(({"name": "bucket", "gcs": gcs}, _mount("bucket", BUCKET)))
    return found


def _mount(name: str, path: str) -> dict[str, str]:
    return {"name": name, "mountPath": path}


def cpu(cores: float) -> str:
    """Return vCPUs as Google writes them: `2`, `500m`."""
    return str(int(cores)) if cores == int(cores) else f"{round(cores * 1000)}m"


def memory(size: int) -> str:
    """Return bytes as Google writes them: `4Gi`, `512Mi`; rounded up to whole MiB."""
    mebibytes = math.ceil(size / (1 << 20))
    return f"{mebibytes // 1024}Gi" if mebibytes % 1024 == 0 else f"{mebibytes}Mi"
