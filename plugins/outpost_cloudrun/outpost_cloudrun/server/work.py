"""What is answered at each path of the work protocol."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from outpost_cloudrun.server import asked, health
from outpost_cloudrun.server.here import Here, not_yours
from outpost_cloudrun.server.instance import Instance
from outpost_cloudrun.server.places import Place
from outpost_cloudrun.server.settings import Settings
from outpost_cloudrun.server.stopping import leave_word
from outpost_cloudrun.server.taking import Taking
from outpost_cloudrun.server.web import Request, Response, Router, json_response
from outpost_core import wire
from outpost_core.errors import NotFoundError, UsageError
from outpost_core.types import Cleaned, Order
from outpost_shared.protocol import frame
from outpost_worker.folder import files
from outpost_worker.repository import bundles
from outpost_worker.serving.request import Params, number, word

#: Media type of a stream: a JSON object a line.
NDJSON = "application/x-ndjson"
_LARGEST = 2**53
#: Seconds between TERM and KILL where a stop does not say.
_GRACE = 10.0
_NOT_ENDED = "it has not ended: stop it first"
#: Bytes of a file that are read at once.
_CHUNK = 256 << 10


class Work:
    """The work protocol over the workers of one instance.

    Args:
        settings: of this program.
        instance: whose workers.
        taking: takes and finds them.
    """

    def __init__(self, settings: Settings, instance: Instance, taking: Taking) -> None:
        self._settings = settings
        self._instance = instance
        self._taking = taking

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
        return Response(body=await self._taking.take(wanted), type=NDJSON)

    async def list(self, request: Request) -> Response:
        """List the workers of this instance."""
        del request
        workers = await self._taking.workers()
        told = [wire.to_json(status) for status in workers]
        return json_response({"instance": self._instance.id, "workers": told})

    async def follow(self, request: Request, worker: str) -> Response:
        """Stream what a worker of this instance does."""
        after, offset = _query(request, "after"), _query(request, "offset")
        return Response(body=await self._taking.follow(worker, after, offset), type=NDJSON)

    async def stop(self, request: Request, worker: str) -> Response:
        """Ask a worker to end, wherever it is."""
        params = asked.json_object(request.body or b"{}")
        grace = number(params, "grace", 1e9, _GRACE)
        order = _order(worker, params)
        with self._taking.unwanted(worker, order.owner if order is not None else ""):
            async with self._taking.lock(worker):  # whoever is just being made can be stopped then
                return await self._stopped(worker, params, grace)

    async def _stopped(self, worker: str, params: Params, grace: float) -> Response:
        here = await self._here(worker, params)
        if here is not None and not here.superseded:
            await self._instance.outpost_stop(worker=worker, grace=grace)
            return json_response({"worker": worker, "grace": grace}, 202)
        place, order = await self._place(worker, params)
        if place is None or order is None:
            raise NotFoundError(f"{worker} is not here, and no record of it is known")
        try:
            await asyncio.to_thread(leave_word, place.record, order, self._instance.id, grace)
        finally:
            if here is None:
                await asyncio.to_thread(self._taking.drop_login, worker)
        return json_response({"worker": worker, "grace": grace, "elsewhere": True}, 202)

    async def logs(self, request: Request, worker: str) -> Response:
        """Send a worker's output as it is."""
        offset, follow = _query(request, "offset"), _flag(request, "follow")
        await asyncio.to_thread(self._instance.status_of, worker)
        body = self._instance.outpost_logs(worker=worker, offset=offset, follow=follow)
        return Response(body=body, type="application/octet-stream")

    async def rescue(self, request: Request, worker: str) -> Response:
        """Send the bundle of a worker's work that no rig took, to whoever has ordered it."""
        here = await self._taking.here(worker)
        status = await asyncio.to_thread(self._instance.status_of, worker)
        owner, digest = request.query.get("owner"), request.query.get("digest")
        if owner is not None:
            await asyncio.to_thread(here.check_owner, owner)
        if digest is not None and status.digest != digest:
            raise not_yours(worker)
        kept = status.result.checkpoint if status.result else None
        bundle = self._instance.folder_of(worker) / bundles.NAME
        if not kept or kept != str(bundle) or not bundle.is_file():
            raise NotFoundError(
                f"no work of {worker} is kept here",
                hint=f"it is at {kept}" if kept else "it has not ended, or all of it was pushed",
            )
        return Response(body=_file(bundle), type="application/x-git-bundle")

    async def remove(self, request: Request, worker: str) -> Response:
        """Remove what an ended worker left, here and elsewhere, after its work was rescued."""
        params = asked.json_object(request.body or b"{}")
        force = _flag(request, "force")
        async with self._taking.lock(worker):
            return await self._removed(worker, params, force=force)

    async def _removed(self, worker: str, params: Params, *, force: bool) -> Response:
        here = await self._here(worker, params)
        place, order = await self._place(worker, params)
        owner = order.owner if order is not None else ""
        if here is not None and here.known is not None and here.place is not None:
            place, owner = here.place, here.known.claim.owner
            if here.settled is None and not here.superseded and not force:
                why = f"its end is not on record: {here.trouble}" if here.unrecorded else _NOT_ENDED
                return json_response(wire.to_json(Cleaned(removed=False, detail=why)))
        cleaned = await self._instance.outpost_clean(worker=worker, force=force)
        if cleaned.removed and place is not None:
            found = await asyncio.to_thread(place.record.read, worker)
            if found is not None and found.result is None and not force:
                return json_response(wire.to_json(Cleaned(removed=False, detail=_NOT_ENDED)))
            if (log := place.log(worker, owner)) is not None:
                await asyncio.to_thread(log.forget)
            await asyncio.to_thread(place.record.forget, worker)
        if cleaned.removed:
            await self._taking.forget(worker)
        return json_response(wire.to_json(cleaned))

    async def _here(self, worker: str, params: Params) -> Here | None:
        """Return a worker of this instance, None where it is not here.

        Raises:
            ConflictError: the worker that is here is of another order than the caller says, or
                another machine has ordered it.
            UsageError: what he says is no order.
        """
        try:
            here = await self._taking.here(worker)
            status = await asyncio.to_thread(self._instance.status_of, worker)
        except NotFoundError:
            return None
        if params.get("order") is None:
            return here
        order = wire.from_json(Order, params["order"])
        await asyncio.to_thread(here.check_owner, order.owner)
        if status.digest not in ("", wire.digest(order)):
            raise not_yours(worker)
        return here

    async def _place(self, worker: str, params: Params) -> tuple[Place | None, Order | None]:
        """Return where a worker is kept, and its order, as a caller says; None where he does not.

        Raises:
            UsageError: what he says is no order, or one of another worker.
        """
        order = _order(worker, params)
        if order is None:
            return None, None
        credentials = word(params, "git_credentials", "") or ""
        return await asyncio.to_thread(self._taking.place, order, credentials), order

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


def _order(worker: str, params: Params) -> Order | None:
    """Return the order of a worker as a caller says it; None where he does not.

    Raises:
        UsageError: it is none, or that of another worker.
    """
    if params.get("order") is None:
        return None
    order = wire.from_json(Order, params["order"])
    asked.check(order)
    if order.worker != worker:
        raise UsageError(f"the `order` of the request is not that of {worker[:120]!a}")
    return order


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
