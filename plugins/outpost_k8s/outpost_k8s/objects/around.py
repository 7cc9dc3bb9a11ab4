"""What a namespace has around its workers: who may start them, volumes, network, queue. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from outpost_k8s.objects import names, permissions, quantities, reach

if TYPE_CHECKING:
    from outpost_k8s.settings import Settings

#: The name of the service account that may start workers, of its Role and of their binding.
ACCOUNT: Final = "outpost"
POLICY: Final = "outpost-workers"
#: Labels by which a namespace says which pods it admits;
#: https://kubernetes.io/docs/concepts/security/pod-security-admission/
ENFORCE: Final = "pod-security.kubernetes.io/enforce"
RESTRICTED: Final = "restricted"
_RBAC: Final = "rbac.authorization.k8s.io"


def labels(options: Settings) -> dict[str, str]:
    """Return the labels of all that is made around workers."""
    return {**options.labels, names.MANAGED_BY: names.MANAGER, names.NAME: names.MANAGER}


def namespace(options: Settings, name: str, *, restricted: bool) -> dict[str, Any]:
    """Return the namespace; where it is restricted, no other pods than such are admitted."""
    found = labels(options)
    if restricted:
        found |= {ENFORCE: RESTRICTED, f"{ENFORCE}-version": "latest"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": found}}


def account(options: Settings) -> dict[str, Any]:
    """Return the service account that may start workers; pods of workers are not run as it."""
    return _object("v1", "ServiceAccount", ACCOUNT, options) | {
        "automountServiceAccountToken": False
    }


def role(options: Settings) -> dict[str, Any]:
    """Return the Role with what Outpost does, and nothing else."""
    made = _object(f"{_RBAC}/v1", "Role", ACCOUNT, options)
    return made | {"rules": permissions.rules()}


def binding(options: Settings, namespace: str) -> dict[str, Any]:
    """Return what gives the Role to the service account."""
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}
    return _object(f"{_RBAC}/v1", "RoleBinding", ACCOUNT, options) | {
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": ACCOUNT},
        "subjects": [subject],
    }


def claims(options: Settings) -> list[str]:
    """Return the names of the volumes' claims that the options name."""
    return [name for name in (options.volume, options.rig_cache.partition("/")[0]) if name]


def claim(options: Settings, name: str) -> dict[str, Any]:
    """Return the claim of a volume."""
    storage = {"storage": quantities.size(options.volume_size)}
    spec: dict[str, Any] = {
        "accessModes": [str(options.volume_access)],
        "resources": {"requests": storage},
    }
    if options.storage_class:
        spec["storageClassName"] = options.storage_class
    return _object("v1", "PersistentVolumeClaim", name, options) | {"spec": spec}


def policy(options: Settings) -> dict[str, Any]:
    """Return the NetworkPolicy of workers."""
    selector = {names.MANAGED_BY: names.MANAGER, names.NAME: names.WORKER_NAME}
    made = _object("networking.k8s.io/v1", "NetworkPolicy", POLICY, options)
    return made | {"spec": reach.policy(options.egress, selector)}


def queue(options: Settings, cluster_queue: str, version: str) -> dict[str, Any]:
    """Return the LocalQueue of Kueue.

    Args:
        options: of the outpost.
        cluster_queue: the ClusterQueue that it is a part of.
        version: group and version that the cluster serves.
    """
    made = _object(version, "LocalQueue", options.queue, options)
    return made | {"spec": {"clusterQueue": cluster_queue}}


def _object(version: str, kind: str, name: str, options: Settings) -> dict[str, Any]:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "labels": labels(options)},
    }
