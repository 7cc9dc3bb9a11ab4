"""What is sent with a request that is no thing of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def delete_options(
    only: Mapping[str, str], propagation: str, grace: float | None, *, dry_run: bool
) -> dict[str, Any]:
    """Return how something is to be deleted.

    Args:
        only: `uid` and `resourceVersion` that it must have; empty ones do not count.
        propagation: what comes of what it owns.
        grace: seconds that a pod has to end; None for its own.
        dry_run: only say what would come of it.
    """
    options: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": propagation,
    }
    if conditions := {key: value for key, value in only.items() if value}:
        options["preconditions"] = conditions
    if grace is not None:
        options["gracePeriodSeconds"] = max(0, round(grace))
    if dry_run:
        options["dryRun"] = ["All"]
    return options


def access_review(
    verb: str, resource: str, subresource: str, group: str, namespace: str
) -> dict[str, Any]:
    """Return the question whether we may do something.

    Args:
        verb: such as `create`.
        resource: plural name.
        subresource: such as `exec`.
        group: API group; "" for the core one.
        namespace: "" for what belongs to the whole cluster.
    """
    what = {
        "verb": verb, "resource": resource, "subresource": subresource, "group": group,
        "namespace": namespace,
    }  # fmt: skip
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": what},
    }
