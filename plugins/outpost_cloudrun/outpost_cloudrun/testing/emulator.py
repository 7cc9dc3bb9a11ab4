"""All of Cloud Run that Outpost needs, on loopback, with knobs for what goes wrong there."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from outpost_cloudrun.testing.adminapi import AdminApi
from outpost_cloudrun.testing.bucket import Storage
from outpost_cloudrun.testing.cloud import Cloud, last
from outpost_cloudrun.testing.front import Front
from outpost_cloudrun.testing.githost import GitHost
from outpost_cloudrun.testing.httpd import Server
from outpost_cloudrun.testing.journal import Journal
from outpost_cloudrun.testing.knobs import Image, Knobs
from outpost_cloudrun.testing.metadata import TokenServer
from outpost_cloudrun.testing.podman import Podman, PodmanContainers
from outpost_cloudrun.testing.processes import ProcessContainers
from outpost_cloudrun.testing.tls import TlsFronts

T = TypeVar("T")
#: How long starting or ending all of it may take, in seconds.
_LONG = 60.0


class Emulator:
    """A running emulator. It lives on a thread of its own, so callers may block.

    Attributes:
        knobs: what can be turned, at any time.
        journal: what it did.
        storage: the buckets.
        tls: the proxies before services and instances; None where callers need no TLS.
        rigs: repositories that containers reach by HTTP.
        tokens: the metadata server; its `life`, `failures` and `delay` can be turned, too.
    """

    def __init__(
        self, folder: Path, knobs: Knobs, *, tls: bool = False, podman: Podman | None = None
    ) -> None:
        self.folder = folder
        self.knobs = knobs
        self.journal = Journal(folder / "journal.ndjson")
        self.tokens = _Tokens(knobs)
        self.tls = TlsFronts(folder) if tls else None
        self._podman = podman
        self.cloud: Cloud
        self.storage: Storage
        self.rigs: GitHost
        self._api: AdminApi
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name="cloudrun-emulator", daemon=True)

    @property
    def admin(self) -> str:
        """Address of the Admin API: what the option `endpoint` has to say."""
        return self._api.server.url

    @property
    def environment(self) -> dict[str, str]:
        """What the near side needs in its environment to find metadata and bucket."""
        found = {**self.tokens.environment, "STORAGE_EMULATOR_HOST": self.storage.server.url}
        if self.tls is not None:
            found["SSL_CERT_FILE"] = str(self.tls.certificate)
        return found

    def front(self, service: str) -> str:
        """Return the address of a service or instance.

        Args:
            service: its whole name, or the last word of it.

        Raises:
            LookupError: there is none.
        """
        for table in (self.cloud.services, self.cloud.instances):
            for name, resource in table.items():
                if service in (name, name.rpartition("/")[2]) and resource.urls:
                    return str(resource.urls[0])
        raise LookupError(f"there is no service {service} with an address")

    def do(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run something on the emulator's thread, and return its result; blocks."""
        return self.later(work).result(_LONG)

    def later(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run something on the emulator's thread."""
        return asyncio.run_coroutine_threadsafe(work(), self._loop)

    def start(self) -> None:
        """Start all of it."""
        self._thread.start()
        self.tokens.__enter__()
        self.do(self._open)

    def stop(self) -> None:
        """End all of it; nothing is left but logs and the journal."""
        try:
            self.do(self._close)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_LONG)
            self._loop.close()
            self.tokens.__exit__()
            self.journal.close()

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def instances(self, service: str) -> dict[str, int]:
        """Return the containers of a service that take requests: id and requests under way."""
        pool = self._front(service).pool
        return {each.id: each.active for each in list(pool.instances) if each.ready}

    def kill_instance(self, service: str, id: str = "") -> None:  # noqa: A002 - their word
        """Kill a container of a service or an instance, as a lost machine would.

        Args:
            service: short name of the service or of the instance.
            id: which of a service's; "" for all of them.
        """

        async def kill() -> None:
            for name in self.cloud.instances:
                if last(name) == service:
                    self._api.instances.kill(name)
                    return
            for each in list(self._front(service).pool.instances):
                if id in ("", each.id) and each.container is not None:
                    each.container.kill()

        self.do(kill)

    def kill_containers(self, owner: str) -> int:
        """Kill the containers of an execution, as a lost machine would; return how many.

        Args:
            owner: the last word of its name, or the beginning of that.
        """

        async def kill() -> int:
            found = [
                each for each in self.cloud.containers.alive() if each.spec.id.startswith(owner)
            ]
            for each in found:
                each.kill()
            return len(found)

        return self.do(kill)

    def freeze_instance(self, service: str, *, frozen: bool = True) -> None:
        """Take all CPU from the containers of a service while requests are under way, or give it.

        Args:
            service: its short name.
            frozen: False: give it back.
        """

        async def freeze() -> None:
            for each in list(self._front(service).pool.instances):
                if each.container is not None:
                    (each.container.freeze if frozen else each.container.thaw)()

        self.do(freeze)

    def end_instance(self, service: str, id: str = "") -> None:  # noqa: A002 - their word
        """End a container of a service as scaling does: SIGTERM, SIGKILL after the grace."""

        async def end() -> None:
            pool = self._front(service).pool
            for each in list(pool.instances):
                if id in ("", each.id):
                    pool.end(each)

        self.do(end)

    async def shut_admin(self) -> None:
        """Let nobody listen where the Admin API is, until `open_admin`; see `do`."""
        await self._api.server.shut(hard=True)

    async def open_admin(self) -> None:
        """Undo `shut_admin`."""
        await self._api.server.open()

    async def cut_instances(self) -> None:
        """Cut all connections to Cloud Run instances, whose containers run on; see `do`."""
        for server in self._api.instances.servers():
            await server.shut(hard=True)
            await server.open()

    def restart_front(self, service: str, *, hard: bool, away: float = 0.0) -> None:
        """Restart the front of a service: all connections end.

        Args:
            service: its short name.
            hard: they are cut; else they get GOAWAY, and requests under way go on.
            away: seconds until it listens again.
        """

        async def restart() -> None:
            server = self._front(service).server
            if self.tls is not None:
                await self.tls.restart(server, hard=hard)
                return
            await server.shut(hard=hard)
            if away:
                await asyncio.sleep(away)
            await server.open()

        self.do(restart)
        self.journal.write("front.restarted", service=service, hard=hard)

    def _front(self, service: str) -> Front:
        for name, front in self._api.services.fronts.items():
            if service in (name, last(name)):
                return front
        raise LookupError(f"there is no service {service}")

    async def _open(self) -> None:
        containers = self.folder / "containers"
        containers.mkdir(mode=0o700, exist_ok=True)
        made = (
            ProcessContainers(containers, self._image)
            if self._podman is None
            else PodmanContainers(containers, self._podman)
        )
        self.cloud = Cloud(
            knobs=self.knobs,
            journal=self.journal,
            containers=made,
            tokens=self.tokens,
            surroundings={**self.tokens.environment, "OUTPOST_BIND": "127.0.0.1"},
        )
        self.storage = Storage(self.cloud, self.folder / "buckets")
        for name in self.knobs.buckets:
            self.storage.make(name)
        await self.storage.server.open()
        self.cloud.surroundings["STORAGE_EMULATOR_HOST"] = self.storage.server.url
        self.rigs = GitHost(self.folder / "rigs", self.journal)
        await self.rigs.server.open()
        self._api = AdminApi(self.cloud, self._publish)
        await self._api.server.open()

    async def _close(self) -> None:
        await self._api.close()
        if self.tls is not None:
            await self.tls.close()
        await self.storage.server.close()
        await self.rigs.server.close()
        await self.cloud.containers.close()
        await self.cloud.close()
        for container in (self.folder / "containers").iterdir():
            if container.is_dir():
                shutil.rmtree(container, ignore_errors=True)
        pending = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await self._loop.shutdown_default_executor()

    async def _publish(self, server: Server) -> str:
        return server.url if self.tls is None else await self.tls.publish(server)

    def _image(self, name: str) -> Image:
        return self.knobs.images.get(name, Image())


