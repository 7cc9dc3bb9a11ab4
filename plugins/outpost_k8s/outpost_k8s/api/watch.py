"""All things of a kind as they are now, kept up to date for who holds a cluster for long.

List, then watch from the list's version on; whatever goes wrong, list again. A watch is begun anew
now and then, by the server's clock and by ours, so that one that is silent for good is no danger.
A command that asks once lists once and needs none of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Self

from outpost_core.errors import OutpostError
from outpost_k8s.api.asking import Object
from outpost_k8s.api.client import Cluster
from outpost_k8s.api.errors import ExpiredError, UnavailableError
from outpost_shared.backoff import Backoff

#: Seconds after which the server ends a watch, at least; up to twice as many, so that not all
#: clients come back together. The same as of client-go's reflector.
SECONDS: Final = 300.0
#: Seconds beyond that after which we do. Bookmarks come about once a minute.
_LATE: Final = 30.0
#: Seconds without an event or bookmark after which a watch is begun anew.
STALE: Final = 150.0
#: A watch that ends sooner than after so many seconds is not begun again at once.
_SHORT: Final = 1.0


@dataclass(frozen=True, slots=True)
class Change:
    """What has become of one thing since it was told last.

    Args:
        name: its name.
        old: as it was told last; None when it was not.
        new: as it is; None when it is gone.
    """

    name: str
    old: Object | None
    new: Object | None


class Reflector:
    """Knows all things of a kind in a namespace, while its block is open.

    Args:
        cluster: the cluster.
        path: address of the kind, in a namespace (`paths.path`).
        labels: label selector.
        metadata_only: leave spec and status at the server.
        seconds: how long one watch takes, at least.
        stale: seconds of silence after which a watch is begun anew.

    Attributes:
        objects: what there is, by name. Empty before the first list: see `listed`.
        listed: set once there was a list.
        fresh: `time.monotonic()` of the server's last word on them; 0 before the first.
        error: why there is no news just now; None when there is.
    """

    def __init__(
        self,
        cluster: Cluster,
        path: str,
        labels: str = "",
        *,
        metadata_only: bool = False,
        seconds: float = SECONDS,
        stale: float = STALE,
    ) -> None:
        self.objects: dict[str, Object] = {}
        self.listed = asyncio.Event()
        self.fresh = 0.0
        self.error: OutpostError | None = None
        self._cluster = cluster
        self._path = path
        self._labels = labels
        self._metadata_only = metadata_only
        self._seconds = seconds
        self._stale = stale
        self._told: dict[str, Object] = {}
        self._changed: dict[str, None] = {}  # in the order of their change
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})

    async def changes(self) -> AsyncIterator[Change]:
        """Yield what changes, for ever; the first time all that there is.

        A thing that changes twice before it is asked for is told once, as it is then.
        """
        while True:
            while not self._changed:
                self._news.clear()
                await self._news.wait()
            name = next(iter(self._changed))
            del self._changed[name]
            old, new = self._told.pop(name, None), self.objects.get(name)
            if new is not None:
                self._told[name] = new
            if old is not new:
                yield Change(name, old, new)

    # --- inside -------------------------------------------------------------------------------

    async def _run(self) -> None:
        backoff = Backoff(0.2, 30.0, jitter=0.5)
        while True:
            try:
                version = await self._list()
                while True:
                    begun = time.monotonic()
                    version = await self._watch(version, backoff)
                    if time.monotonic() - begun < _SHORT:  # it does not want to be watched
                        await backoff.wait()
            except OutpostError as error:
                # a version that is no longer kept says nothing against the server
                self.error = None if isinstance(error, ExpiredError) else error
            await backoff.wait()

    async def _list(self) -> str:
        """Look at all of it; return the version from which to watch."""
        found: dict[str, Object] = {}
        version = ""
        pages = self._cluster.pages(
            self._path, labels=self._labels, metadata_only=self._metadata_only
        )
        async for metadata, items in pages:
            version = str(metadata.get("resourceVersion") or "")
            found.update((name, item) for item in items if (name := _name(item)))
        for name in [*self.objects, *found]:
            self._set(name, found.get(name))
        self._heard()
        self.listed.set()
        return version

    async def _watch(self, version: str, backoff: Backoff) -> str:
        """Follow the changes after a version until the watch ends; return the last version."""
        limit = self._seconds * (1 + random.random())  # noqa: S311 - nobody is to guess nothing
        events = self._cluster.watch(
            self._path, version, labels=self._labels, metadata_only=self._metadata_only,
            seconds=limit,
        )  # fmt: skip
        try:
            async with contextlib.aclosing(events), asyncio.timeout(limit + _LATE):
                while True:
                    try:
                        async with asyncio.timeout(self._stale):
                            kind, thing = await anext(events)
                    except TimeoutError:
                        return version
                    except StopAsyncIteration:
                        return version
                    version = _version(thing) or version
                    self._heard()
                    backoff.reset()
                    if kind != "BOOKMARK" and (name := _name(thing)):
                        self._set(name, None if kind == "DELETED" else thing)
        except TimeoutError:
            raise UnavailableError(f"a watch of {self._cluster.peer} did not end in time") from None

    def _heard(self) -> None:
        self.fresh = time.monotonic()
        self.error = None

    def _set(self, name: str, thing: Object | None) -> None:
        known = self.objects.get(name)
        if thing is None:
            self.objects.pop(name, None)
        elif known is not None and _version(known) == _version(thing) != "":
            return
        else:
            self.objects[name] = thing
        self._changed[name] = None
        self._news.set()


def _name(thing: Object) -> str:
    metadata = thing.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


def _version(thing: Object) -> str:
    metadata = thing.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    return version if isinstance(version, str) else ""
