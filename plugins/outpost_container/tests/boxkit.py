"""A container as an outpost: the image's own worker program, spoken to by `podman exec -i`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

from peers.containers import CONFINED, PATIENCE, Container, Containers, Image

from outpost_core.backend import BuildContext
from outpost_core.types import Agent, Delivery, Issue, Order, Result, Secrets
from outpost_exec.options import ExecOptions
from outpost_exec.outpost import ExecOutpost

CAPABILITIES = ("rig", "checkpoint", "secrets", "interactive", "clean", "facts")
SERVE = ("outpost-enter", "python", "-m", "outpost_worker", "serve")


class Rig:
    """A repository that is served over loopback, also to push to.

    Attributes:
        path: the bare repository.
        url: as a container reaches it.
    """

    def __init__(self, path: Path, url: str) -> None:
        self.path = path
        self.url = url

    def git(self, *args: str) -> str:
        done = subprocess.run(
            ["git", "-C", self.path, *args], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()


@contextlib.contextmanager
def served_rig(folder: Path) -> Iterator[Rig]:
    """Have a repository with one commit on `main`, served by `git daemon`."""
    path, seed = folder / "rig.git", folder / "seed"
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")

    def git(at: Path, *args: str) -> None:
        subprocess.run(["git", *identity, *args], cwd=at, check=True)

    git(folder, "init", "-q", "--bare", "-b", "main", str(path))
    git(folder, "clone", "-q", str(path), str(seed))
    (seed / "notes.txt").write_text("first line\n")
    git(seed, "add", ".")
    git(seed, "commit", "-q", "-m", "The first")
    git(seed, "push", "-q", "origin", "HEAD:main")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        [
            *("git", "daemon", "--export-all", "--enable=receive-pack", "--reuseaddr"),
            *("--listen=127.0.0.1", f"--port={port}", f"--base-path={folder}"),
            *("--log-destination=none", str(folder)),
        ],
        stdin=subprocess.DEVNULL,
    ) as daemon:
        try:
            _wait_open(port)
            yield Rig(path, f"git://127.0.0.1:{port}/rig.git")
        finally:
            daemon.terminate()


def _wait_open(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


@contextlib.contextmanager
def box(
    containers: Containers, image: Image, *, options: tuple[str, ...] = CONFINED
) -> Iterator[Container]:
    """Have a container in which nothing runs yet."""
    made = containers.start(
        image.id, "--", "outpost-enter", "sleep", "infinity", options=options, entrypoint="tini"
    )
    try:
        yield made
    finally:
        made.remove()


@contextlib.asynccontextmanager
async def outpost(
    containers: Containers, inside: Container, folder: Path
) -> AsyncIterator[ExecOutpost]:
    """Have the outpost that a container is, as `type: exec` makes it."""
    variables = [f"{name}={value}" for name, value in containers.env.items()]
    options = ExecOptions(
        command=("env", *variables, "podman", "exec", "-i", inside.id, *SERVE),
        capabilities=CAPABILITIES,
        start_timeout=PATIENCE,
    )
    made = ExecOutpost("box", options, BuildContext(state_dir=folder / "near", config_dir=folder))
    try:
        yield made
    finally:
        await made.outpost_close()


def order(
    rig: Rig | None,
    *argv: str,
    agent: Agent | None = None,
    env: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
) -> Order:
    """Return an order for an agent's command."""
    return Order(
        issue=Issue(id="gt-1", title="Add a line", text="Add a second line to notes.txt."),
        rig=rig.url if rig else None,
        agent=agent or Agent(argv=argv),
        prompt="Add a second line to notes.txt.",
        delivery=Delivery(branch="polecat/gt-1", message="gt-1: Add a line"),
        env=dict(env or {}),
        secrets=Secrets(dict(secrets or {})),
    )


async def result(place: ExecOutpost, worker: str, seconds: float = 2 * PATIENCE) -> Result:
    """Wait for a worker's end."""
    deadline = time.monotonic() + seconds
    while True:
        (found,) = [one for one in await place.outpost_list() if one.id == worker]
        if found.result is not None:
            return found.result
        assert time.monotonic() < deadline, (found, await log(place, worker))
        await asyncio.sleep(0.05)


async def log(place: ExecOutpost, worker: str, *, follow: bool = False) -> str:
    """Return what an agent printed."""
    stream = place.outpost_logs(worker=worker, offset=0, follow=follow)
    return b"".join([piece async for piece in stream]).decode()
