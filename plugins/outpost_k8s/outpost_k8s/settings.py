"""Every option of a Kubernetes outpost, as it is written; `options` checks them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from outpost_core.backend import OutpostOptions, option


class Access(StrEnum):
    """From where a volume can be mounted, as a claim of Kubernetes writes it."""

    MANY = "ReadWriteMany"
    ONCE = "ReadWriteOnce"


@dataclass(frozen=True, kw_only=True)
class Settings(OutpostOptions):
    """What is said of a Kubernetes outpost."""

    context: str = option("context of the kubeconfig; its current one without",
                          default="", metavar="NAME")  # fmt: skip
    kubeconfig: Path | None = option(
        "kubeconfig; without it $KUBECONFIG, ~/.kube/config, or the pod that this runs in",
        default=None, metavar="FILE",
    )  # fmt: skip
    namespace: str = option("namespace of the workers; the context's own without",
                            default="", metavar="NAME")  # fmt: skip
    image: str = option("the container's image, as `outpost image build` makes it",
                        default="", metavar="IMAGE")  # fmt: skip
    image_pull_policy: str = option(
        "Always, IfNotPresent or Never; the cluster's default without", default=""
    )
    image_pull_secrets: tuple[str, ...] = option(
        "Secrets of the namespace that the image is pulled with", default=(), metavar="NAME"
    )
    cpu: float = option("cores of a worker", default=2.0, min=0.01)
    memory: int = option("memory of a worker", default=4 << 30, unit="bytes", min=64 << 20)
    ephemeral_storage: int = option(
        "disk of a worker, for its clone and what it builds", default=10 << 30, unit="bytes",
        min=64 << 20,
    )  # fmt: skip
    service_account: str = option("service account of the pods; they get no token of it",
                                  default="", metavar="NAME")  # fmt: skip
    runtime_class: str = option("runtime class, such as gvisor or kata",
                                default="", metavar="NAME")  # fmt: skip
    node_selector: dict[str, str] = option("labels of the nodes that workers may use", default={})
    tolerations: tuple[str, ...] = option(
        "taints that workers bear: KEY[=VALUE][:EFFECT]", default=(), metavar="TAINT"
    )
    priority_class: object = option(
        "priority class of the pods: one name, or a map of names by the issue's priority (P0 to P4;"
        " `default` for the rest)",
        default="", metavar="NAME",
    )  # fmt: skip
    queue: str = option("LocalQueue of Kueue that the Jobs wait in", default="", metavar="NAME")
    volume: str = option(
        "claim of a volume for claims, results, logs and work that no remote took, so that they"
        " outlive the pod",
        default="", metavar="CLAIM",
    )  # fmt: skip
    rig_cache: str = option(
        "claim of a volume with mirrors of rigs, which workers read: less is cloned",
        default="", metavar="CLAIM[/FOLDER]",
    )  # fmt: skip
    storage_class: str = option("storage class of the volumes that bootstrap makes",
                                default="", metavar="NAME")  # fmt: skip
    volume_size: int = option("their size", default=20 << 30, unit="bytes", min=1 << 20)
    volume_access: Access = option(
        "who may mount them: nodes of any number, or one node at a time, which every storage class"
        " can do", default=Access.MANY,
    )  # fmt: skip
    secrets: dict[str, str] = option(
        "environment variable of the agent, and the Secret of the namespace that it gets:"
        " SECRET/KEY, or SECRET alone where the key is called like the variable",
        default={},
    )
    env: dict[str, str] = option("environment variables of the agent", default={})
    git_credentials: tuple[str, ...] = option(
        "command of this machine that prints what git at the worker logs in with: a token, or a"
        " private key",
        default=(), metavar="ARGUMENT",
    )  # fmt: skip
    git_secret: str = option(
        "the same from a Secret of the namespace: SECRET/KEY", default="", metavar="SECRET/KEY"
    )
    pod_template: object = option(
        "a part of a pod (`spec:`, `metadata:`), merged strategically into those of workers",
        default=None, metavar="JSON",
    )  # fmt: skip
    network_policy: bool = option(
        "bootstrap makes a NetworkPolicy: workers reach DNS, and public addresses by https and"
        " ssh, and nobody reaches them",
        default=True,
    )
    egress: tuple[str, ...] = option(
        "what workers reach besides, such as a git host of your network: ADDRESS[/BITS][:PORT]",
        default=(), metavar="PLACE",
    )  # fmt: skip
    ttl: float = option("how long an ended Job stays at the cluster",
                        default=7 * 86400.0, unit="duration", min=0)  # fmt: skip
    linger: float | None = option(
        "how long a pod whose work no remote took waits for it to be fetched, unless there is a"
        " `volume`; without it 24h, or 1h where an hour has a price, since each worker reserves it",
        default=None, unit="duration", min=0,
    )  # fmt: skip
    patience: float = option(
        "how long a pod may wait for a node before the worker is taken back, so that another"
        " outpost can take it; 0: as long as it takes",
        default=900.0, unit="duration", min=0,
    )  # fmt: skip
    labels: dict[str, str] = option("labels of what is made at the cluster", default={})
    price_per_hour: float | None = option("USD that an hour of a worker costs", default=None, min=0)
    prices: dict[str, str] = option(
        "USD by what a worker asks for: cpu_hour, gib_hour, storage_gib_hour", default={}
    )
    use_proxy: bool = option("heed HTTPS_PROXY and NO_PROXY", default=True)
