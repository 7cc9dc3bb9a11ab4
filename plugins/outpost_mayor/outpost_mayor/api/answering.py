"""Answering what comes at the sockets of the API.

The framework is imported when somebody connects: a mayor that nobody asks does not pay for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from outpost_shared.backoff import Backoff
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_manager.manager import Manager
    from outpost_mayor.api.listen import Doors

_log = Logger("api")


async def answer(manager: Manager, doors: Doors) -> None:
    """Answer requests until this is cancelled; what fails is begun again after a pause.

    Args:
        manager: an open one.
        doors: the sockets.
    """
    pauses = Backoff(1.0, 60.0)
    while True:
        await _knock(doors)
        try:
            await asyncio.to_thread(_framework)
            from outpost_mayor.api.serving import serve

            await serve(manager, doors)
        except Exception as error:  # noqa: BLE001 - the mayor works without its API too
            pause = pauses.pause()
            _log.warning("the API failed, and begins again in %g s: %s", pause, error, error=error)
            await asyncio.sleep(pause)


def _framework() -> None:
    """Import what answers, beside the event loop."""
    from outpost_mayor.api import serving  # noqa: F401 - what it costs is the import


async def _knock(doors: Doors) -> None:
    """Wait until somebody connects."""
    loop = asyncio.get_running_loop()
    somebody = asyncio.Event()
    ends = [doors.local, *doors.remote]
    for each in ends:
        loop.add_reader(each, somebody.set)
    try:
        await somebody.wait()
    finally:
        for each in ends:
            loop.remove_reader(each)
