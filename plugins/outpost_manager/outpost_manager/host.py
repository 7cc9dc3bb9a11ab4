"""The heart of a program that stays: services, signals, and a configuration that may change.

`outpost serve` and its like run this around what else they do.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError
from outpost_shared.log import Logger

if TYPE_CHECKING:
    from outpost_manager.manager import Manager
    from outpost_manager.plugins.services import Services

#: Seconds between two looks at the configuration file.
LOOK: Final = 2.0
_log = Logger("host")


async def stay(
    manager: Manager,
    end: asyncio.Event | None = None,
    *,
    begun: Callable[[Services], None] | None = None,
    look: float = LOOK,
) -> None:
    """Host the services of plugins until this program is told to end.

    SIGTERM and SIGINT end it. The configuration is read again when its file changes, and at SIGHUP;
    a mistake in that is logged and changes nothing. Services are cancelled and waited for; workers
    keep running.

    Args:
        manager: an open one.
        end: ends it too, once it is set.
        begun: is told the services once they run.
        look: seconds between two looks at the configuration file.
    """
    end = end or asyncio.Event()
    reloading = asyncio.Event()
    loop = asyncio.get_running_loop()
    taken = []
    for number, act in (
        (signal.SIGTERM, end.set), (signal.SIGINT, end.set), (signal.SIGHUP, reloading.set),
    ):  # fmt: skip
        with suppress(ValueError, RuntimeError):  # not on the main thread: the caller sets `end`
            loop.add_signal_handler(number, act)
            taken.append(number)
    reload = asyncio.create_task(_reload(manager, reloading, look))
    try:
        async with manager.services() as services:
            if begun is not None:
                begun(services)
            await end.wait()
    finally:
        reload.cancel()
        await asyncio.gather(reload, return_exceptions=True)
        for number in taken:
            loop.remove_signal_handler(number)


async def _reload(manager: Manager, asked: asyncio.Event, look: float) -> None:
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(asked.wait(), look)
        if not await manager.config_changed() and not asked.is_set():
            continue
        asked.clear()
        try:
            await manager.reload()
        except OutpostError as error:
            _log.warning("the configuration stays as it was: %s", error)
