"""What is answered at each path of the work protocol."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from outpost_cloudrun.server import asked, health
from outpost_cloudrun.server.following import Following
from outpost_cloudrun.server.instance import Instance
from outpost_cloudrun.server.lines import Numbered
from outpost_cloudrun.server.settings import Settings
from outpost_cloudrun.server.watching import Watching
from outpost_cloudrun.server.web import Request, Response, Router, json_response
from outpost_core import wire
from outpost_core.errors import NotFoundError, OutpostError, UsageError
from outpost_core.types import WorkerStatus
from outpost_shared.protocol import frame
from outpost_worker.folder import files
from outpost_worker.repository import bundles
from outpost_worker.serving.request import mask, number

#: Media type of a stream: a JSON object a line.
NDJSON = "application/x-ndjson"
_LARGEST = 2**53
#: Seconds between TERM and KILL where a stop does not say.
_GRACE = 10.0
#: Bytes of a file that are read at once.
_CHUNK = 256 << 10


class Work:
    """The work protocol over the workers of one instance.

    Args:
        settings: of this program.
        instance: whose workers.
    """

    def __init__(self, settings: Settings, instance: Instance) -> None:
        self._settings = settings
        self._instance = instance
        self._watching = Watching(instance)

    def router(self) -> Router:
        """Return which of the methods answers what."""
        router = Router()
        router.add("POST", "/work", self.post)
        router.add("GET", "/work", self.list)
        router.add("GET", "/work/{worker}", self.follow)
        router.add("DELETE", "/work/{worker}", self.remove)
        router.add("POST", "/work/{worker}/stop", self.stop)
        router.add("GET", "/work/{worker}/logs", self.logs)
        router.add("GET", "/work/{worker}/rescue", self.rescue)
        router.add("GET", "/health", self.health)
        router.add("GET", "/healthz", self.health)  # Cloud Run's front keeps this one for itself
        router.add("GET", "/warm", self.warm)
        return router

    async def post(self, request: Request) -> Response:
        """Create or adopt a worker, and stream what it does."""
        wanted = await asyncio.to_thread(asked.parse, request.body, self._settings)
        if wanted.attach:
            status = await asyncio.to_thread(self._instance.find, wanted.order)
            return self._stream(status, wanted.after, wanted.offset)
        try:
            status = await self._instance.outpost_spawn(order=wanted.order)
        except OutpostError as error:
            mask(error, wanted.order.secrets)
            raise
        return self._stream(status, wanted.after, wanted.offset)

    async def list(self, request: Request) -> Response:
        """List the workers of this instance."""
        del request
        workers = await self._instance.outpost_list()
        told = [wire.to_json(status) for status in workers]
        return json_response({"instance": self._instance.id, "workers": told})

    async def follow(self, request: Request, worker: str) -> Response:
        """Stream what a worker of this instance does."""
        after, offset = _query(request, "after"), _query(request, "offset")
        status = await asyncio.to_thread(self._instance.status_of, worker)
        return self._stream(status, after, offset)

    async def stop(self, request: Request, worker: str) -> Response:
        """Ask a worker to end."""
        params = asked.json_object(request.body or b"{}")
        grace = number(params, "grace", 1e9, _GRACE)
        self._instance.folder_of(worker)
        await self._instance.outpost_stop(worker=worker, grace=grace)
        return json_response({"worker": worker, "grace": grace}, 202)

    async def logs(self, request: Request, worker: str) -> Response:
        """Send a worker's output as it is."""
        offset, follow = _query(request, "offset"), _flag(request, "follow")
        await asyncio.to_thread(self._instance.status_of, worker)
        body = self._instance.outpost_logs(worker=worker, offset=offset, follow=follow)
        return Response(body=body, type="application/octet-stream")

    async def rescue(self, request: Request, worker: str) -> Response:
        """Send the bundle of a worker's work that no rig took."""
        del request
        status = await asyncio.to_thread(self._instance.status_of, worker)
        kept = status.result.checkpoint if status.result else None
        bundle = self._instance.folder_of(worker) / bundles.NAME
        if not kept or kept != str(bundle) or not bundle.is_file():
            raise NotFoundError(
                f"no work of {worker} is kept here",
                hint=f"it is at {kept}" if kept else "it has not ended, or all of it was pushed",
            )
        return Response(body=_file(bundle), type="application/x-git-bundle")

    async def remove(self, request: Request, worker: str) -> Response:
        """Remove what an ended worker left here, after its work was rescued."""
        cleaned = await self._instance.outpost_clean(worker=worker, force=_flag(request, "force"))
        return json_response(wire.to_json(cleaned))

    async def health(self, request: Request) -> Response:
        """Say how this instance is."""
        names = request.query.get("programs", "").replace(",", " ").split()
        return json_response(await health.look(self._instance, names))

    async def warm(self, request: Request) -> Response:
        """Send heartbeats for as long as the caller wants this instance to be there."""
        del request
        return Response(body=self._beats(), type=NDJSON)

    async def _beats(self) -> AsyncIterator[bytes]:
        seq = 0
        while True:
            seq += 1
            yield frame({"seq": seq, "instance": self._instance.id, "beat": True})
            await asyncio.sleep(self._settings.beat)

    def _stream(self, status: WorkerStatus, after: int, offset: int) -> Response:
        numbered = Numbered(after, offset, {"instance": self._instance.id})
        following = Following(self._instance, self._watching, numbered, self._settings.beat)
        return Response(body=following.lines(status), type=NDJSON)


async def _file(path: Path) -> AsyncIterator[bytes]:
    """Yield the content of a file of a worker's folder."""
    fd = await asyncio.to_thread(files.open_plain, str(path))
    with os.fdopen(fd, "rb") as file:
        while data := await asyncio.to_thread(file.read, _CHUNK):
            yield data


def _query(request: Request, name: str) -> int:
    """Return a whole number of the query; 0 where it says none.

    Raises:
        UsageError: it says something else.
    """
    value = request.query.get(name) or "0"
    if not (value.isascii() and value.isdecimal()) or len(value) > 16 or int(value) > _LARGEST:
        raise UsageError(
            f"`{name}` of the query is {value[:40]!a}, and no number of bytes or lines"
        )
    return int(value)


def _flag(request: Request, name: str) -> bool:
    value = request.query.get(name, "")
    if value not in ("", "0", "1", "false", "true"):
        raise UsageError(f"`{name}` of the query is {value[:40]!a}: use 1 or 0")
    return value in ("1", "true")
