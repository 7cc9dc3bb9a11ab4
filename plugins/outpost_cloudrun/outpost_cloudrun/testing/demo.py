"""`outpost demo --cloudrun`, `--cloudrun-containers`: a Cloud Run of this machine, no account."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from outpost_cloudrun.admin import specs
from outpost_cloudrun.admin.factory import open_admin
from outpost_cloudrun.options import Auth, CloudRunOptions
from outpost_cloudrun.testing.afterwards import cleared_up
from outpost_cloudrun.testing.emulator import Emulator, emulating
from outpost_cloudrun.testing.keepers import end_keeper
from outpost_cloudrun.testing.podman import Podman
from outpost_core import __version__
from outpost_core.errors import UsageError

_NAME: Final = "cloudrun"
_IMAGE: Final = "us-central1-docker.pkg.dev/demo-project/outpost/worker:demo"


@contextmanager
def processes(folder: Path, remote: Path) -> Iterator[Mapping[str, str]]:
    """A Cloud Run whose containers are processes; a place for `outpost demo`.

    Args:
        folder: the demo's.
        remote: the bare repository that it has made, there.

    Yields:
        `config`, the text of a configuration; `rig`, the repository's address for workers there;
        `says`, what there is to say of it.
    """
    with _place(folder, remote, None) as told:
        yield told


@contextmanager
def containers(folder: Path, remote: Path) -> Iterator[Mapping[str, str]]:
    """The same with containers of podman, of the image that `outpost image build` makes.

    Raises:
        UsageError: there is no podman, or no such image.
    """
    image = f"outpost-worker:{__version__}"
    if shutil.which("podman") is None:
        raise UsageError(
            "podman is not installed",
            hint="sudo apt-get install podman, or outpost demo --cloudrun, which needs none",
        )
    found = subprocess.run(["podman", "image", "exists", image], check=False, capture_output=True)
    if found.returncode:
        raise UsageError(
            f"podman has no image {image}",
            hint="outpost image build --engine podman, or outpost demo --cloudrun, without one",
        )
    with _place(folder, remote, Podman(image=image)) as told:
        yield told


@contextmanager
def _place(folder: Path, remote: Path, podman: Podman | None) -> Iterator[Mapping[str, str]]:
    state = folder / "state" / "outposts" / _NAME
    with (
        cleared_up(folder, state),
        emulating(folder / "google", podman=podman) as google,
        _told(google.environment),
    ):
        rigs = google.folder / "rigs"
        rigs.mkdir(exist_ok=True)
        (rigs / remote.name).symlink_to(remote)
        subprocess.run(
            ["git", "-C", str(remote), "config", "http.receivepack", "true"], check=True, timeout=60
        )
        options = CloudRunOptions(
            project="demo-project", region="us-central1", service="worker", image=_IMAGE,
            endpoint=google.admin, auth=Auth.METADATA, max_workers=1, cost_cap_hourly=5.0,
            warm_for=0.0,
        )  # fmt: skip
        asyncio.run(_deploy(options))
        try:
            yield {
                "config": _config(options),
                "rig": google.rigs.url(remote.stem),
                "says": _says(google, "processes" if podman is None else "podman's"),
            }
        finally:
            end_keeper(state)


async def _deploy(options: CloudRunOptions) -> None:
    async with open_admin(options, None) as admin:
        operation = await admin.patch_service(options.service, specs.service_body(options))
        while not operation.done:
            operation = await admin.operation(operation.name)


def _config(options: CloudRunOptions) -> str:
    told = ", ".join(
        f"{key}: {value}"
        for key, value in (
            ("name", _NAME),
            ("type", "cloudrun"),
            ("project", options.project),
            ("region", options.region),
            ("service", options.service),
            ("image", f'"{options.image}"'),
            ("endpoint", f'"{options.endpoint}"'),
            ("auth", options.auth.value),
            ("max_workers", options.max_workers),
            ("cost_cap_hourly", options.cost_cap_hourly),
            ("warm_for", 0),
        )
    )
    return f"outposts:\n  - {{{told}}}\n"


def _says(google: Emulator, what: str) -> str:
    return (
        f"A Cloud Run of this machine, without an account; containers are {what}:\n"
        f"  Admin API {google.admin}, service worker at {google.front('worker')}\n"
        f"  what it does stands in {google.folder / 'journal.ndjson'}"
    )


@contextmanager
def _told(environment: Mapping[str, str]) -> Iterator[None]:
    """Let this process, and what it starts, find all of it."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
