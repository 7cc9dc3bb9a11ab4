"""An API server that does what a test says, faults included, on loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import yaml

from outpost_k8s.api import config
from outpost_k8s.api.client import Cluster


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Answer:
    """One answer: a status and its body, as JSON or as it is."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    async def give(self, writer: asyncio.StreamWriter) -> None:
        data = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {"Content-Length": str(len(data)), "Content-Type": "application/json"}
        lines = [f"{name}: {value}" for name, value in (headers | dict(self.headers)).items()]
        writer.write("\r\n".join([f"HTTP/1.1 {self.status} X", *lines, "", ""]).encode() + data)
        await writer.drain()


class Drop:
    """The line breaks once the request has arrived."""

    async def give(self, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()


class Stall:
    """Nothing comes, for ever."""

    async def give(self, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()


class Stream:
    """Pieces of an answer that goes on, each when its turn comes; then its end, a break or none."""

    def __init__(self, *pieces: bytes | dict[str, Any], end: str = "eof") -> None:
        self.pieces = [
            piece if isinstance(piece, bytes) else json.dumps(piece).encode() + b"\n"
            for piece in pieces
        ]
        self.end = end

    async def give(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in self.pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        if self.end == "stall":
            await asyncio.Event().wait()
        if self.end == "break":
            await asyncio.sleep(0.05)
            writer.transport.abort()
        else:
            writer.write(b"0\r\n\r\n")
            await writer.drain()


Step = Answer | Drop | Stall | Stream
Decide = Callable[[Request], Step]


def failure(status: int, reason: str, message: str = "", **more: Any) -> Answer:
    body = {"kind": "Status", "status": "Failure", "code": status, "reason": reason,
            "message": message or reason}  # fmt: skip
    headers = {"Retry-After": str(more.pop("after"))} if "after" in more else {}
    return Answer(status, {**body, **more}, headers)


class Api:
    """The server. `decide` is asked what comes of each request; a list is gone through, and its
    last step stays.

    Attributes:
        requests: that have arrived.
        url: of it.
    """

    def __init__(self, decide: Decide | list[Step], context: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self._decide = decide
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while request := await self._read(reader):
                self.requests.append(request)
                await self._step(request).give(writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    def _step(self, request: Request) -> Step:
        if request.path == "/version" and isinstance(self._decide, list):
            return Answer(body={"gitVersion": "v1.36.3"})
        if callable(self._decide):
            return self._decide(request)
        return self._decide.pop(0) if len(self._decide) > 1 else self._decide[0]

    async def _read(self, reader: asyncio.StreamReader) -> Request | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode().rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        size = int(headers.get("content-length", 0))
        body = json.loads(await reader.readexactly(size)) if size else None
        parts = urlsplit(target)
        query = {name: value[0] for name, value in parse_qs(parts.query).items()}
        return Request(method, parts.path, query, headers, body)


def kubeconfig(
    folder: Path,
    server: str,
    *,
    cluster: Mapping[str, Any] | None = None,
    user: Mapping[str, Any] | None = None,
    name: str = "test",
) -> Path:
    """Write a kubeconfig; return its path."""
    said = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": f"{name}-c", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": f"{name}-u", "user": dict(user or {})}],
        "contexts": [{"name": name, "context": {"cluster": f"{name}-c", "user": f"{name}-u"}}],
    }
    path = folder / f"{name}.kubeconfig"
    path.write_text(yaml.safe_dump(said))
    return path


@dataclass
class Certificate:
    """A certificate that signs itself, and its key."""

    certificate: Path
    key: Path

    @property
    def data(self) -> str:
        return base64.b64encode(self.certificate.read_bytes()).decode()

    def server(self, clients: Certificate | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients.certificate)
        return context


def certificate(
    folder: Path, name: str, *, host: str = "IP:127.0.0.1", days: int = 2
) -> Certificate:
    made = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-keyout", str(made.key), "-out", str(made.certificate), "-days", str(days),
            "-subj", f"/CN={name}", "-addext", f"subjectAltName={host}"]  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True)
    return made


@contextlib.asynccontextmanager
async def reached(path: Path, **options: Any) -> AsyncIterator[Cluster]:
    """Have a cluster by its kubeconfig."""
    cluster = Cluster(
        config.find(kubeconfig=path, namespace="ns"), outpost="k1", kubeconfig=path, **options
    )
    try:
        yield cluster
    finally:
        await cluster.aclose()


def looped(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test that waits, with a deadline."""

    @functools.wraps(test)
    def run(*args: Any, **more: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **more), 150))

    return run
