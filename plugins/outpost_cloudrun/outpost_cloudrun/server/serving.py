"""Carries the application over HTTP/2 (prior knowledge) and HTTP/1.1, by granian.

Granian runs inside of this process's own event loop, as its `embed` server, which it calls
experimental: so it is pinned, and this program ends itself when it does not end in time.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import traceback
from typing import TYPE_CHECKING, Final

from outpost_cloudrun.server import orphans
from outpost_cloudrun.server.instance import Instance
from outpost_cloudrun.server.settings import Settings
from outpost_cloudrun.server.taking import Taking
from outpost_cloudrun.server.watching import Watching
from outpost_cloudrun.server.web import MOST_HEADERS, Application
from outpost_cloudrun.server.work import Work
from outpost_shared.backoff import every
from outpost_worker.container.signals import on_end

if TYPE_CHECKING:
    from granian.server.embed import Server

#: Seconds after a SIGTERM when this process ends at the latest: Cloud Run kills it after 10.
LAST: Final = 9.0
#: Seconds of these in which checkpoints are pushed, streams get their last lines, and what was
#: written to them leaves.
MOVE: Final = 7.5
_LAST_LINES: Final = 1.0
_FLUSH: Final = 0.05
#: Streams of one connection of HTTP/2, and requests of all connections.
_STREAMS: Final = 1000
_REQUESTS: Final = 4096


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit code."""
    _more_files()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_serve(settings))
    except KeyboardInterrupt:
        return 130
    sys.stderr.flush()
    # a thread that hangs on a dead disk or line would keep this process
    os._exit(0)


async def _serve(settings: Settings) -> None:
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings, HTTP2Settings
    from granian.server.embed import Server

    instance = Instance(settings)
    taking = Taking(settings, instance, Watching(instance))
    work = Work(settings, instance, taking)
    app = Application(work.router(), token=settings.token, streams=settings.streams)
    server = Server(
        app,
        settings.host,
        settings.port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.auto,
        websockets=False,
        backlog=1024,
        backpressure=_REQUESTS,
        http1_settings=HTTP1Settings(max_buffer_size=MOST_HEADERS + 8192),
        http2_settings=HTTP2Settings(
            max_concurrent_streams=_STREAMS, max_headers_size=2 * MOST_HEADERS
        ),
        log_enabled=False,
    )
    loop = asyncio.get_running_loop()

    ending: list[asyncio.Task[None]] = []

    def end() -> None:
        if not ending:
            loop.call_later(LAST, os._exit, 0)
            ending.append(loop.create_task(_end(server, app, taking)))

    on_end(end)
    if settings.life is not None:  # whoever made this container may have forgotten it
        loop.call_later(settings.life, end)
    besides = [loop.create_task(taking.resume())]
    if os.getpid() == 1:
        besides.append(loop.create_task(orphans.collect()))
    await server.serve()
    for task in besides:
        task.cancel()


async def _end(server: Server, app: Application, taking: Taking) -> None:
    """Bring all work away from here, let each stream have its last line, and stop serving."""
    try:
        await taking.move(MOVE)
        app.ending.set()
        async for _ in every(0.02, within=_LAST_LINES).rounds():
            if not app.streams:
                break
        await asyncio.sleep(_FLUSH)
    except Exception:  # noqa: BLE001 - it ends all the same
        sys.stderr.write(traceback.format_exc())
    server.stop()  # type: ignore[no-untyped-call]


def _more_files() -> None:
    """Take as many open files as there may be: each stream and each worker wants some."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
