"""The entry point of the package: the commands of the mayor, and what it does by itself."""

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
    from outpost_mayor.commands.notify import notify
    from outpost_mayor.commands.queue import queue
    from outpost_mayor.commands.schedule import schedule
    from outpost_mayor.commands.serve import serve

    return [queue, batch, serve, schedule, notify]


@hookimpl
def outpost_services(manager: object) -> Mapping[str, Callable[[], Awaitable[None]]]:
    """Return what `outpost serve` does beside hosting others."""
    from outpost_mayor.dispatch.dispatcher import Dispatcher
    from outpost_mayor.notify.notifier import Notifier
    from outpost_mayor.retries.settler import Settler
    from outpost_mayor.schedules.scheduler import Scheduler
    from outpost_mayor.serving.follow import Follower

    manager = cast("Manager", manager)
    return {
        "dispatch": Dispatcher(manager).run,
        "settle": Settler(manager).run,
        "follow": Follower(manager).run,
        "schedules": Scheduler(manager).run,
        "notify": Notifier(manager).run,
    }
