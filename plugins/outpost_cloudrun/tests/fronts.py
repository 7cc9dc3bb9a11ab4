"""A real front: nghttpx, with TLS and HTTP/2 on loopback, before a server of the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from outpost_cloudrun.testing.tls import make_certificate


@dataclass(frozen=True)
class Certificate:
    """A certificate for 127.0.0.1 that is its own authority."""

    key: Path
    cert: Path

    def trusting(self) -> ssl.SSLContext:
        """Settings of a client that trusts it."""
        return ssl.create_default_context(cafile=str(self.cert))

    def serving(self, *protocols: str) -> ssl.SSLContext:
        """Settings of a server."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


def certificate(folder: Path) -> Certificate:
    files = Certificate(folder / "front.key", folder / "front.crt")
    make_certificate(files.key, files.cert, "worker.example", "other.example")
    return files


class Front:
    """An nghttpx that runs.

    Attributes:
        port: where it listens.
        process: its first process.
    """

    def __init__(self, port: int, backend: int, files: Certificate, options: tuple[str, ...]):
        self.port = port
        self.process: asyncio.subprocess.Process | None = None
        self._files = files
        self._argv = [
            "nghttpx",
            "--conf=/dev/null",
            f"--frontend=127.0.0.1,{port}",
            f"--backend=127.0.0.1,{backend};;proto=h2",
            "--backend-connections-per-host=1000",
            "--no-ocsp",
            "--log-level=ERROR",
            f"--errorlog-file={files.key.parent / 'nghttpx.log'}",
            *options,
            str(files.key),
            str(files.cert),
        ]

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(*self._argv, start_new_session=True)
        async with asyncio.timeout(30):
            while True:
                assert self.process.returncode is None, "nghttpx did not start"
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    await writer.wait_closed()
                    return
                await asyncio.sleep(0.05)

    def restart_gracefully(self) -> None:
        """New connections go to a new process; the old one says GOAWAY and finishes."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    async def kill(self) -> None:
        """End all its processes at once."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


@contextlib.asynccontextmanager
async def front(backend: int, files: Certificate, *options: str) -> AsyncIterator[Front]:
    """An nghttpx before `backend` that runs within the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Front(port, backend, files, options)
    await made.start()
    try:
        yield made
    finally:
        await made.kill()
