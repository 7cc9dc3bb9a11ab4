"""One order, in a container that runs nothing else: what a job of Cloud Run does.

The order is in the environment, and how it ends is on record: nobody can ask a job.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import sys
import zlib
from collections.abc import MutableMapping
from contextlib import aclosing
from typing import Final

from outpost_cloudrun.server import asked
from outpost_cloudrun.server.bucket import Bucket
from outpost_cloudrun.server.instance import Instance
from outpost_cloudrun.server.serving import LAST, MOVE
from outpost_cloudrun.server.settings import Settings
from outpost_cloudrun.server.taking import Taking
from outpost_cloudrun.server.watching import Watching
from outpost_cloudrun.server.web import MOST_BODY
from outpost_core.errors import UsageError
from outpost_worker.container.signals import on_end

ORDER: Final = "OUTPOST_ORDER"
ORDER_OBJECT: Final = "OUTPOST_ORDER_OBJECT"


def body_of(environ: MutableMapping[str, str]) -> bytes:
    """Return the body of `POST /work` that the environment holds or names, and take it out.

    Raises:
        UsageError: there is none, or it is no order.
        UnreachableError: the bucket that it is in cannot be asked.
    """
    text, name = environ.pop(ORDER, ""), environ.pop(ORDER_OBJECT, "")
    if text:
        try:
            return _unpacked(base64.b64decode(text, validate=True))
        except binascii.Error:
            raise UsageError(f"{ORDER} is not base64") from None
    bucket, slash, path = name.removeprefix("gs://").partition("/")
    if not slash or not name.startswith("gs://"):
        raise UsageError(
            f"the job has no order: neither {ORDER} nor {ORDER_OBJECT}=gs://BUCKET/OBJECT is set",
            hint="jobs are made by `outpost spawn`, for an outpost with mode: job",
        )
    found = Bucket(bucket).get(path, MOST_BODY)
    if found is None or found[1] is None:
        raise UsageError(f"the order {name} is not there, or too large")
    return _unpacked(found[1])


def _unpacked(data: bytes) -> bytes:
    packed = zlib.decompressobj()
    try:
        body = packed.decompress(data, MOST_BODY)
    except zlib.error:
        raise UsageError("the order cannot be unpacked") from None
    if packed.unconsumed_tail or not packed.eof:
        raise UsageError(f"the order is cut off, or has more than {MOST_BODY} bytes")
    return body


def run(settings: Settings, body: bytes) -> int:
    """Run an order to its end; returns the exit code: 0 where its end is on record as done.

    Also 0 where the record had a result already, since then there is nothing to be done.

    Args:
        settings: of this program.
        body: as of `POST /work`.

    Raises:
        OutpostError: it was not started.
    """
    code = asyncio.run(_run(settings, body))
    sys.stderr.flush()
    return code


async def _run(settings: Settings, body: bytes) -> int:
    wanted = asked.parse(body, settings)
    instance = Instance(settings)
    taking = Taking(settings, instance, Watching(instance), final=True)
    loop = asyncio.get_running_loop()
    ending: list[asyncio.Task[None]] = []

    def end() -> None:
        if not ending:
            loop.call_later(LAST, os._exit, 1)
            ending.append(loop.create_task(taking.move(MOVE)))

    on_end(end)
    stream = await taking.take(wanted)
    ours: bool | None = None
    last = ""
    async with aclosing(stream) as lines:
        async for line in lines:
            said = json.loads(line)
            if "claimed_by" in said:
                _say(f"{said['worker']} is run by {said['claimed_by']}; this job has nothing to do")
                return 1
            if ours is None:  # else the record told at once how it had ended
                ours = "claim" in said and "result" not in said
            about = " ".join(filter(None, (said["worker"], said["status"], said["detail"])))
            if about != last:
                _say(about)
            last = about
            if "result" in said:
                return 0 if not ours or said["status"] == "done" else 1
    return 1


def _say(text: str) -> None:
    """Tell the job's log how it goes; what the agent prints is on record, and not in there."""
    sys.stderr.write(f"outpost: {text}\n")
    sys.stderr.flush()
