"""A worker's Job and the Secret with its order. Pure: the same order is the same object.

The pod meets the restricted Pod Security Standard
(https://kubernetes.io/docs/concepts/security/pod-security-standards/).
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from outpost_core import wire
from outpost_core.errors import SpawnRefusedError, UsageError
from outpost_k8s import price
from outpost_k8s.objects import names, podtemplate, quantities, told
from outpost_k8s.objects.tolerations import toleration

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_k8s.settings import Settings

#: Where volumes are in the container.
DISK: Final = "/outpost/disk"
ORDER: Final = "/outpost/order"
VOLUME: Final = "/outpost/volume"
RIGS: Final = "/outpost/rigs"
GIT: Final = "/outpost/git"
#: The key of the Secret, and the name of the file below ORDER or GIT, with what git logs in with.
GIT_CREDENTIALS: Final = "git-credentials"
BUNDLE: Final = "resume.bundle"
#: What the container runs; tini is not readable, so that nobody reads its environment.
PROGRAM: Final = ("/usr/bin/tini", "--", "outpost-enter", "python", "-m", "outpost_k8s.far", "run")
#: Most bytes of a Secret's values (`MaxSecretSize` of k8s.io/api/core/v1).
MOST_SECRET: Final = 1 << 20


def job(options: Settings, order: Order, *, hosted: bool) -> dict[str, Any]:
    """Return the Job that runs an order once.

    Args:
        options: of the outpost.
        order: what is to be done.
        hosted: its repository is on the caller's machine, and travels.

    Raises:
        SpawnRefusedError: it cannot be said to a cluster.
        UsageError: `pod_template` undoes something.
    """
    labels = worker_labels(options, order.worker)
    identity = {names.ID: order.worker, names.DIGEST: wire.digest(order), names.OWNER: order.owner}
    template: dict[str, Any] = {
        "metadata": {
            "labels": labels,
            "annotations": {
                **identity,
                names.SAFE_TO_EVICT: "false",
                names.DEFAULT_CONTAINER: names.CONTAINER,
            },
        },
        "spec": _pod(options, order, hosted=hosted),
    }
    partial = options.pod_template
    if isinstance(partial, Mapping):
        template = podtemplate.with_template(template, partial)
    spec: dict[str, Any] = {
        "backoffLimit": 0,
        "completions": 1,
        "parallelism": 1,
        "podReplacementPolicy": "Failed",
        # a pod that the cluster takes ends its Job as any other; that way the Job says so for as
        # long as it is there, which a pod that is gone does not
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                }
            ]
        },
        "activeDeadlineSeconds": math.ceil(price.longest(options, order)),
        "ttlSecondsAfterFinished": math.ceil(options.ttl),
        "template": template,
    }
    own = dict(labels)
    if options.queue:
        own[names.QUEUE] = options.queue
        spec["suspend"] = True
    annotations = {**identity, names.ORDER: told.told(order)}
    if hosted:
        annotations[names.HOSTED] = "true"
    made = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.job_name(order.worker),
            "labels": own,
            "annotations": annotations,
        },
        "spec": spec,
    }
    annotations[names.SPEC] = spec_hash(made)
    return made


def secret(
    options: Settings, order: Order, git_credentials: str = "", bundle: bytes = b""
) -> dict[str, Any]:
    """Return the Secret that the order travels in; it is called like the Job.

    Args:
        options: of the outpost.
        order: what is to be done, with its secrets' values.
        git_credentials: what git at the worker logs in with; "" for nothing.
        bundle: the work that it goes on from; b"" where that is on the rig, or there is none.

    Raises:
        SpawnRefusedError: it is too large for one.
    """
    values = {
        "order.json": wire.dumps(order),
        "secrets.json": json.dumps(dict(order.secrets), sort_keys=True),
    }
    if git_credentials:
        values[GIT_CREDENTIALS] = git_credentials
    data = {name: text.encode(errors="surrogateescape") for name, text in values.items()}
    if bundle:
        data[BUNDLE] = bundle
    total = sum(map(len, data.values()))
    if total > MOST_SECRET:
        raise SpawnRefusedError(
            f"the order has {total} bytes, and a Secret holds {MOST_SECRET}",
            hint="shorten the issue's text, or put what is long into the repository",
        )
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": names.job_name(order.worker),
            "labels": worker_labels(options, order.worker),
            "annotations": {
                names.ID: order.worker,
                names.DIGEST: wire.digest(order),
                names.OWNER: order.owner,
            },
        },
        "data": {name: base64.b64encode(value).decode("ascii") for name, value in data.items()},
    }


def owned(secret: Mapping[str, Any], job_uid: str) -> dict[str, Any]:
    """Return the merge patch that makes the worker's Job the owner of its Secret.

    Args:
        secret: as it was created.
        job_uid: the Job's uid; a Job that was made anew under the name is another one.
    """
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": secret["metadata"]["name"],
        "uid": job_uid,
        "blockOwnerDeletion": False,
        "controller": False,
    }
    return {"metadata": {"ownerReferences": [owner]}}


def spec_hash(job: Mapping[str, Any]) -> str:
    """Return the identity of a Job's spec as it is sent: 64 hex digits."""
    text = json.dumps(job["spec"], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def worker_labels(options: Settings, worker: str) -> dict[str, str]:
    """Return the labels of all that is made for a worker."""
    return {
        **options.labels,
        names.MANAGED_BY: names.MANAGER,
        names.NAME: names.WORKER_NAME,
        names.WORKER: names.worker_hash(worker),
    }


def secret_key(said: str, variable: str = "") -> tuple[str, str]:
    """Return name and key of `SECRET/KEY`; of `SECRET` alone the key is the variable's name."""
    name, _, key = said.partition("/")
    return name, key or variable


def priority_class(options: Settings, priority: int) -> str:
    """Return the priority class for an issue's priority; "" for the cluster's default."""
    said = options.priority_class
    if isinstance(said, Mapping):
        return str(said.get(f"P{priority}", said.get("default", "")))
    return str(said or "")


def _pod(options: Settings, order: Order, *, hosted: bool) -> dict[str, Any]:
    volumes, mounts = _volumes(options, order)
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": math.ceil(order.limits.grace) + price.LAST_CHECKPOINT,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": names.USER,
            "runAsGroup": names.USER,
            "fsGroup": names.USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(options, order, mounts, hosted=hosted)],
        "volumes": volumes,
    }
    said = {
        "serviceAccountName": options.service_account,
        "runtimeClassName": options.runtime_class,
        "priorityClassName": priority_class(options, order.issue.priority),
        "nodeSelector": dict(options.node_selector),
        "tolerations": [toleration(text) for text in options.tolerations],
        "imagePullSecrets": [{"name": name} for name in options.image_pull_secrets],
    }
    return spec | {key: value for key, value in said.items() if value}


