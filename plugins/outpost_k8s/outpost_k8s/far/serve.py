"""Answers what is asked about the worker of this pod, on standard input and output.

It is started by an exec into the pod, once for each caller, beside the `run` that works. Besides
the methods of the stdio protocol (docs/reference/protocol.md) and those of repositories that
travel (`outpost_worker.hosting.methods`):

- `x-state {}` → `{phase, since, worker, digest, claim}`: what `run` is at, see `notes`;
- `x-bundle {worker}` → `{files: [{name, size, path}]}`: the work that no remote took, as files;
- `x-bundle {worker, name, offset}` → `{data, size}`: bytes of one of them;
- `x-collected {worker}` → null: the work was fetched, so that the pod need not stay for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from outpost_core import __version__
from outpost_core.errors import NotFoundError
from outpost_core.types import Json
from outpost_k8s.far import rescue
from outpost_k8s.far.settings import Settings
from outpost_k8s.far.workers import AskedWorkers
from outpost_worker.hosting.methods import METHODS as HOSTING
from outpost_worker.serving import server
from outpost_worker.serving.methods import Answer
from outpost_worker.serving.request import Params, number, word

#: Bytes of one answer.
_CHUNK: Final = 512 << 10
_LARGEST: Final = 2**53
_OF_STATE: Final = ("phase", "since", "worker", "digest", "claim")


def serve(settings: Settings) -> int:
    """Serve until the caller hangs up; the worker keeps running. Returns the exit code."""

    def build(name: str, options: Mapping[str, Json]) -> AskedWorkers:
        # the pod's environment says all else that there is to say
        workers = AskedWorkers(name or settings.pod or "this pod", settings)
        controller = options.get("controller", "")
        workers.controller = controller if isinstance(controller, str) else ""
        return workers

    return server.main(build, server=f"outpost-k8s {__version__}", extra={**HOSTING, **METHODS})


async def state(workers: AskedWorkers, params: Params) -> Json:
    """Say what `run` is at."""
    del params
    said = await asyncio.to_thread(workers.notes.state)
    return {name: said.get(name) for name in _OF_STATE}


async def bundle(workers: AskedWorkers, params: Params) -> Answer:
    """Say which files hold work that no remote took, or return bytes of one."""
    worker = word(params, "worker")
    if params.get("name") is None:
        found = await asyncio.to_thread(rescue.find, workers.root, worker)
        return {"files": [each._asdict() for each in found]}
    name, offset = word(params, "name"), int(number(params, "offset", _LARGEST, 0))
    data, size = await asyncio.to_thread(rescue.read, workers.root, worker, name, offset, _CHUNK)
    return {"data": data, "size": size}


async def collected(workers: AskedWorkers, params: Params) -> Json:
    """Note that the work was fetched.

    Raises:
        NotFoundError: this pod has another worker.
    """
    worker = word(params, "worker")
    if worker != workers.own()[0]:
        raise NotFoundError(f"{ascii(worker[:120])[1:-1]} is not the worker of this pod")
    await asyncio.to_thread(workers.notes.note_collected)
    return None


METHODS: Final[dict[str, Any]] = {
    "x-state": state,
    "x-bundle": bundle,
    "x-collected": collected,
}
