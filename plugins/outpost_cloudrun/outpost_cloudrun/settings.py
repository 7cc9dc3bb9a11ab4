"""Every option of a Cloud Run outpost, as it is written; `options` checks them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from outpost_core.backend import OutpostOptions, option


class Mode(StrEnum):
    """Which of Cloud Run's resources runs a worker."""

    SERVICE = "service"
    JOB = "job"
    INSTANCE = "instance"


class Billing(StrEnum):
    """When a service's container is paid for: while it has requests, or while it exists."""

    REQUEST = "request"
    INSTANCE = "instance"


class KeepWarm(StrEnum):
    """What keeps a container of the service between two workers."""

    NONE = "none"
    STREAM = "stream"
    MIN_INSTANCES = "min-instances"


class Auth(StrEnum):
    """Whose identity the service is called with."""

    AUTO = "auto"
    METADATA = "metadata"
    SERVICE_ACCOUNT = "service-account"
    GCLOUD = "gcloud"
    TOKEN = "token"  # noqa: S105 - a word of the file
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Settings(OutpostOptions):
    """What is said of a Cloud Run outpost."""

    project: str = option("id of the Google Cloud project", default="", metavar="ID")
    region: str = option("region, such as us-central1", default="", metavar="REGION", each=True)
    service: str = option(
        "name of the service, with which the names of jobs and instances begin as well",
        default="", metavar="NAME",
    )  # fmt: skip
    mode: Mode = option(
        "what runs a worker. service: quickest, an hour, or a day with billing instance or resume;"
        " job: up to 168 hours; instance: without a limit",
        default=Mode.SERVICE,
    )
    image: str = option(
        "the container's image, as `outpost image build` makes it; needed to deploy a service, by"
        " jobs and by instances",
        default="", metavar="IMAGE",
    )  # fmt: skip
    cpu: float = option("size of a container in vCPUs: 1, 2, 4, 6, 8, or less than 1",
                        default=2.0, min=0.08, max=8)  # fmt: skip
    memory: int = option(
        "memory of a container; files that are written count too, unless there is a disk",
        default=4 << 30, unit="bytes", min=128 << 20, max=32 << 30,
    )  # fmt: skip
    concurrency: int = option("workers at once in one container of a service",
                              default=1, min=1, max=1000)  # fmt: skip
    billing: Billing = option(
        "when a service's container is paid for: while it has requests, or while it exists, which"
        " is cheaper by the second and goes on for some minutes after the work",
        default=Billing.REQUEST,
    )
    request_timeout: float = option(
        "how long one request of a service may take",
        default=3600.0, unit="duration", min=1, max=3600,
    )  # fmt: skip
    keep_warm: KeepWarm = option(
        "what keeps a container for the next worker. none: nothing; stream: a request that is held"
        " for warm_for after the last worker; min-instances: Google, always",
        default=KeepWarm.NONE,
    )
    warm_for: float = option(
        "how long a container is kept warm after the last worker, and this machine's connection",
        default=300.0, unit="duration", min=0, max=24 * 3600,
    )  # fmt: skip
    resume: bool = option(
        "continue a worker from its checkpoint by itself where its container was taken away",
        default=False,
    )
    bucket: str = option(
        "bucket of Cloud Storage for claims, results and logs, so that logs outlive the container",
        default="", metavar="NAME[/FOLDER]",
    )  # fmt: skip
    volume: str = option("NFS share for the same", default="", metavar="SERVER:/PATH")
    rig_reference: str = option(
        "path in the container of a read-only mirror or bundle of the rig: less is cloned",
        default="", metavar="PATH",
    )  # fmt: skip
    disk: int | None = option(
        "ephemeral disk of a container, so that clones take no memory",
        default=None, unit="bytes", min=1 << 30,
    )  # fmt: skip
    service_account: str = option("whom the container acts as", default="", metavar="EMAIL")
    secrets: dict[str, str] = option(
        "environment variable of the container, and the secret of Secret Manager that it gets:"
        " projects/P/secrets/S:VERSION",
        default={},
    )
    env: dict[str, str] = option("environment variables of the container", default={})
    labels: dict[str, str] = option("labels of what is created at Google", default={})
    git_credentials: tuple[str, ...] = option(
        "command of this machine that prints what git at the worker logs in with: a token, or a"
        " private key",
        default=(), metavar="ARGUMENT",
    )  # fmt: skip
    vpc: str = option(
        "network and subnet that the container's connections go through",
        default="", metavar="NETWORK/SUBNET",
    )  # fmt: skip
    launch_stage: str = option(
        "GA, BETA or ALPHA, where what is configured needs it", default="", metavar="STAGE"
    )
    prices: dict[str, str] = option(
        "prices in USD instead of Google's published ones: vcpu_second, gib_second,"
        " idle_vcpu_second, idle_gib_second, million_requests, disk_gib_second",
        default={},
    )
    url: str = option(
        "address of a service that is there already, or of any host that runs our container",
        default="", metavar="URL",
    )  # fmt: skip
    audience: str = option("audience of identity tokens, if it is not the address", default="")
    auth: Auth = option(
        "whose identity calls the service. auto: key_file, else this machine's credentials, else"
        " gcloud's; token: whoever has the container's OUTPOST_TOKEN, which is in key_file",
        default=Auth.AUTO,
    )
    key_file: Path | None = option(
        "key file of a service account, or with auth: token the file with the token",
        default=None,
        metavar="FILE",
    )
    endpoint: str = option("address of the Admin API, if it is not Google's",
                           default="", metavar="URL")  # fmt: skip
