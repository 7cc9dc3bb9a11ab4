"""The entry point of the package: says what it builds, and imports nothing heavy."""

from __future__ import annotations

from outpost_core.backend import Backend
from outpost_core.hookspecs import hookimpl
from outpost_k8s.capabilities import CAPABILITIES

OUTPOST_API = 1


@hookimpl
def outpost_backends() -> Backend:
    """Return the type `k8s`."""
    return Backend(
        type="k8s",
        options="outpost_k8s.options:K8sOptions",
        build="outpost_k8s.outpost:K8sOutpost",
        summary="Jobs of a Kubernetes cluster, one a worker",
        capabilities=CAPABILITIES,
    )