def _container(
    options: Settings, order: Order, mounts: list[dict[str, Any]], *, hosted: bool
) -> dict[str, Any]:
    cpu, memory = price.size(options, order)
    sizes = {
        "cpu": quantities.cores(cpu),
        "memory": quantities.size(memory),
        "ephemeral-storage": quantities.size(options.ephemeral_storage),
    }
    container: dict[str, Any] = {
        "name": names.CONTAINER,
        "image": options.image,
        "command": list(PROGRAM),
        "env": _env(options, hosted=hosted),
        "resources": {"requests": sizes, "limits": dict(sizes)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    if options.image_pull_policy:
        container["imagePullPolicy"] = options.image_pull_policy
    return container


def _env(options: Settings, *, hosted: bool) -> list[dict[str, Any]]:
    """Return the variables, sorted by name, so that the same options are the same object."""
    values = {
        **options.env,
        "OUTPOST_SECRETS": ",".join(sorted(options.secrets)),
        "OUTPOST_LINGER": f"{price.linger(options):g}",
    }
    if hosted:
        values["OUTPOST_HOSTED"] = "1"
    if options.volume:
        values["OUTPOST_VOLUME"] = VOLUME
    if options.rig_cache and not hosted:
        folder = options.rig_cache.partition("/")[2]
        values["OUTPOST_RIG_REFERENCE"] = f"{RIGS}/{folder}".rstrip("/")
    made: dict[str, dict[str, Any]] = {
        name: {"name": name, "value": _literal(value)} for name, value in values.items()
    }
    for name, path in (("OUTPOST_K8S_POD", "metadata.name"), ("OUTPOST_K8S_UID", "metadata.uid")):
        made[name] = {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
    for name, said in options.secrets.items():
        secret_name, key = secret_key(said, name)
        reference = {"name": secret_name, "key": key}
        made[name] = {"name": name, "valueFrom": {"secretKeyRef": reference}}
    return [made[name] for name in sorted(made)]


def _literal(value: str) -> str:
    """Return a value so that the kubelet leaves it as it is: of `$(NAME)` and `$$` it does not."""
    return value.replace("$", "$$")


def _volumes(options: Settings, order: Order) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the volumes, and where they are in the container."""
    found: list[tuple[dict[str, Any], str, bool]] = []
    limit = {"sizeLimit": quantities.size(options.ephemeral_storage)}
    found.append(({"name": "disk", "emptyDir": limit}, DISK, False))
    found.append(({"name": "tmp", "emptyDir": {}}, "/tmp", False))  # noqa: S108
    own = {"secretName": names.job_name(order.worker), "defaultMode": 0o440}
    found.append(({"name": "order", "secret": own}, ORDER, True))
    if options.volume:
        claim = {"claimName": options.volume}
        found.append(({"name": "volume", "persistentVolumeClaim": claim}, VOLUME, False))
    if options.rig_cache:
        cache = {"claimName": options.rig_cache.partition("/")[0], "readOnly": True}
        found.append(({"name": "rigs", "persistentVolumeClaim": cache}, RIGS, True))
    if options.git_secret:
        name, key = secret_key(options.git_secret)
        if not key:
            raise UsageError(f"git_secret {name!a} has no key", hint="write SECRET/KEY")
        item = {"key": key, "path": GIT_CREDENTIALS}
        credentials = {"secretName": name, "items": [item], "defaultMode": 0o440}
        found.append(({"name": "git", "secret": credentials}, GIT, True))
    volumes = [volume for volume, _, _ in found]
    mounts = [
        {"name": volume["name"], "mountPath": path} | ({"readOnly": True} if read_only else {})
        for volume, path, read_only in found
    ]
    return volumes, mounts
