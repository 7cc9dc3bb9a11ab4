"""The containers of one service: how many there are, who gets the next request, and their end."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from dataclasses import dataclass
from typing import Any

from outpost_cloudrun.testing import ports
from outpost_cloudrun.testing.cloud import Cloud, last
from outpost_cloudrun.testing.containers import Container
from outpost_cloudrun.testing.environment import spec
from outpost_cloudrun.testing.errors import GoogleError
from outpost_cloudrun.testing.forward import Line

#: How often it is looked who has been idle for too long, in seconds.
_LOOK = 0.1
_RANDOM = random.SystemRandom()


@dataclass(frozen=True, kw_only=True)
class Revision:
    """What a service's containers are like.

    Attributes:
        name: the revision's.
        service: the service's whole name.
        container: as it was configured.
        volumes: what it may mount.
        concurrency: requests at once in one container.
        least: how many containers there are always.
        most: how many there are at most.
        timeout: of a request, in seconds.
        throttled: no CPU between requests.
        two: the container speaks HTTP/2.
        affinity: cookies lead to the same container.
    """

    name: str
    service: str
    container: Any
    volumes: tuple[Any, ...]
    concurrency: int
    least: int
    most: int
    timeout: float
    throttled: bool
    two: bool
    affinity: bool


class NoInstanceError(Exception):
    """No container took the request: `status` is 429 or 503."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Instance:
    """One container of a service.

    Args:
        revision: what it is like.
    """

    def __init__(self, revision: Revision) -> None:
        self.id = secrets.token_hex(8)
        self.revision = revision
        self.active = 0
        self.ready = False
        self.leaving = False
        self.idle_since = time.monotonic()
        self.container: Container | None = None
        self.line: Line | None = None

    @property
    def free(self) -> int:
        """How many requests more it takes."""
        return 0 if self.leaving else self.revision.concurrency - self.active


