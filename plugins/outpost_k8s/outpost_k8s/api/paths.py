"""The address of a thing at the API server, from its plural name alone."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

#: Group and version of what we speak of; what is not here is of the core group.
_GROUPS: Final = {
    "jobs": "batch/v1",
    "cronjobs": "batch/v1",
    "statefulsets": "apps/v1",
    "roles": "rbac.authorization.k8s.io/v1",
    "rolebindings": "rbac.authorization.k8s.io/v1",
    "networkpolicies": "networking.k8s.io/v1",
    "storageclasses": "storage.k8s.io/v1",
    "runtimeclasses": "node.k8s.io/v1",
    "priorityclasses": "scheduling.k8s.io/v1",
    "localqueues": "kueue.x-k8s.io/v1beta1",
    "clusterqueues": "kueue.x-k8s.io/v1beta1",
    "workloads": "kueue.x-k8s.io/v1beta1",
    "selfsubjectaccessreviews": "authorization.k8s.io/v1",
    "selfsubjectrulesreviews": "authorization.k8s.io/v1",
}


def path(resource: str, namespace: str = "", name: str = "", sub: str = "", group: str = "") -> str:
    """Return the path of a kind of thing, of one of it, or of a part of that.

    Args:
        resource: plural name, such as `jobs`.
        namespace: where it is; "" for what belongs to the whole cluster, or to find it everywhere.
        name: of the one; "" for all of them.
        sub: subresource, such as `log`.
        group: group and version, where it is another than usual: `kueue.x-k8s.io/v1beta2`.
    """
    group = group or _GROUPS.get(resource, "v1")
    parts = ["", "apis" if "/" in group else "api", group]
    if namespace:
        parts += ["namespaces", quote(namespace, safe="")]
    parts.append(resource)
    parts += [quote(part, safe="") for part in (name, sub) if part]
    return "/".join(parts)