class _Tokens(TokenServer):
    """Its clock is the one of the knobs."""

    def __init__(self, knobs: Knobs) -> None:
        super().__init__()
        self._knobs = knobs

    def now(self) -> float:
        """Return Google's time."""
        return super().now() + self._knobs.clock


@contextmanager
def emulating(
    folder: Path, *, tls: bool = False, podman: Podman | None = None, **settings: Any
) -> Iterator[Emulator]:
    """Emulate Cloud Run while the block runs; as `emulator`, for code that is not async."""
    folder.mkdir(parents=True, exist_ok=True)
    running = Emulator(folder, Knobs(**settings), tls=tls, podman=podman)
    running.start()
    try:
        yield running
    finally:
        running.stop()


@asynccontextmanager
async def emulator(
    folder: Path, *, tls: bool = False, podman: Podman | None = None, **settings: Any
) -> AsyncIterator[Emulator]:
    """Emulate Cloud Run while the block runs.

    Args:
        folder: for what containers write, their logs, and `journal.ndjson`.
        tls: callers meet nghttpx with TLS, as they meet Google's front.
        podman: containers are podman's; None: they are processes.
        settings: first values of `Knobs`.
    """
    with contextlib.ExitStack() as stack:
        running = await asyncio.to_thread(
            stack.enter_context, emulating(folder, tls=tls, podman=podman, **settings)
        )
        try:
            yield running
        finally:
            await asyncio.to_thread(stack.close)
