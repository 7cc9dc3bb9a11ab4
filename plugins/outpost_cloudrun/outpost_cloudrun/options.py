"""What can be configured about a Cloud Run outpost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from outpost_core.backend import OutpostOptions, option

#: What a Cloud Run outpost can at most do.
CAPABILITIES: Final = frozenset(
    (
        *("clean", "price", "facts", "doctor", "bootstrap"),
        *("checkpoint", "rig", "secrets"),
    )
)


class Mode(StrEnum):
    """Which of Cloud Run's resources runs a worker."""

    SERVICE = "service"
    JOB = "job"
    INSTANCE = "instance"


class Billing(StrEnum):
    """When a service's instance is paid for: while it has requests, or while it exists."""

    REQUEST = "request"
    INSTANCE = "instance"


class KeepWarm(StrEnum):
    """What keeps an instance of the service between two workers."""

    NONE = "none"
    STREAM = "stream"
    MIN_INSTANCES = "min-instances"


class Auth(StrEnum):
    """Whose identity the service is called with."""

    AUTO = "auto"
    METADATA = "metadata"
    SERVICE_ACCOUNT = "service-account"
    GCLOUD = "gcloud"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class CloudRunOptions(OutpostOptions):
    """Options of an outpost of type `cloudrun`."""

    project: str = option("the Google Cloud project", default="")
    region: str = option("the region, such as us-central1", default="")
    service: str = option("the service's name, and the beginning of other names", default="")
    mode: Mode = option(
        "what runs a worker: a service (quickest, to an hour at a stretch), a job (to 168 h) or an"
        " instance (without a limit)",
        default=Mode.SERVICE,
    )
    image: str = option("the container's image, as `outpost image build` makes it", default="")
    cpu: float = option("vCPUs of a container", default=2.0, min=0.08, max=8)
    memory: int = option("memory of a container", default=4 << 30, unit="bytes", min=128 << 20)
    concurrency: int = option("workers at once in one container", default=1, min=1, max=1000)
    billing: Billing = option("when a service's container is paid for", default=Billing.REQUEST)
    request_timeout: float = option(
        "how long one request of a service may take; the worker goes on with the next",
        default=3600.0, unit="duration", min=10, max=3600,
    )  # fmt: skip
    keep_warm: KeepWarm = option("what keeps a container after its work", default=KeepWarm.NONE)
    warm_for: float = option(
        "how long a container is kept warm after the last worker", default=300.0, unit="duration"
    )
    resume: bool = option(
        "continue a worker from its checkpoint by itself where its container was taken away",
        default=False,
    )
    bucket: str = option("a bucket for claims, results and logs", default="")
    volume: str = option("an NFS share (SERVER:/PATH) for the same", default="")
    rig_reference: str = option(
        "a read-only mirror or bundle of the rig in the container, so that less is cloned",
        default="",
    )
    disk: int | None = option(
        "ephemeral disk, so that clones need no memory", default=None, unit="bytes"
    )
    service_account: str = option("whom the container acts as", default="")
    secrets: dict[str, str] = option(
        "environment variable: secret of Secret Manager (projects/P/secrets/S:VERSION)", default={}
    )
    env: dict[str, str] = option("environment variables of the container", default={})
    labels: dict[str, str] = option("labels of what is created", default={})
    git_credentials: tuple[str, ...] = option(
        "a command that prints what git at the worker logs in with: a token, or a private key",
        default=(), metavar="ARGUMENT",
    )  # fmt: skip
    vpc: str = option("network/subnet that the container's connections go through", default="")
    launch_stage: str = option("GA or BETA, where an option needs it", default="")
    prices: dict[str, str] = option("prices in USD that replace the table's", default={})
    url: str = option("a service that is already there, or any host of our container", default="")
    audience: str = option("audience of identity tokens, if it is not the URL", default="")
    auth: Auth = option("whose identity calls the service", default=Auth.AUTO)
    key_file: Path | None = option("a service account's key file", default=None, metavar="FILE")
    endpoint: str = option("address of the Admin API, if not Google's", default="")