class Pool:
    """All containers of a service.

    Args:
        cloud: where it belongs.
        revision: what new ones are like.
    """

    def __init__(self, cloud: Cloud, revision: Revision) -> None:
        self.cloud = cloud
        self.revision = revision
        self.instances: list[Instance] = []
        self.closed = False
        self._waiting = 0
        self._failures = 0
        self._starts: list[float] = []
        self._changed: set[asyncio.Event] = set()
        self._reaper = cloud.go(self._look_after())

    def deploy(self, revision: Revision) -> None:
        """Replace what new containers are like; old ones leave when they are idle."""
        self.revision = revision
        self._tidy()

    async def take(self, cookie: str = "", avoid: Instance | None = None) -> Instance:
        """Return a container that has room, and count one request more there.

        Args:
            cookie: the container that an earlier answer named.
            avoid: one that is not wanted if another can be had.

        Raises:
            NoInstanceError: there was none in time.
        """
        since, failures = time.monotonic(), self._failures
        changed = asyncio.Event()
        self._changed.add(changed)
        self._waiting += 1
        try:
            while True:
                chosen = self._choose(cookie, avoid)
                if chosen is not None:
                    return self._enter(chosen)
                if self._failures > failures and not any(each.ready for each in self.instances):
                    raise NoInstanceError(503, "The container failed to start.")
                self._grow()
                starting = any(not each.ready and not each.leaving for each in self.instances)
                left = since + self._patience() - time.monotonic()
                if left <= 0 and not starting:
                    raise NoInstanceError(429, "Rate exceeded. There was no available instance.")
                changed.clear()
                try:
                    async with asyncio.timeout(max(left, _LOOK)):
                        await changed.wait()
                except TimeoutError:
                    pass
                if avoid is not None and len(self.instances) >= self._most():
                    avoid = None
        finally:
            self._waiting -= 1
            self._changed.discard(changed)

    def leave(self, instance: Instance) -> None:
        """Count one request less."""
        instance.active -= 1
        if instance.active == 0:
            instance.idle_since = time.monotonic()
            self._rest(instance)
        self._wake()

    def end(self, instance: Instance) -> None:
        """SIGTERM, and SIGKILL after the grace."""
        if not instance.leaving:
            instance.leaving = True
            self.cloud.go(self._end(instance))

    async def close(self) -> None:
        """End all containers at once."""
        self.closed = True
        self._reaper.cancel()
        running = [each for each in self.instances if each.container is not None]
        for each in running:
            each.leaving = True
            if each.container is not None:
                each.container.kill()
        for each in running:
            if each.container is not None:
                await each.container.ended()

    def _most(self) -> int:
        return self.revision.most + self.cloud.knobs.beyond_max

    def _patience(self) -> float:
        mean = sum(self._starts) / len(self._starts) if self._starts else 0.0
        return max(3.5 * mean, self.cloud.knobs.queue)

    def _choose(self, cookie: str, avoid: Instance | None) -> Instance | None:
        if self.cloud.knobs.no_capacity:
            return None
        able = [
            each for each in self.instances
            if each.ready and each.free > 0 and each is not avoid and each.revision is self.revision
        ]  # fmt: skip
        if self.revision.affinity and cookie and _RANDOM.random() < self.cloud.knobs.affinity:
            same = [each for each in able if each.id == cookie]
            if same:
                return same[0]
        return _RANDOM.choice(able) if able else None

    def _enter(self, instance: Instance) -> Instance:
        instance.active += 1
        if instance.active == 1 and instance.container is not None:
            instance.container.thaw()
        return instance

    def _rest(self, instance: Instance) -> None:
        if (
            instance.revision.throttled
            and self.cloud.knobs.freeze
            and instance.container is not None
            and not instance.leaving
        ):
            instance.container.freeze()
            self.cloud.journal.write("instance.frozen", id=instance.id)

    def _grow(self) -> None:
        if self.closed or self.cloud.knobs.no_capacity:
            return
        coming = sum(
            each.free
            for each in self.instances
            if not each.ready and each.revision is self.revision
        )
        if coming < self._waiting and len(self.instances) < self._most():
            instance = Instance(self.revision)
            self.instances.append(instance)
            self.cloud.go(self._start(instance))

    async def _start(self, instance: Instance) -> None:
        cloud, revision = self.cloud, self.revision
        began = time.monotonic()
        own = {
            "K_SERVICE": last(revision.service),
            "K_REVISION": revision.name,
            "K_CONFIGURATION": last(revision.service),
        }
        try:
            port = ports.free()
            order = spec(
                cloud, revision.service, revision.container, own, revision.volumes, port=port
            )
            if cloud.knobs.cold_start:
                await asyncio.sleep(cloud.knobs.cold_start)
            instance.container = await cloud.containers.start(order)
        except (GoogleError, OSError) as error:
            cloud.journal.write("instance.failed", id=instance.id, error=str(error))
            self._gone(instance, failed=True)
            return
        cloud.journal.write(
            "instance.started", id=instance.id, service=last(revision.service), container=order.id
        )
        instance.line = Line(port, two=revision.two)
        cloud.go(self._watch(instance))
        while not instance.leaving and time.monotonic() < began + cloud.knobs.startup:
            if await ports.listens(port):
                self._starts.append(time.monotonic() - began)
                cloud.journal.write(
                    "instance.ready", id=instance.id, seconds=round(self._starts[-1], 3)
                )
                instance.ready = True
                instance.idle_since = time.monotonic()
                self._rest(instance)
                self._wake()
                return
            await asyncio.sleep(0.02)
        self.end(instance)

    async def _watch(self, instance: Instance) -> None:
        assert instance.container is not None
        ended = await instance.container.ended()
        self.cloud.journal.write(
            "instance.ended", id=instance.id, service=last(self.revision.service),
            code=ended.code, signal=ended.signal, memory=ended.memory,
        )  # fmt: skip
        self._gone(instance, failed=not instance.ready and not instance.leaving)
        if instance.line is not None:
            await instance.line.close()

    async def _end(self, instance: Instance) -> None:
        container = instance.container
        if container is None:
            return
        self.cloud.journal.write("instance.sigterm", id=instance.id)
        container.terminate()
        try:
            async with asyncio.timeout(self.cloud.knobs.grace):
                await container.ended()
        except TimeoutError:
            self.cloud.journal.write("instance.sigkill", id=instance.id)
            container.kill()

    def _gone(self, instance: Instance, *, failed: bool) -> None:
        instance.leaving = True
        if instance in self.instances:
            self.instances.remove(instance)
        self._failures += failed
        self._wake()

    def _wake(self) -> None:
        for changed in self._changed:
            changed.set()

    async def _look_after(self) -> None:
        while True:
            self._tidy()
            await asyncio.sleep(_LOOK)

    def _tidy(self) -> None:
        now, idle = time.monotonic(), self.cloud.knobs.idle
        current = [each for each in self.instances if each.revision is self.revision]
        for each in list(self.instances):
            if not each.ready or each.leaving or each.active:
                continue
            old = each.revision is not self.revision
            spare = len([one for one in current if not one.leaving]) > self.revision.least
            if old or (spare and now - each.idle_since > idle):
                self.end(each)
        alive = sum(not each.leaving for each in current)
        if alive < self.revision.least and not self.closed and self._failures < 3:
            instance = Instance(self.revision)
            self.instances.append(instance)
            self.cloud.go(self._start(instance))
