"""A server of many streams, for `benchmarks.cloudrun`; an ASGI application for granian.

`POST /work` answers as a container does: a worker that says a line every `STREAM_GAP` seconds and
never ends. `GET /lines` answers 20 lines, `GET /data` 64 MiB.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

GAP = float(os.environ.get("STREAM_GAP", "2"))
PIECE = os.urandom(1 << 16)
PIECES = 1024
LINES = 20


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer one request."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/data":
        for _ in range(PIECES):
            await send(part(PIECE))
    elif scope["path"] == "/lines":
        for number in range(LINES):
            await send(part(b'{"seq": %d, "status": "working"}\n' % number))
            await asyncio.sleep(0.05)
    else:
        await worker(json.loads(body), send)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def worker(order: dict[str, Any], send: Any) -> None:
    """Say a line now and then, for ever."""
    offset, seq = order["offset"], 0
    while True:
        seq += 1
        logs = f"line {seq} of {order['issue_id']}\n"
        said = {
            "seq": seq, "status": "working", "digest": order["digest"], "instance": "ab" * 8,
            "offset": offset, "logs": logs,
        }  # fmt: skip
        await send(part(json.dumps(said).encode() + b"\n"))
        offset += len(logs)
        await asyncio.sleep(GAP)


def part(data: bytes) -> dict[str, Any]:
    """Return a piece of an answer."""
    return {"type": "http.response.body", "body": data, "more_body": True}
