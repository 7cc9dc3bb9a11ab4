"""What `outpost doctor` says of a cluster without a further question to it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from outpost_core.names import redact
from outpost_core.types import Finding

if TYPE_CHECKING:
    from outpost_core.errors import OutpostError
    from outpost_k8s.api.client import Cluster
    from outpost_k8s.options import K8sOptions

#: Versions of Kubernetes: the first in which a Job waits for its pod's end before it makes another
#: (podReplacementPolicy, https://kubernetes.io/docs/concepts/workloads/controllers/job/).
LEAST: Final = (1, 29)
#: Seconds of difference between the clocks that are worth a word, and that break logins.
WORTH_SAYING: Final = 5.0
WRONG: Final = 300.0
_VERSION: Final = re.compile(r"v?(\d{1,3})\.(\d{1,3})")


def of_version(version: str, cluster: Cluster) -> Finding:
    """Return what is to be said of the cluster's version.

    Args:
        version: as it tells it, such as `v1.30.2`.
        cluster: the cluster.
    """
    match = _VERSION.match(version)
    old = match is not None and (int(match[1]), int(match[2])) < LEAST
    detail = f"Kubernetes {version} at {cluster.server} (context {cluster.context})"
    if old:
        detail += "; before 1.29 a Job may make a second pod while the first still runs"
    return Finding(
        check="cluster", ok=None if old else True, detail=detail,
        hint="update the cluster; the claim on the repository keeps workers from running twice"
        if old else "",
    )  # fmt: skip


def of_line(cluster: Cluster) -> list[Finding]:
    """Say where anybody in between could read orders and secrets, or answer for the cluster."""
    place, files = cluster.place, ", ".join(cluster.place.files)
    if place.server.startswith("http://"):
        detail = f"{place.server} is spoken to without encryption"
        return [Finding(check="connection", ok=None, detail=detail,
                        hint=f"name its https:// address in {files}")]  # fmt: skip
    if not place.insecure:
        return []
    detail = (
        "insecure-skip-tls-verify: nobody sees whether it is that server which answers, and whoever"
        " is in between can read orders, secrets and logins"
    )
    return [Finding(check="connection", ok=None, detail=detail,
                    hint=f"put its certificate-authority-data into {files} instead")]  # fmt: skip


def of_clock(skew: float | None) -> list[Finding]:
    """Compare the clocks.

    Args:
        skew: seconds that the cluster's clock is ahead; None where nobody knows.
    """
    if skew is None:
        return []
    if abs(skew) <= WORTH_SAYING:
        return [Finding(check="clock", ok=True, detail="as the cluster's")]
    side = "behind" if skew > 0 else "ahead of"
    wrong = abs(skew) > WRONG
    return [
        Finding(
            check="clock", ok=False if wrong else None,
            detail=f"this machine is {abs(skew):.0f} s {side} the cluster"
            + (", so that logins may be refused" if wrong else ""),
            hint="sudo timedatectl set-ntp true",
        )
    ]  # fmt: skip


def create_secret(namespace: str, name: str, keys: list[str]) -> str:
    """Return the command that makes a Secret which is missing, for people to complete."""
    if keys == [".dockerconfigjson"]:
        return f"kubectl -n {namespace} create secret docker-registry {name} --docker-server …"
    literals = " ".join(f"--from-file={key}=FILE" for key in keys)
    return f"kubectl -n {namespace} create secret generic {name} {literals}"


def of_rig(options: K8sOptions, rig: str) -> Finding:
    """Return what is to be said of a repository that workers would work on."""
    if rig.startswith(("/", "file://")):
        return Finding(check="rig", ok=True, detail=f"{redact(rig)} travels to the pod and back")
    detail = f"whether a pod may push to {redact(rig)} is seen by the first worker"
    given = options.git_credentials or options.git_secret
    hint = "" if given else "git at the worker has no login: git_credentials, or git_secret"
    return Finding(check="rig", ok=None, detail=detail, hint=hint)


def failed(check: str, error: OutpostError) -> Finding:
    """Return an error as what a check has found."""
    return Finding(check=check, ok=False, detail=error.message, hint=error.hint)
