"""What the tests of the emulator share: Google's own client, and small programs as images."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud import run_v2

from outpost_cloudrun.options import Auth, CloudRunOptions
from outpost_cloudrun.testing.emulator import Emulator, emulating
from outpost_cloudrun.testing.knobs import Image

PARENT = "projects/proj-1/locations/us-central1"
IMAGE = "us-central1-docker.pkg.dev/proj-1/outpost/worker:1"

#: The program of `smallserver`.
SERVER = (Path(__file__).parent / "smallserver.py").read_text()


def program(code: str) -> Image:
    """Return an image whose program is some Python; its arguments are the container's."""
    return Image(entrypoint=(sys.executable, "-c", code))


@contextmanager
def emulated(folder: Path, code: str = SERVER, **settings: Any) -> Iterator[Emulator]:
    """An emulator in which every image that tests use is one program."""
    given = {"tokens": False, "images": {IMAGE: program(code)}, **settings}
    with emulating(folder, **given) as google:
        yield google


def options(google: Emulator, **more: Any) -> CloudRunOptions:
    """Return options of an outpost at an emulator, with a login of its metadata server."""
    given = {
        "project": "proj-1", "region": "us-central1", "service": "worker", "image": IMAGE,
        "endpoint": google.admin, "auth": Auth.METADATA, **more,
    }  # fmt: skip
    return CloudRunOptions(**given)


def client(google: Emulator, kind: Any) -> Any:
    """Return one of Google's own clients, such as `run_v2.JobsClient`."""
    return kind(
        credentials=AnonymousCredentials(), transport="rest",
        client_options={"api_endpoint": google.admin},
    )  # fmt: skip


def container(**more: Any) -> run_v2.Container:
    resources = run_v2.ResourceRequirements(limits={"cpu": "1", "memory": "512Mi"}, cpu_idle=True)
    return run_v2.Container(**{"image": IMAGE, "resources": resources, **more})


def job(
    *args: str, retries: int = 0, seconds: int = 600, token: str = "", **more: Any
) -> run_v2.Job:
    task = run_v2.TaskTemplate(
        containers=[container(args=list(args), **more)], max_retries=retries,
        timeout={"seconds": seconds},
    )  # fmt: skip
    return run_v2.Job(template=run_v2.ExecutionTemplate(template=task), start_execution_token=token)


def service(name: str, *, most: int = 2, least: int = 0, concurrency: int = 2, seconds: int = 60,
            region: str = "us-central1", **more: Any) -> run_v2.Service:  # fmt: skip
    template = run_v2.RevisionTemplate(
        containers=[container(**more)], max_instance_request_concurrency=concurrency,
        timeout={"seconds": seconds},
    )  # fmt: skip
    return run_v2.Service(
        name=f"projects/proj-1/locations/{region}/services/{name}", template=template,
        scaling=run_v2.ServiceScaling(min_instance_count=least, max_instance_count=most),
    )  # fmt: skip


def deploy(google: Emulator, made: run_v2.Service) -> str:
    """Deploy a service with Google's client, and return its address."""
    services = client(google, run_v2.ServicesClient)
    asked = run_v2.UpdateServiceRequest(service=made, allow_missing=True)
    return str(services.update_service(asked).result(timeout=60).uri)
