"""The entry point of the package: brings the commands of the queue and `outpost serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from outpost_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from outpost_manager.manager import Manager

OUTPOST_API = 1


@hookimpl
def outpost_commands() -> Sequence[object]:
    """Return the commands of this package."""
    from outpost_mayor.commands.batch import batch
    from outpost_mayor.commands.queue import queue

    return [queue, batch]


@hookimpl
def outpost_services(manager: object) -> Mapping[str, Callable[[], Awaitable[None]]]:
    """Return what `outpost serve` does beside hosting others."""
    from outpost_mayor.dispatch.dispatcher import Dispatcher
    from outpost_mayor.retries.settler import Settler

    manager = cast("Manager", manager)
    return {"dispatch": Dispatcher(manager).run, "settle": Settler(manager).run}
