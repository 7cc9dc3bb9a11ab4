"""A far side whose workers are made of time: hundreds of streams cost next to nothing; a program.

Each worker prints a line every so often from its first request on, whoever asks, also after a
restart. `PORT`, `FOLDER` (when each worker began), `LINES` and `EVERY` (seconds) say the rest.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["FOLDER"])
LINES = int(os.environ["LINES"])
EVERY = float(os.environ["EVERY"])


def text(worker: str) -> bytes:
    return "".join(f"{worker} {number}\n" for number in range(LINES)).encode()


def begun(worker: str) -> float:
    path = FOLDER / worker
    try:
        with path.open("x") as file:
            file.write(str(time.time()))
    except FileExistsError:
        pass
    return float(path.read_text() or time.time())


async def answer(body: dict[str, Any], send: Any) -> None:
    order = body["order"]
    worker = f"{order['issue']['id']}.{order['attempt']}"
    since, whole, offset = begun(worker), text(worker), int(body["offset"])
    lines = whole.splitlines(keepends=True)
    about = {"digest": body["digest"], "instance": "i1", "worker": worker, "status": "working"}

    async def say(**more: Any) -> None:
        said = json.dumps({"seq": 1, **about, **more}).encode() + b"\n"
        await send({"type": "http.response.body", "body": said, "more_body": True})

    await say()
    while True:
        there = min(int((time.time() - since) / EVERY), LINES)
        held = b"".join(lines[:there])[offset:]
        if held:
            await say(offset=offset, logs=held.decode())
            offset += len(held)
        if there == LINES:
            break
        await asyncio.sleep(EVERY)
    await say(status="done", result={"state": "done"})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    kind = [(b"content-type", b"application/x-ndjson")]
    await send({"type": "http.response.start", "status": 200, "headers": kind})
    await answer(json.loads(body), send)


async def main() -> None:
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP2Settings
    from granian.server.embed import Server

    server = Server(
        app, "127.0.0.1", int(os.environ["PORT"]), interface=Interfaces.ASGINL,
        http=HTTPModes.auto, websockets=False, backpressure=4096, log_enabled=False,
        http2_settings=HTTP2Settings(max_concurrent_streams=100),
    )  # fmt: skip
    await server.serve()


if __name__ == "__main__":
    asyncio.run(main())
