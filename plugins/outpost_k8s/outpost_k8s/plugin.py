"""The entry point of the package: says what it builds, and imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outpost_core.backend import Backend, BuildContext, Dialogue
from outpost_core.hookspecs import hookimpl
from outpost_k8s.capabilities import CAPABILITIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outpost_k8s.options import K8sOptions

OUTPOST_API = 1


async def introduce(
    name: str, options: K8sOptions, context: BuildContext, dialogue: Dialogue
) -> Mapping[str, Any]:
    """Look at the cluster before it is added; see `outpost_k8s.introduce`."""
    from outpost_k8s import introduce as module

    return await module.introduce(name, options, context, dialogue)


@hookimpl
def outpost_backends() -> Backend:
    """Return the type `k8s`."""
    return Backend(
        type="k8s",
        options="outpost_k8s.options:K8sOptions",
        build="outpost_k8s.outpost:K8sOutpost",
        summary="Jobs of a Kubernetes cluster, one a worker",
        capabilities=CAPABILITIES,
        introduce=introduce,
    )
