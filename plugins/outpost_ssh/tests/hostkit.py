"""A near side of its own, and hosts of a real sshd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peers.sshd import Sshd, sshd

from outpost_core.backend import BuildContext
from outpost_core.errors import OutpostError
from outpost_ssh.connection.host import RemoteHost, remote_host
from outpost_ssh.options import SshOptions


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the near side's own: no keys, no configuration, no agent."""
    folder = tmp_path / "near"
    (folder / ".ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    with sshd(tmp_path / "far") as made:
        yield made


def options(server: Sshd, **more: Any) -> SshOptions:
    values: dict[str, Any] = {
        "host": server.host, "port": server.port, "user": server.user, "ssh_key": server.key,
        "known_hosts": server.known_hosts, "config": Path(os.devnull), "connect_timeout": 20.0,
    }  # fmt: skip
    return SshOptions(**{k: v for k, v in (values | more).items() if v is not None})


def remote(options: SshOptions, name: str = "vm1") -> RemoteHost:
    return remote_host(name, options, BuildContext(state_dir=Path("/nowhere")))


@contextlib.asynccontextmanager
async def reached(options: SshOptions) -> AsyncIterator[RemoteHost]:
    made = remote(options)
    try:
        yield made
    finally:
        await made.aclose()


def refused(options: SshOptions) -> OutpostError:
    """Return the error of an attempt to connect."""

    async def work() -> OutpostError:
        async with reached(options) as made:
            with pytest.raises(OutpostError) as caught:
                await made.connection()
            return caught.value

    return asyncio.run(work())


def said(options: SshOptions, text: str = "echo hello") -> str:
    """Connect, run a script and return what it wrote."""

    async def work() -> str:
        async with reached(options) as made:
            return (await made.script(text, timeout=60)).stdout

    return asyncio.run(work())


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(work())  # type: ignore[arg-type]


@contextlib.contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A peer that is no sshd; `answer` gets each connection."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(0.1)
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    peer, _ = door.accept()
                    held.append(peer)
                    with contextlib.suppress(OSError):
                        answer(peer)

        held: list[socket.socket] = []
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield door.getsockname()[1]
        finally:
            over.set()
            thread.join()
            for peer in held:
                peer.close()


def keygen(path: Path, *words: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path, *words], check=True)
    return path


@contextlib.contextmanager
def agent(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Path]:
    """A real ssh-agent of the test's own."""
    where = folder / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", where], stdout=subprocess.PIPE, encoding="utf-8"
    )
    try:
        assert process.stdout is not None
        with process.stdout:  # its first line comes when it listens; the socket is there earlier
            assert process.stdout.readline()
        with monkeypatch.context() as context:
            context.setenv("SSH_AUTH_SOCK", str(where))
            yield where
    finally:
        process.terminate()
        process.wait()
